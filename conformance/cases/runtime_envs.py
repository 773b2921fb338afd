"""runtime_env of actors, tasks and jobs."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from conformance.case import case
from conformance.checks import raises, run_driver, submodule


@contextmanager
def _folder(name, text):
    """A folder with one file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        yield Path(folder)


def _reader(ray):
    @ray.remote
    class Reader:
        def __init__(self, at_first=None):
            self.at_first = os.environ.get(at_first) if at_first else None

        def read(self, name):
            return os.environ.get(name)

        def first(self):
            return self.at_first

        def folder(self):
            return os.getcwd()  # noqa: PTH109 - text travels

    return Reader


@case("env_vars of an actor are in its environment, already in the constructor")
def env_vars(ray):
    actor = _reader(ray).options(runtime_env={"env_vars": {"CF_ONE": "1"}}).remote("CF_ONE")
    assert ray.get([actor.first.remote(), actor.read.remote("CF_ONE")]) == ["1", "1"]


@case("runtime_env can be given in the decorator")
def in_the_decorator(ray):
    @ray.remote(runtime_env={"env_vars": {"CF_DECORATED": "yes"}})
    class Actor:
        def read(self):
            return os.environ.get("CF_DECORATED")

    assert ray.get(Actor.remote().read.remote()) == "yes"


@case("TZ and TMPDIR among env_vars take effect")
def read_once(ray):
    @ray.remote
    class Actor:
        def ask(self):
            return time.strftime("%Z"), tempfile.gettempdir()

    with tempfile.TemporaryDirectory() as folder:
        variables = {"TZ": "Asia/Tokyo", "TMPDIR": folder}
        actor = Actor.options(runtime_env={"env_vars": variables}).remote()
        assert ray.get(actor.ask.remote()) == ("JST", folder)


@case("LC_ALL among env_vars takes effect")
def locale_variables(ray):
    @ray.remote
    class Actor:
        def ask(self):
            import locale

            return locale.setlocale(locale.LC_CTYPE)

    actor = Actor.options(runtime_env={"env_vars": {"LC_ALL": "C.UTF-8"}}).remote()
    assert ray.get(actor.ask.remote()) == "C.UTF-8"


@case("env_vars of one actor are not seen by another")
def env_vars_stay_apart(ray):
    Reader = _reader(ray)
    one = Reader.options(runtime_env={"env_vars": {"CF_TWO": "2"}}).remote()
    other = Reader.remote()
    assert ray.get(one.read.remote("CF_TWO")) == "2"
    assert ray.get(other.read.remote("CF_TWO")) is None


@case("env_vars of a task are in its environment, and not in that of the next task")
def env_vars_of_a_task(ray):
    @ray.remote
    def read():
        return os.environ.get("CF_TASK")

    assert ray.get(read.options(runtime_env={"env_vars": {"CF_TASK": "t"}}).remote()) == "t"
    assert ray.get(read.remote()) is None


@case("Tasks that a task or an actor calls inherit its env_vars")
def inherited(ray):
    @ray.remote
    def read():
        return os.environ.get("CF_INHERITED")

    @ray.remote
    class Parent:
        def ask(self):
            return ray.get(read.remote())

    parent = Parent.options(runtime_env={"env_vars": {"CF_INHERITED": "down"}}).remote()
    assert ray.get(parent.ask.remote()) == "down"


@case("env_vars that are no strings are refused with TypeError")
def env_vars_are_strings(ray):
    @ray.remote
    def work():
        pass

    with raises(TypeError):
        work.options(runtime_env={"env_vars": {"CF_NUMBER": 1}}).remote()


@case(
    "working_dir of the job is the directory in which its tasks and actors run",
    better="A single actor or task may have a local directory too; in Ray only the whole job.",
)
def working_dir(ray):
    with _folder("data.py", "VALUE = 5\n") as folder:
        said = run_driver(
            ray,
            f"""
import os
from pathlib import Path
ray.init(runtime_env={{"working_dir": {str(folder)!r}}}, log_to_driver=False)

@ray.remote
def read():
    return Path("data.py").read_text().strip(), os.getcwd()

text, where = ray.get(read.remote())
print(text, where != os.getcwd())
""",
        )
        assert said.split() == ["VALUE", "=", "5", "True"]


@working_dir.ours
def working_dir_of_an_actor(ray):
    with _folder("data.py", "VALUE = 5\n") as folder:
        actor = _reader(ray).options(runtime_env={"working_dir": str(folder)}).remote()

        @ray.remote(runtime_env={"working_dir": str(folder)})
        def read():
            return Path("data.py").read_text()

        assert ray.get(read.remote()) == "VALUE = 5\n"
        assert Path(ray.get(actor.folder.remote())) != Path.cwd()


@case("files that excludes names don't travel with working_dir")
def excludes(ray):
    with _folder("data.py", "VALUE = 5\n") as folder:
        (folder / "secret.env").write_text("password")
        (folder / "more").mkdir()
        (folder / "more" / "large.bin").write_text("0")
        env = {"working_dir": str(folder), "excludes": ["secret.env", "*.bin"]}
        said = run_driver(
            ray,
            f"""
from pathlib import Path
ray.init(runtime_env={env!r}, log_to_driver=False)

@ray.remote
def there():
    return sorted(path.name for path in Path(".").rglob("*") if path.is_file())

print(ray.get(there.remote()))
""",
        )
        assert said.strip() == "['data.py']"


@case(
    "Modules in the job's working_dir can be imported by its tasks",
    better="Those in the working_dir of a single task as well.",
)
def import_from_working_dir(ray):
    with _folder("cf_in_working_dir.py", "VALUE = 'from the directory'\n") as folder:
        said = run_driver(
            ray,
            f"""
ray.init(runtime_env={{"working_dir": {str(folder)!r}}}, log_to_driver=False)

@ray.remote
def read():
    import cf_in_working_dir
    return cf_in_working_dir.VALUE

print(ray.get(read.remote()))
""",
        )
        assert said.strip() == "from the directory"


@import_from_working_dir.ours
def import_from_working_dir_of_a_task(ray):
    with _folder("cf_in_working_dir.py", "VALUE = 'from the directory'\n") as folder:

        @ray.remote(runtime_env={"working_dir": str(folder)})
        def read():
            import cf_in_working_dir

            return cf_in_working_dir.VALUE

        assert ray.get(read.remote()) == "from the directory"


@case(
    "py_modules of the job can be imported by its actors",
    better="Those of a single actor as well, from a local directory.",
)
def py_modules(ray):
    with _folder("cf_package/__init__.py", "VALUE = 7\n") as folder:
        said = run_driver(
            ray,
            f"""
ray.init(runtime_env={{"py_modules": [{str(folder / "cf_package")!r}]}}, log_to_driver=False)

@ray.remote
class Actor:
    def read(self):
        import cf_package
        return cf_package.VALUE

print(ray.get(Actor.remote().read.remote()))
""",
        )
        assert said.strip() == "7"


@py_modules.ours
def py_modules_of_an_actor(ray):
    with _folder("cf_package/__init__.py", "VALUE = 7\n") as folder:
        package = str(folder / "cf_package")

        @ray.remote(runtime_env={"py_modules": [package]})
        class Actor:
            def read(self):
                import cf_package

                return cf_package.VALUE

        assert ray.get(Actor.remote().read.remote()) == 7


@case("A working_dir that does not exist is refused: an error that names it")
def missing_working_dir(ray):
    @ray.remote
    def work():
        pass

    with raises(ValueError, ray.exceptions.RayError, match="no-such-directory"):
        ray.get(work.options(runtime_env={"working_dir": "/no-such-directory"}).remote())


@case(
    "A runtime environment that can't be set up makes a task raise RuntimeEnvSetupError",
    better="What is seen to be wrong with it at once raises ValueError at .remote() or before.",
)
def setup_error(ray):
    with raises(ray.exceptions.RuntimeEnvSetupError):
        ray.get(_in_no_archive(ray).remote(), timeout=12)


@setup_error.ours
def setup_error_at_once(ray):
    with raises(ValueError, match="no-such-archive"):
        _in_no_archive(ray).remote()


def _in_no_archive(ray):
    @ray.remote(runtime_env={"working_dir": "file:///no-such-archive.zip"})
    def work():
        pass

    return work


@case("ray.runtime_env.RuntimeEnv is a dictionary of the fields, accepted as the option")
def runtime_env_class(ray):
    RuntimeEnv = submodule(ray, "runtime_env").RuntimeEnv
    environment = RuntimeEnv(env_vars={"CF_CLASS": "c"})
    assert environment["env_vars"] == {"CF_CLASS": "c"}
    actor = _reader(ray).options(runtime_env=environment).remote()
    assert ray.get(actor.read.remote("CF_CLASS")) == "c"


@case("An unknown field of RuntimeEnv is refused or warned of, and the known ones work")
def unknown_field(ray):
    RuntimeEnv = submodule(ray, "runtime_env").RuntimeEnv
    with raises(Exception):
        RuntimeEnv(env_vars=3)


@case("The runtime_env of init() is that of all tasks and actors of the job")
def of_the_job(ray):
    said = run_driver(
        ray,
        """
import os
ray.init(runtime_env={"env_vars": {"CF_JOB": "j", "CF_BOTH": "job"}}, log_to_driver=False)

@ray.remote
def read():
    return os.environ.get("CF_JOB"), os.environ.get("CF_BOTH")

print(ray.get(read.remote()))
own = {"env_vars": {"CF_BOTH": "own"}}
print(ray.get(read.options(runtime_env=own).remote()))
""",
    )
    assert said.splitlines() == ["('j', 'job')", "('j', 'own')"]


@case("py_executable names the command that runs the actor's Python")
def py_executable(ray):
    @ray.remote(runtime_env={"py_executable": f"{sys.executable} -X dev"})
    class Actor:
        def dev_mode(self):
            return sys.flags.dev_mode

    assert ray.get(Actor.remote().dev_mode.remote()) is True


@case("get_runtime_context().runtime_env shows the environment of the call")
def in_the_context(ray):
    @ray.remote(runtime_env={"env_vars": {"CF_SHOWN": "s"}})
    class Actor:
        def read(self):
            return dict(ray.get_runtime_context().runtime_env["env_vars"])

    assert ray.get(Actor.remote().read.remote())["CF_SHOWN"] == "s"


@case("The driver's own environment is not changed by runtime_env")
def driver_is_not_changed(ray):
    actor = _reader(ray).options(runtime_env={"env_vars": {"CF_ONLY_THERE": "1"}}).remote()
    assert ray.get(actor.read.remote("CF_ONLY_THERE")) == "1"
    assert "CF_ONLY_THERE" not in os.environ
