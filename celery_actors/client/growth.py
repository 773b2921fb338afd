"""How many executors the tasks of one shape get.

As many as what was measured calls for, not as many as the resources allow: an executor is a
process, and starting one takes as long as thousands of short tasks do.

* Short tasks want one executor for each core.  More of them pay only if so much work waits that
  it is done sooner in spite of the time that starting them takes.
* Long tasks want an executor each.
* What the tasks take is not known at first.  Then there is one executor for each core; if these
  are all held up by their first tasks, there are several times as many, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf, sqrt

from celery_actors.client.leases import LONG, Lease, Pool
from celery_actors.client.outbox import PendingCall

__all__ = ["Growth"]

_START_SECONDS = 0.1  # of an executor, until one was measured
_MOST_START_SECONDS = 2.0
_OWN_EXECUTOR_SECONDS = 0.2  # a longer task gets its own executor
_FACTOR = 4  # executors added for each that is held up, while nothing is known
_MEASURED = 16  # tasks, before a time is relied upon
_FUNCTIONS = 256  # whose times are kept
_UPWARDS = 1.01  # how fast the least time forgets, for each task
_GAIN = 1.3  # by which more executors must have raised the tasks a second
_PAUSE = 1.0  # seconds without a waiting task, after which all is tried out anew
_MOST_REQUESTS = 8  # that wait for resources, or one for each core where these are more


@dataclass(slots=True)
class _Times:
    """What the tasks of one function take.

    Where executors compete for the cores each task takes longer.  So the least of the averages
    tells how much work there is; it rises slowly, as functions may change.
    """

    measured: int = 0
    average: float = 0.0
    least: float = inf

    def add(self, seconds: float) -> None:
        self.measured += 1
        self.average += (seconds - self.average) / min(self.measured, 8)
        self.least = min(self.least * _UPWARDS, self.average)

    @property
    def known(self) -> bool:
        # The first short tasks wait for each other's answers, which is not their own time.
        return self.measured >= _MEASURED or self.average > LONG


@dataclass(slots=True, eq=False)
class Growth:
    """Decides for one pool.  Guarded by the process's lock, as the pool is.

    :ivar start_seconds: from an executor's placement to its first task, as last measured.
    :ivar look_at: when :meth:`wanted` may have another answer (monotonic seconds).
    """

    pool: Pool
    start_seconds: float = _START_SECONDS
    look_at: float = 0.0
    _times: dict[bytes, _Times] = field(default_factory=dict)
    # The trial that is under way: when it began, tasks done since, tasks a second before it.
    _since: float = 0.0
    _done: int = 0
    _rate: float = 0.0
    _waited: float = 0.0  # when tasks waited last

    def finished(self, call: PendingCall, lease: Lease, now: float) -> None:
        """A task is resolved that an executor had, and still has in its table."""
        if not self._done and not self._rate:
            self._since = now  # what starting the first ones took is no time of tasks
        self._done += 1
        times = self._times.setdefault(call.method, _Times())
        if len(self._times) > _FUNCTIONS:
            del self._times[next(iter(self._times))]
        if lease.calls:
            times.add(now - lease.since)
        elif times.known and times.least < LONG:  # else the task's own time says too much
            started = min(max(now - lease.idle_since - times.least, 0.0), _MOST_START_SECONDS)
            self.start_seconds += (started - self.start_seconds) / 4

    def wanted(self, now: float, cores: int) -> int:
        """Return how many more executors are to be asked for.

        :param cores: of all machines of the cluster together.
        """
        pool = self.pool
        waiting, asked_for = len(pool.ready), len(pool.requested)
        most = min(waiting, max(_MOST_REQUESTS, cores)) - asked_for
        if most <= 0:
            return 0
        if now - self._waited > _PAUSE:
            self._try_out(now, 0.0)
        self._waited = now
        held_up, self.look_at = self._held_up(now)
        at_work = len(pool.leases) - held_up + asked_for
        takes = self._known(pool.ready[0])
        if takes is not None and takes > _OWN_EXECUTOR_SECONDS:
            target = at_work + waiting
        elif takes is None and not at_work:
            target = max(cores, _FACTOR * held_up)
        elif takes is None or at_work < cores:
            target = cores
        else:
            target = self._paying(at_work, waiting * takes * cores, takes, now)
        return max(0, min(most, target - at_work))

    def _known(self, call: PendingCall) -> float | None:
        """Return the seconds that a task takes by all that is known."""
        times = self._times.get(call.method)
        return times.least if times is not None and times.known else None

    def _paying(self, at_work: int, work: float, takes: float, now: float) -> int:
        """Return with how many executors all tasks are done soonest.

        :param work: seconds of work that wait, times the cores.
        """
        target = ceil(sqrt(work / self.start_seconds))
        if target <= at_work or takes > self.start_seconds / 2:  # it has paid after one task more
            return target
        return min(target, 2 * at_work) if self._gained(now) else at_work

    def _gained(self, now: float) -> bool:
        """Whether the executors that were added last made the tasks faster, as more may, too.

        They don't where the tasks use the cores, or a machine is busy with something else.
        """
        seconds = now - self._since
        if seconds < 2 * self.start_seconds:
            return False  # too early to say
        rate = self._done / seconds
        if rate < _GAIN * self._rate:
            return False
        self._try_out(now, rate)
        return True

    def _try_out(self, now: float, rate: float) -> None:
        self._since, self._done, self._rate = now, 0, rate

    def _held_up(self, now: float) -> tuple[int, float]:
        """Return how many executors are of no use now, and when that may change.

        One whose first task takes longer than starting another executor would.
        """
        takes = self._known(self.pool.ready[0]) or 0.0
        begun, new = max(LONG, self.start_seconds) + takes, 2 * self.start_seconds + takes
        due = [
            lease.since + (begun if lease.calls else new)
            for lease in self.pool.leases.values()
            if lease.tasks
        ]
        later = min((when for when in due if when > now), default=now + LONG)
        return sum(when <= now for when in due), min(later, now + LONG)
