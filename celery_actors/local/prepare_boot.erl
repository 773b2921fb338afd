%% Prepares a faster start of RabbitMQ; run by fast_boot.py as
%%   erl -noinput -boot start_clean -eval "<this file's text>" -extra Plugins Out
%%
%% RabbitMQ looks for its boot steps and feature flags in every module of every loaded application,
%% Erlang's own libraries included, and so loads (and compiles to machine code) hundreds of modules
%% that have none. Here the applications that RabbitMQ depends on are described once more, in a
%% directory that goes first on the code path, naming only the modules with something to be found;
%% and likewise in the boot script for the applications that it loads itself. Modules that are not
%% named are still found and loaded when they are called.

[Plugins, Out] = init:get_plain_arguments(),
Root = code:root_dir(),

Find = fun(App) ->
    Name = atom_to_list(App),
    Patterns = [Plugins ++ "/" ++ Name ++ "-*/ebin/" ++ Name ++ ".app",
                Root ++ "/lib/" ++ Name ++ "-*/ebin/" ++ Name ++ ".app"],
    case lists:append([filelib:wildcard(Pattern) || Pattern <- Patterns]) of
        [File | _] -> File
    end
end,

HasSomething = fun(Beam) ->
    {ok, {Module, [{attributes, Attributes}]}} = beam_lib:chunks(Beam, [attributes]),
    Found = lists:any(fun({Key, _}) -> lists:prefix("rabbit_", atom_to_list(Key)) end, Attributes),
    {Found, Module}
end,

Describe = fun(File) ->
    {ok, [{application, App, Properties}]} = file:consult(File),
    Beams = filelib:wildcard(filename:dirname(File) ++ "/*.beam"),
    IsRabbit = lists:prefix(Plugins, File),
    Named = [Module || IsRabbit, Beam <- Beams, {true, Module} <- [HasSomething(Beam)]],
    Short = {application, App, lists:keystore(modules, 1, Properties, {modules, Named})},
    Text = io_lib:format("~p.~n", [Short]),
    ok = file:write_file(filename:join(Out, atom_to_list(App) ++ ".app"), Text),
    proplists:get_value(applications, Properties, [])
end,

InBootScript = [kernel, stdlib, sasl],
Walk = fun
    Walk([], _) -> ok;
    Walk([App | Rest], Seen) ->
        case lists:member(App, Seen) of
            true -> Walk(Rest, Seen);
            false -> Walk(Describe(Find(App)) ++ Rest, [App | Seen])
        end
end,
Walk([rabbit], InBootScript),

{ok, Boot} = file:read_file(Root ++ "/bin/start_sasl.boot"),
{script, Id, Commands} = binary_to_term(Boot),
Shorten = fun
    ({apply, {application, load, [{application, App, Properties}]}}) ->
        Short = lists:keystore(modules, 1, Properties, {modules, []}),
        {apply, {application, load, [{application, App, Short}]}};
    (Command) -> Command
end,
Script = {script, Id, lists:map(Shorten, Commands)},
ok = file:write_file(filename:join(Out, "actors.boot"), term_to_binary(Script)),
halt(0).
