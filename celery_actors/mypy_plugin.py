"""mypy's plugin: what a call of an actor or a remote function takes, and returns.

Turned on in mypy's configuration::

    [tool.mypy]
    plugins = ["celery_actors.mypy_plugin"]

With it mypy knows a class under ``@remote`` as an actor class (and still as a class, where one
is annotated), its constructor's parameters, each method of a handle with parameters and result,
and the same of remote functions.  Each parameter takes a value or an ``ObjectRef`` of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from mypy.errorcodes import ATTR_DEFINED, CALL_ARG
from mypy.nodes import (
    ARG_POS,
    CallExpr,
    Decorator,
    FuncDef,
    IntExpr,
    ListExpr,
    MemberExpr,
    NameExpr,
    OverloadedFuncDef,
    StrExpr,
    SymbolNode,
    TupleExpr,
    TypeInfo,
    Var,
)
from mypy.plugin import (
    AttributeContext,
    ClassDefContext,
    FunctionContext,
    MethodContext,
    Plugin,
)
from mypy.typeops import make_simplified_union
from mypy.types import (
    AnyType,
    CallableType,
    FunctionLike,
    Instance,
    NoneType,
    Overloaded,
    Parameters,
    ParamSpecType,
    ProperType,
    TupleType,
    Type,
    TypeOfAny,
    TypeType,
    TypeVarType,
    UnionType,
    UnpackType,
    get_proper_type,
)

if TYPE_CHECKING:
    from mypy.checker import TypeChecker

__all__ = ["plugin"]

_REMOTE = "celery_actors.remote.remote"
_METHOD = "celery_actors.remote.method"
_GET = "celery_actors.api.get"
_ACTOR_CLASS = "celery_actors.remote.ActorClass"
_REMOTE_FUNCTION = "celery_actors.remote.RemoteFunction"
_ACTOR_HANDLE = "celery_actors.handle.ActorHandle"
_ACTOR_METHOD = "celery_actors.handle.ActorMethod"
_ACTOR_TYPE = "celery_actors.declarations.ActorType"
_DECORATOR = "celery_actors.remote.RemoteDecorator"
_REF = "celery_actors.refs.ObjectRef"
_GENERATOR = "celery_actors.generators.ObjectRefGenerator"

#: Under this name a class's metadata say that it is an actor class.
_IS_ACTOR = "celery_actors.actor"
#: Under this one, which of its methods were given ``num_returns``, and what.
_RETURNS = "celery_actors.returns"

_COROUTINES = ("typing.Coroutine", "typing.Awaitable", "types.CoroutineType")
_STREAMS = ("typing.Generator", "typing.AsyncGenerator")
_ITERATORS = ("typing.Iterator", "typing.AsyncIterator", "typing.Iterable", "typing.AsyncIterable")

_UNKNOWN = AnyType(TypeOfAny.special_form)


def plugin(version: str) -> type[Plugin]:
    """Return the plugin: mypy calls this."""
    del version
    return ActorsPlugin


class ActorsPlugin(Plugin):
    """Tells mypy what the code says at runtime only."""

    def get_class_decorator_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        """``@remote`` on a class."""
        return _make_actor_class if fullname == _REMOTE else None

    def get_customize_class_mro_hook(
        self, fullname: str
    ) -> Callable[[ClassDefContext], None] | None:
        """Any class: it may have methods under ``@method``, and become an actor class later."""
        return _note_returns

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """``handle.method``, and every ``.remote``."""
        owner, _, name = fullname.rpartition(".")
        if owner == _ACTOR_HANDLE:
            return None if self._class(owner).get(name) else partial(self._actor_method, name)
        if name == "remote":
            if owner == _ACTOR_CLASS:
                return self._creation
            if owner in (_ACTOR_METHOD, _REMOTE_FUNCTION):
                return self._call
        return None

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """``remote(function)``, ``get([…])``, and a call of an actor class itself."""
        if fullname == _REMOTE:
            return self._remote_function
        if fullname == _GET:
            return _values
        found = self.lookup_fully_qualified(fullname)
        if found and isinstance(found.node, TypeInfo) and found.node.metadata.get(_IS_ACTOR):
            return _refuse_instance
        return None

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """``remote(option=…)(function)``, and ``Class.options(…)``."""
        if fullname == f"{_DECORATOR}.__call__":
            return self._remote_function
        return self._changed_class if fullname.endswith(".options") else None

    def _actor_method(self, name: str, ctx: AttributeContext) -> Type:
        """``handle.name``: the method of that name, as a remote one."""
        arms = ctx.type.items if isinstance(ctx.type, UnionType) else [ctx.type]
        methods: list[Type] = []
        for arm in map(get_proper_type, arms):
            # Where a union is read from, this is called once for each of its handles.
            if isinstance(arm, Instance) and arm.type.fullname == _ACTOR_HANDLE:
                methods.append(self._method_of(name, get_proper_type(arm.args[0]), ctx))
        return make_simplified_union(methods) if methods else ctx.default_attr_type

    def _method_of(self, name: str, held: ProperType, ctx: AttributeContext) -> Type:
        untyped = ctx.default_attr_type
        if isinstance(held, TypeVarType):
            held = get_proper_type(held.upper_bound)
        if not isinstance(held, Instance) or held.type.fullname == "builtins.object":
            return untyped
        symbol = held.type.get(name)
        if symbol is None and held.type.fallback_to_any:
            return untyped
        if symbol is None or not _is_method(symbol.node) or _is_of_every_object(name):
            ctx.api.fail(
                f'Actor "{held.type.name}" has no remote method "{name}"',
                ctx.context,
                code=ATTR_DEFINED,
            )
            return AnyType(TypeOfAny.from_error)
        checker = cast("TypeChecker", ctx.api)
        bound = get_proper_type(
            checker.expr_checker.analyze_external_member_access(name, held, ctx.context)
        )
        if not isinstance(bound, CallableType):
            return untyped  # e.g. an overloaded one
        noted = [kind.metadata.get(_RETURNS, {}).get(name) for kind in held.type.mro]
        returns = next((number for number in noted if number is not None), None)
        value = bound.ret_type
        proper = get_proper_type(value)
        if isinstance(proper, Instance) and proper.type.fullname in _COROUTINES:
            value = proper.args[-1]  # in an actor it is awaited
        result = self._result(value, _generates(symbol.node), returns)
        return self._instance(_ACTOR_METHOD, _parameters(bound), result)

    def _remote_function(self, ctx: FunctionContext | MethodContext) -> Type:
        """``remote(function)``, or as its decorator."""
        if not ctx.arg_kinds or ctx.arg_kinds[0] != [ARG_POS]:
            return ctx.default_return_type
        target = get_proper_type(ctx.arg_types[0][0])
        if not isinstance(target, FunctionLike) or target.is_type_obj():
            return ctx.default_return_type
        if not isinstance(target, CallableType):
            return self._instance(_REMOTE_FUNCTION, _UNKNOWN, _UNKNOWN)
        generates = isinstance(target.definition, SymbolNode) and _generates(target.definition)
        result = self._result(target.ret_type, generates, None)
        return self._instance(_REMOTE_FUNCTION, _parameters(target), result)

    def _result(self, value: Type, generates: bool, returns: int | str | None) -> Type:
        """Return what ``remote`` returns of a function that returns ``value``.

        :param generates: the function has a ``yield``.
        :param returns: the number of its return values, where one was given.
        """
        proper = get_proper_type(value)
        name = proper.type.fullname if isinstance(proper, Instance) else ""
        streams = generates or name in _STREAMS
        if returns == 0:
            return NoneType()
        if returns == "streaming" or (returns is None and streams):
            yields: Type = _UNKNOWN
            if isinstance(proper, Instance) and name in _STREAMS + _ITERATORS:
                yields = proper.args[0]
            return self._instance(_GENERATOR, yields)
        if returns is None or (returns == 1 and not streams):
            return self._instance(_REF, value)
        if isinstance(returns, int) and returns > 1:
            return self._instance("builtins.list", self._instance(_REF, _UNKNOWN))
        return _UNKNOWN

    def _call(self, ctx: AttributeContext) -> Type:
        """``remote`` of a method or function."""
        default = get_proper_type(ctx.default_attr_type)
        if not isinstance(ctx.type, Instance) or not isinstance(default, CallableType):
            return default
        parameters, result = map(get_proper_type, ctx.type.args)
        if not isinstance(parameters, Parameters) or parameters.is_ellipsis_args:
            return default.copy_modified(ret_type=result)
        call = default.copy_modified(
            arg_types=parameters.arg_types,
            arg_kinds=parameters.arg_kinds,
            arg_names=parameters.arg_names,
            variables=parameters.variables,
            ret_type=result,
        )
        return _one_of(self._taking_refs(call))

    def _creation(self, ctx: AttributeContext) -> Type:
        """``remote`` of an actor class: of ``remote(Class)``, or a class under ``@remote``."""
        default = get_proper_type(ctx.default_attr_type)
        made: ProperType = ctx.type
        if isinstance(made, TypeType):
            made = made.item
        elif isinstance(made, Instance) and made.type.fullname == _ACTOR_CLASS:
            made = get_proper_type(made.args[0])
        if isinstance(made, Instance):
            checker = cast("TypeChecker", ctx.api)
            made = get_proper_type(checker.expr_checker.analyze_type_type_callee(made, ctx.context))
        if not isinstance(made, FunctionLike) or not isinstance(default, CallableType):
            return default
        calls = [
            item.copy_modified(
                ret_type=self._instance(_ACTOR_HANDLE, item.ret_type),
                fallback=default.fallback,
                name=default.name,
            )
            for item in made.items
        ]
        return _one_of([variant for call in calls for variant in self._taking_refs(call)])

    def _changed_class(self, ctx: MethodContext) -> Type:
        """``Class.options(…)`` of a class under ``@remote``."""
        made = ctx.type
        if isinstance(made, FunctionLike) and made.is_type_obj():
            made = get_proper_type(made.items[0].ret_type)
        elif isinstance(made, TypeType):
            made = made.item
        else:
            return ctx.default_return_type
        default = get_proper_type(ctx.default_return_type)
        if not isinstance(default, Instance) or default.type.fullname != _ACTOR_CLASS:
            return default  # a method of its own
        return self._instance(_ACTOR_CLASS, made)

    def _taking_refs(self, call: CallableType) -> list[CallableType]:
        """Return the call with parameters that take refs as well.

        Where a parameter is ``T`` and no more, mypy can't tell what T is in ``T | ObjectRef[T]``:
        then there are two variants, one with refs and one without.
        """

        def taking(kind: Type, alone: bool) -> Type:
            proper = get_proper_type(kind)
            if isinstance(proper, (AnyType, ParamSpecType, UnpackType)):
                return kind
            ref = self._instance(_REF, kind)
            if isinstance(proper, TypeVarType):
                return ref if alone else kind
            return make_simplified_union([kind, ref])

        ambiguous = any(isinstance(get_proper_type(kind), TypeVarType) for kind in call.arg_types)
        return [
            call.copy_modified(arg_types=[taking(kind, alone) for kind in call.arg_types])
            for alone in ((True, False) if ambiguous else (False,))
        ]

    def _class(self, fullname: str) -> TypeInfo:
        found = self.lookup_fully_qualified(fullname)
        assert found is not None, fullname
        assert isinstance(found.node, TypeInfo), fullname
        return found.node

    def _instance(self, fullname: str, *args: Type) -> Instance:
        return Instance(self._class(fullname), args)


def _make_actor_class(ctx: ClassDefContext) -> None:
    """Give the class the metaclass from which it has ``remote`` and ``options``."""
    found = ctx.api.lookup_fully_qualified_or_none(_ACTOR_TYPE)
    if found is None or not isinstance(found.node, TypeInfo):
        return
    info = ctx.cls.info
    info.metadata[_IS_ACTOR] = {"is": True}
    info.declared_metaclass = info.metaclass_type = Instance(found.node, [])


def _note_returns(ctx: ClassDefContext) -> None:
    """Keep ``@method(num_returns=…)``: decorators are not there any more in a cached module."""
    noted: dict[str, int | str] = {}
    for statement in ctx.cls.defs.body:
        if not isinstance(statement, Decorator):
            continue
        for decorator in statement.original_decorators:
            if not isinstance(decorator, CallExpr) or "num_returns" not in decorator.arg_names:
                continue
            value = decorator.args[decorator.arg_names.index("num_returns")]
            written = _dotted(decorator.callee)
            if not isinstance(value, (IntExpr, StrExpr)) or not written:
                continue
            found = ctx.api.lookup_qualified(written, ctx.cls, suppress_errors=True)
            if found is not None and found.fullname == _METHOD:
                noted[statement.func.name] = value.value
    if noted:
        ctx.cls.info.metadata[_RETURNS] = noted


def _dotted(expression: object) -> str:
    if isinstance(expression, NameExpr):
        return expression.name
    if isinstance(expression, MemberExpr):
        before = _dotted(expression.expr)
        return f"{before}.{expression.name}" if before else ""
    return ""


def _is_method(node: SymbolNode | None) -> bool:
    if isinstance(node, (FuncDef, OverloadedFuncDef)):
        return not node.is_property
    if isinstance(node, Decorator):
        return not node.var.is_property
    # A callable put into the class by assignment; one that instances have is not remote.
    return (
        isinstance(node, Var)
        and node.is_initialized_in_class
        and isinstance(get_proper_type(node.type), FunctionLike)
    )


def _is_of_every_object(name: str) -> bool:
    return name.startswith("__") and name in dir(object)


def _generates(node: SymbolNode | None) -> bool:
    """Whether it is a function with ``yield``."""
    if isinstance(node, Decorator):
        node = node.func
    return isinstance(node, FuncDef) and (node.is_generator or node.is_async_generator)


def _parameters(function: CallableType) -> Type:
    if function.is_ellipsis_args:
        return AnyType(TypeOfAny.explicit)
    return Parameters(
        function.arg_types,
        function.arg_kinds,
        function.arg_names,
        variables=function.variables,
    )


def _one_of(variants: list[CallableType]) -> FunctionLike:
    return variants[0] if len(variants) == 1 else Overloaded(variants)


def _values(ctx: FunctionContext) -> Type:
    """``get([a, b])``: a list, of which each place has a type of its own."""
    default = get_proper_type(ctx.default_return_type)
    refs = ctx.args[0][0] if ctx.args and ctx.args[0] else None
    if not isinstance(refs, (ListExpr, TupleExpr)) or not isinstance(default, Instance):
        return default
    values: list[Type] = []
    for item in refs.items:
        ref = get_proper_type(ctx.api.get_expression_type(item))
        if not isinstance(ref, Instance) or ref.type.fullname != _REF:
            return default
        values.append(ref.args[0])
    if len(set(map(str, values))) < 2:
        return default
    return TupleType(values, default)


def _refuse_instance(ctx: FunctionContext) -> Type:
    made = get_proper_type(ctx.default_return_type)
    name = made.type.name if isinstance(made, Instance) else "the class"
    ctx.api.fail(
        f'"{name}" is an actor class and can\'t be instantiated here: use {name}.remote(…)',
        ctx.context,
        code=CALL_ARG,
    )
    return made
