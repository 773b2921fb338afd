"""The process's push socket: one Redis subscription for all its replies and hints."""

from __future__ import annotations

import redis

from celery_actors.store.connection import RedisConnection

__all__ = ["Replies"]


class Replies:
    """A subscription to this caller's own channel and to the cluster's.

    Read by the leader only (see :mod:`celery_actors.client.listener`).  Nothing relies on
    a push: after every (re)subscription the store is read again.
    """

    def __init__(self, client: redis.Redis, caller_channel: str, cluster_channel: str) -> None:
        self._connection = RedisConnection(client)
        self.caller_channel = caller_channel.encode()
        self.cluster_channel = cluster_channel.encode()

    def open(self) -> None:
        """Connect and subscribe; returns once Redis has confirmed.

        :raises OSError, redis.RedisError: Redis can't be reached.
        """
        self._connection.open()
        self._connection.send("SUBSCRIBE", self.caller_channel, self.cluster_channel)
        for _ in range(2):
            answer = self._connection.reply(timeout=5)
            if isinstance(answer, Exception):
                raise redis.ResponseError(str(answer))

    def fileno(self) -> int:
        """Return the socket's file descriptor, -1 when closed."""
        return self._connection.fileno()

    def read(self) -> list[tuple[bytes, bytes]]:
        """Return what has arrived as pairs of channel and payload.

        :raises OSError: the connection is lost.
        """
        return [
            (message[1], message[2])
            for message in self._connection.replies()
            if isinstance(message, list) and message[0] == b"message"
        ]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def abandon(self) -> None:
        """Forget the socket: it belongs to the parent of this fork."""
        self._connection.abandon()
