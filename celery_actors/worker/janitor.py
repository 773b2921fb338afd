"""Cleaning up after what is gone: nodes, drivers, actors, jobs.

Every node worker does it, at each renewal of its lease; two at once are harmless, since
each step is one script that does nothing the second time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from celery_actors.config import Settings
from celery_actors.control import Control, EndedCaller, NodeRemoval, Placement
from celery_actors.ids import mailbox_name, node_queue_name
from celery_actors.store.express import sweep_express
from celery_actors.store.results import Results
from celery_actors.store.segments import spill_directory
from celery_actors.store.sweep import Sweep
from celery_actors.worker.postman import Postman

__all__ = ["Janitor"]

logger = logging.getLogger(__name__)


class Janitor:
    """The clean-up that one node worker does.  Agent's thread only."""

    def __init__(
        self,
        control: Control,
        postman: Postman,
        settings: Settings,
        node_id: str,
        kill_here: Callable[[str], None],
    ) -> None:
        self._control = control
        self._postman = postman
        self._settings = settings
        self._node_id = node_id
        self._kill_here = kill_here
        self._results = Results(postman.redis, settings.prefix, settings.result_ttl)
        self._sweep = Sweep(
            self._results.are_stored,
            self._receives,
            lambda caller: control.caller_alive(caller.hex()),
            settings.result_ttl,
        )

    def work(self) -> None:
        """Look for leases that have ended, and for what they left."""
        expired = self._control.expired()
        for node_id in expired.nodes:
            logger.warning("node %s did not renew its lease: it is lost", node_id)
            self.node_is_gone(node_id, "its node was lost (it did not renew its lease)")
        for caller_id in expired.callers:
            logger.warning("driver %s did not renew its lease: its job ends", caller_id)
            self._settle(self._control.end_caller(caller_id))
            self._results.forget_caller(caller_id)
        for caller_id in self._control.lingering_callers():
            self._settle(self._control.end_caller(caller_id))
        self._postman.starts(self._control.sweep_unstarted())
        self._forget_jobs()
        self._sweep_shared_memory()

    def caller_ended(self, caller_id: str) -> None:
        """An actor's process is gone: its values go, unless others have refs to them."""
        self._settle(self._control.end_caller(caller_id))
        self._results.forget_unkept(
            caller_id, lambda oids: self._control.lent([oid.hex() for oid in oids])
        )

    def node_is_gone(self, node_id: str, cause: str) -> None:
        """A node left, or its lease is over."""
        removal = self._control.remove_node(node_id, cause)
        for actor_id in removal.dead:
            self.actor_is_gone(actor_id)
        self._postman.delete(node_queue_name(node_id))
        self._settle(removal)

    def actor_is_gone(self, actor_id: str) -> None:
        """An actor is dead and its process reaped: its mailbox goes."""
        actor = bytes.fromhex(actor_id)
        self._postman.delete(mailbox_name(actor))
        self._results.forget_actor(actor)

    def _settle(self, ended: EndedCaller | NodeRemoval) -> None:
        for actor_id in ended.stopping:
            self._stop(actor_id)
        for placement in ended.stop:
            self._kill(placement)
        for actor_id in ended.cancelled:
            self.actor_is_gone(actor_id)
        self._postman.starts(ended.placements)

    def _stop(self, actor_id: str) -> None:
        """An actor lost its last hold: it drains.  An executor lost its caller: it is killed,
        since nobody is left for whom its task runs."""
        record = self._control.actor(actor_id)
        if record is None or record.kind != "executor":
            self._postman.stop_actor(actor_id)
            return
        killed = self._control.kill(actor_id, "the process that submitted its tasks is gone")
        if killed.node is not None:
            self._kill(killed.node)
        self._postman.starts(killed.placements)

    def _kill(self, placement: Placement) -> None:
        if placement.node_id == self._node_id:
            self._kill_here(placement.incarnation)
        else:
            self._postman.kill(placement)

    def _forget_jobs(self) -> None:
        for job in self._control.jobs():
            if job.ended_at is not None and job.actors == 0:
                records = self._control.actors(job.job_id)
                dead = [bytes.fromhex(r.actor_id) for r in records if not r.detached]
                self._results.delete_cursors(dead)
                self._control.forget_job(job.job_id)

    def _receives(self, actor: bytes) -> bool:
        record = self._control.actor(actor.hex())
        return record is not None and record.state != "DEAD"

    def _sweep_shared_memory(self) -> None:
        """Remove the files of processes that are gone, as far as nobody may want them."""
        running = {job.job_id for job in self._control.jobs() if job.ended_at is None}
        nodes = {node.node_id for node in self._control.nodes()}

        def in_use(owner: str) -> bool:
            job, _, rest = owner.partition(".")
            return job in running or (job == "node" and rest in nodes)

        for directory in (Path(self._settings.shared_memory_dir), spill_directory(self._settings)):
            removed = self._sweep.run(directory, in_use)
            if removed:
                logger.info("removed %d shared-memory files of processes that are gone", removed)
        sweep_express(Path(self._settings.shared_memory_dir))
