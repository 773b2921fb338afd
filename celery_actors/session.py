"""A program's session: ``init()`` finds or starts a cluster, ``shutdown()`` leaves no trace."""

from __future__ import annotations

import atexit
import difflib
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import redis

from celery_actors._version import __version__
from celery_actors.client.broker import LOST, explain_amqp
from celery_actors.client.creation import end_job
from celery_actors.client.current import (
    current_process,
    former_actors,
    leave_actors,
    set_initializer,
    set_process,
)
from celery_actors.client.process import Process
from celery_actors.client.stores import Stores
from celery_actors.config import Settings, read_key
from celery_actors.exceptions import (
    ActorsError,
    AlreadyInitialized,
    ConfigurationError,
    ConnectionFailed,
)
from celery_actors.ids import new_caller_id
from celery_actors.local.address import (
    BACKEND_VARIABLE,
    BROKER_VARIABLE,
    KEY_FILE_VARIABLE,
    SESSION_DIR_VARIABLE,
    ClusterAddress,
)
from celery_actors.local.descriptors import open_standard_descriptors
from celery_actors.local.node_options import NodeOptions
from celery_actors.logging_config import LoggingConfig
from celery_actors.runtime_env import RuntimeEnv
from celery_actors.store.connection import explain_redis
from celery_actors.store.rights import check_redis
from celery_actors.store.whereabouts import get_node_ip_address
from celery_actors.worker.context import Assignment, set_assignment
from celery_actors.worker.log_context import log_context

if TYPE_CHECKING:
    from celery import Celery

    from celery_actors.local.private import PrivateCluster

__all__ = ["SessionInfo", "init", "is_initialized", "settings_of_cluster", "shutdown"]

logger = logging.getLogger(__name__)

_NODE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SessionInfo(Mapping[str, "str | None"]):
    """What :func:`init` connected to; a mapping of addresses as well (as Ray's context).

    :ivar job_id: this program's job.
    :ivar private: whether the cluster was started by, and ends with, this program.
    :ivar address: of a cluster on this machine: its servers, key file and directory.
    """

    job_id: str
    private: bool
    address: ClusterAddress | None

    @property
    def address_info(self) -> dict[str, str | None]:
        """Where the cluster is, in the form of Ray's context."""
        where = self.address
        return {
            "address": None if where is None else where.broker_url.rpartition("@")[2],
            "node_ip_address": get_node_ip_address(),
            "session_dir": self.session_dir,
            "webui_url": self.dashboard_url,
            "job_id": self.job_id,
        }

    def __getitem__(self, name: str) -> str | None:
        return self.address_info[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    @property
    def dashboard_url(self) -> str | None:
        """None: there is no dashboard."""
        return None

    @property
    def python_version(self) -> str:
        """The version of this program's interpreter, as ``3.11.7``."""
        return ".".join(map(str, sys.version_info[:3]))

    @property
    def ray_version(self) -> str:
        """The version of the Ray API that the package stands for, and its own."""
        return __version__

    def disconnect(self) -> None:
        """Leave the session, as :func:`shutdown`."""
        shutdown()

    def __enter__(self) -> SessionInfo:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the session with the block: ``with init(): …``."""
        shutdown()

    @property
    def session_dir(self) -> str | None:
        """The directory of a cluster on this machine, with its logs."""
        if self.address is None or self.address.session_dir is None:
            return None
        return str(self.address.session_dir)


class _Session:
    """The one session of this process.

    :ivar lock: guards the rest; held while a session begins or ends.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.private: PrivateCluster | None = None
        self.info: SessionInfo | None = None
        self.pid = os.getpid()

    def renew_lock(self) -> None:
        """In a forked child: a thread of the parent may hold the inherited lock."""
        self.lock = threading.RLock()


_session = _Session()
os.register_at_fork(after_in_child=_session.renew_lock)


def is_initialized() -> bool:
    """Whether this process has a session (an actor process always has)."""
    return current_process() is not None


def init(
    address: str | ClusterAddress | None = None,
    *,
    result_backend: str | None = None,
    app: Celery | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool = True,
    logging_config: LoggingConfig | None = None,
    local_mode: bool = False,
    **rays: Any,
) -> SessionInfo:
    """Connect this program to a cluster, or start one of its own.

    Without an address: the cluster named by ``CELERY_BROKER_URL`` and
    ``CELERY_RESULT_BACKEND``; else one begun on this machine with ``celery-actors start``;
    else a private one, which ends with this program.

    :param address: the broker's URL (``amqp://…``; then ``result_backend`` names the Redis),
        ``"local"`` for a private cluster in any case, or what ``celery-actors`` printed.
    :param app: a Celery app of your own; its settings name the brokers.
    :param num_cpus, num_gpus, resources, labels: of a private cluster's node; a machine
        without GPUs then has logical ones.
    :param namespace: in which names of actors are looked up unless a call says otherwise;
        default: one of this program's own, which no other sees (as Ray).
    :param runtime_env: what the job's actors and tasks find, unless theirs says otherwise (see
        :class:`celery_actors.runtime_env.RuntimeEnv`); this program itself stays as it is.
    :param ignore_reinit_error: a second ``init()`` is then no error.
    :param log_to_driver: show what actors of a private cluster print.
    :param logging_config: how the root loggers of this program, and of its actors and tasks, write.
    :param local_mode: True is refused: Ray has deprecated it, and a private cluster is here soon.
    :param rays: options of Ray's ``init`` for what is not here (its dashboard, its object
        store's size, its loggers) are accepted and ignored.
    :raises TypeError: there is no such option; the message names the near ones.
    :raises ConnectionFailed: RabbitMQ or Redis can't be reached, or refuses.
    :raises ConfigurationError: the settings contradict each other, or there is no key.
    :raises LocalClusterError: the private cluster did not start.
    :raises ValueError: ``runtime_env`` has an unknown field, or a directory that is not there; or
        ``local_mode`` is True.
    :raises RuntimeEnvSetupError: the files of ``runtime_env`` can't be packaged.

    Example::

        import celery_actors as ray
        ray.init(num_gpus=8)
    """
    _check_rays_options(rays)
    if local_mode:
        raise ValueError(
            "local_mode=True is not there: leave it out, and init() starts a private cluster, "
            "which takes some seconds and ends with this program"
        )
    if logging_config is not None:
        logging_config.apply(log_context)
    with _session.lock:
        if is_initialized():
            if ignore_reinit_error and _session.info is not None:
                return _session.info
            raise AlreadyInitialized(
                "celery_actors is initialised already: call shutdown() first, or pass "
                "ignore_reinit_error=True"
            )
        open_standard_descriptors()
        environment = RuntimeEnv.of(runtime_env)
        node = NodeOptions(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=dict(resources or {}),
            labels=dict(labels or {}),
        )
        declared = num_cpus is not None or num_gpus is not None or bool(resources or labels)
        settings, where = _find(address, result_backend, app)
        if settings is not None and declared:
            raise ConfigurationError(
                "num_cpus, num_gpus, resources and labels describe a private cluster's node; this "
                "program connects to a cluster that exists (its nodes were given theirs when they "
                'were started). Leave them out, or use init("local", …)'
            )
        private: PrivateCluster | None = None
        if settings is None:
            private = _start_private(node)
            settings, where = _settings_of(private.address), private.address
        try:
            process = _connect(settings, namespace)
        except BaseException:
            if private is not None:
                private.stop()
            raise
        _session.private, _session.pid = private, os.getpid()
        process.former_actors = former_actors()
        set_process(process)
        try:
            _wait_for_node(process, private)
            process.settle_down()
            process.ends_cluster = private is not None
            process.environments.begin_job(
                environment, logging_config.as_json() if logging_config is not None else ""
            )
            set_assignment(Assignment(runtime_env=process.environments.own.as_runtime_env()))
        except BaseException:
            shutdown()
            raise
        info = _session.info = SessionInfo(process.job_id, private is not None, where)
        if log_to_driver and info.session_dir is not None:
            from celery_actors.local.logs import follow_logs

            follow_logs(info.session_dir, process.job_id)
        return info


_RAYS_OPTIONS = frozenset(
    {
        "configure_logging",
        "dashboard_host",
        "dashboard_port",
        "enable_resource_isolation",
        "include_dashboard",
        "job_config",
        "logging_format",
        "logging_level",
        "object_store_memory",
        "system_reserved_cpu",
        "system_reserved_memory",
    }
)
_OWN_OPTIONS = (
    "address",
    "result_backend",
    "app",
    "num_cpus",
    "num_gpus",
    "resources",
    "labels",
    "namespace",
    "runtime_env",
    "ignore_reinit_error",
    "log_to_driver",
    "logging_config",
    "local_mode",
)


def _check_rays_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name in _RAYS_OPTIONS or name.startswith("_"):
            logger.debug("init(%s=…) says nothing here", name)
            continue
        near = difflib.get_close_matches(name, (*_OWN_OPTIONS, *_RAYS_OPTIONS), n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_OWN_OPTIONS)}"
        raise TypeError(f"{name!r} is no option of init(); {hint}")


def _find(
    address: str | ClusterAddress | None, result_backend: str | None, app: Celery | None
) -> tuple[Settings | None, ClusterAddress | None]:
    """Return the settings of a cluster that exists, or nothing: start one."""
    if isinstance(address, ClusterAddress):
        return _settings_of(address), address
    if app is not None:
        return Settings.from_app(app), None
    if address == "local":
        return None, None
    if address is not None and address != "auto":
        return _settings_from_urls(address, result_backend), None
    if os.environ.get(BROKER_VARIABLE) or os.environ.get(BACKEND_VARIABLE):
        from celery_actors.celery import make_app

        settings = Settings.from_app(make_app())
        return settings, _local_address(settings)
    from celery_actors.local.persistent import discover

    found = discover()
    if found is None and address == "auto":
        raise ConnectionFailed(
            'init("auto") found no cluster: set CELERY_BROKER_URL and CELERY_RESULT_BACKEND, or '
            "begin one with `celery-actors start --head`"
        )
    return (None, None) if found is None else (_settings_of(found), found)


def settings_of_cluster(address: str | None = None) -> Settings:
    """Return the settings of a cluster that exists, for those who only look at it.

    :param address: as of :func:`init`; ``None``: ``"auto"``.
    :raises ConnectionFailed: there is none.
    """
    settings, _ = _find(address or "auto", None, None)
    if settings is None:
        raise ConnectionFailed(f"{address!r} names no cluster that exists")
    return settings


def _local_address(settings: Settings) -> ClusterAddress | None:
    """Return the address of a cluster on this machine that the environment tells all of."""
    directory, key_file = (os.environ.get(n) for n in (SESSION_DIR_VARIABLE, KEY_FILE_VARIABLE))
    if not directory or not key_file or not Path(directory).is_dir():
        return None
    return ClusterAddress(
        settings.broker_url, settings.result_backend, Path(key_file), Path(directory)
    )


def _settings_of(address: ClusterAddress) -> Settings:
    settings = Settings(
        broker_url=address.broker_url,
        result_backend=address.result_backend,
        key=read_key(address.key_file),
    )
    if address.shared_memory_dir is None:
        return settings
    return replace(settings, shared_memory_dir=str(address.shared_memory_dir))


def _settings_from_urls(broker_url: str, result_backend: str | None) -> Settings:
    from celery_actors.celery import make_app

    return Settings.from_app(make_app(), broker_url, result_backend)


def _start_private(node: NodeOptions) -> PrivateCluster:
    from celery_actors.local.private import PrivateCluster

    with _spinner() as report:
        return PrivateCluster.start(node, progress=report)


def _spinner() -> AbstractContextManager[Callable[[str], None]]:
    """Show on a terminal that something starts; elsewhere be silent."""
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext(lambda _text: None)
    from rich.console import Console
    from rich.status import Status

    @contextmanager
    def spinner() -> Iterator[Callable[[str], None]]:
        with Status("celery_actors: starting a cluster", console=Console(stderr=True)) as status:
            yield lambda text: status.update(f"celery_actors: {text}")

    return spinner()


def _connect(settings: Settings, namespace: str | None) -> Process:
    job_id = new_caller_id().hex()
    process = Process(
        settings,
        Stores.of(settings),
        caller=new_caller_id(),
        job_id=job_id,
        node_id=None,
        driver=True,
        namespace=namespace or str(uuid.uuid4()),
    )
    try:
        check_redis(process.redis, settings)
        process.control.register_caller(
            process.caller.hex(),
            job_id,
            lease=settings.lease,
            node_id=None,
            driver=True,
            namespace=process.namespace,
        )
    except redis.RedisError as error:
        raise explain_redis(settings, error) from error
    try:
        process.connect(wait=False)
    except redis.RedisError as error:
        raise explain_redis(settings, error) from error
    except BaseException as error:
        process.control.end_caller(process.caller.hex())
        process.control.forget_job(job_id)
        if isinstance(error, LOST):
            raise explain_amqp(process.broker, error) from error
        raise
    return process


def _wait_for_node(process: Process, private: PrivateCluster | None) -> None:
    """Wait for the node worker of a private cluster; another may have none yet."""
    if private is None:
        if not process.control.nodes():
            logger.warning(
                "the cluster has no node yet: actors wait until a worker is started with "
                "`celery -A celery_actors worker`"
            )
        return
    deadline = monotonic() + _NODE_SECONDS
    while not process.control.nodes():
        if monotonic() > deadline:
            raise ActorsError(
                f"the node worker of the private cluster did not register within "
                f"{_NODE_SECONDS:g} s; its log is in {private.session_dir}"
            )
        sleep(0.01)  # bounded polling of another process's start, until the deadline above


def shutdown() -> None:
    """End this program's session.

    Its actors (but detached ones) and tasks are ended, its objects released; a private
    cluster is stopped and its directory removed.  Does nothing without a session.  Called
    at exit by itself.
    """
    with _session.lock:
        process = current_process()
        if process is None or not process.driver or _session.pid != os.getpid():
            return
        private, _session.private = _session.private, None
        _session.info = None
        leave_actors(hold.actor for hold in process.holds.all())
        set_process(None)
        set_assignment(Assignment())
        try:
            if private is None:
                end_job(process)
            else:
                process.closed = True
            process.close()
        except redis.RedisError as error:
            # The nodes end this job's actors when its lease runs out.
            logger.warning("the end of this job could not be written to Redis: %s", error)
        finally:
            from celery_actors.local.logs import stop_following

            stop_following()
            if private is not None:
                private.stop()


def _default_init() -> None:
    init()


set_initializer(_default_init)
atexit.register(shutdown)
