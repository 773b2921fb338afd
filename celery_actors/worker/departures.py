"""Callers that are gone: when an actor may forget what it knows of them.

What an actor keeps of a caller tells its repeats from new calls.  A caller that is gone sends
nothing any more, but copies of its calls may still lie in the mailbox, also beyond the messages
that the broker has delivered ahead.  So the actor writes a *marker* into its own mailbox.  When
the marker comes round, all that was in front of it has come, too, and what is known of the
callers that were gone by then is needed no more.

Why nothing is forgotten too early:

* The marker is published on the channel of the acknowledgements, behind all of those that were
  due.  So the broker has processed these when the marker comes, and redelivers none of them.
* A caller of which a message comes between, though only a repeat, is left for the next marker:
  its acknowledgement may still be under way.
* The marker names the incarnation that wrote it, and its number.  Another incarnation, or one
  that has lost a marker with a connection, writes another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["Departures"]

_SWEEP_FIRST = 64


class Departures:
    """Finds the callers that are gone.  Used by the thread that reads the mailbox's socket.

    :param caller_alive: whether a caller's lease runs.
    :param publish_marker: has the marker of a number published, behind what is in the mailbox.
    :param forget: drops what the rest of the actor keeps of a caller.
    """

    def __init__(
        self,
        caller_alive: Callable[[bytes], bool],
        publish_marker: Callable[[int], None],
        forget: Callable[[bytes], None],
    ) -> None:
        self.caller_alive = caller_alive
        self._publish_marker = publish_marker
        self._forget = forget
        self._sweep_at = _SWEEP_FIRST
        self._number = 0
        # Callers that are gone, with the highest sequence accepted of each; until the marker comes.
        self._gone: dict[bytes, int] = {}

    def caller_came(
        self, accepted: Mapping[bytes, int], is_awaited: Callable[[bytes], bool]
    ) -> None:
        """A new caller came.  When many have come, look for those that are gone.

        So an actor knows at most twice as many callers as live, or 64.

        :param accepted: the callers that are known.
        :param is_awaited: whether a delivery of a caller is unacknowledged.
        """
        if len(accepted) < self._sweep_at:
            return
        self._gone = {
            caller: sequence
            for caller, sequence in accepted.items()
            if not is_awaited(caller) and not self.caller_alive(caller)
        }
        self._sweep_at = max(_SWEEP_FIRST, 2 * (len(accepted) - len(self._gone)))
        if self._gone:
            self._number += 1
            self._publish_marker(self._number)

    def came_again(self, caller: bytes) -> None:
        """A repeat of a caller's call came."""
        self._gone.pop(caller, None)

    def marker_came(self, number: int, accepted: Mapping[bytes, int]) -> list[bytes]:
        """A marker came round: return the callers that were forgotten."""
        if number != self._number:
            return []
        gone, self._gone = self._gone, {}
        forgotten = [c for c, sequence in gone.items() if accepted.get(c) == sequence]
        for caller in forgotten:
            self._forget(caller)
        return forgotten
