"""Messages of plain Celery clients: what such a client asks of an actor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu.serialization import loads

from celery_actors.exceptions import TamperedError

__all__ = ["PLAIN_CALLER", "PlainCall", "decode_plain", "values_of"]

#: Stands for all plain clients where a caller's id is expected.
PLAIN_CALLER = b"\0" * 8
_JSON = "application/json"


class PlainCall(NamedTuple):
    """A call of a plain Celery client.

    :ivar sequence: its place among all plain calls of this process.
    :ivar name: of the method.
    :ivar refusal: why it can't be run as it was asked for; ``None``: it can.
    :ivar request: the message's headers and links, under Celery's names of a task's request.
    :ivar stamps: the values of the headers by which it can be revoked, by header.
    """

    sequence: int
    task_id: str
    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    refusal: str | None
    request: Mapping[str, Any]
    stamps: Mapping[str, frozenset[str]]

    @property
    def ignore_result(self) -> bool:
        """Whether the client wants no result."""
        return bool(self.request.get("ignore_result"))


def decode_plain(message: Any, body: bytes, sequence: int) -> PlainCall:
    """Read an unsigned message: of Celery's protocol 1 or 2, JSON, a public method.

    :param message: as kombu received it.
    :param sequence: the call's place.
    :raises TamperedError: it is not JSON; it was not read.
    :raises ValueError, TypeError, KeyError: it is no message of Celery's.
    """
    if message.content_type != _JSON:
        raise TamperedError(
            f"unsigned messages must be JSON, not {message.content_type!r}: they were not unpickled"
        )
    headers = message.headers or {}
    content = _loads(message, body)
    if isinstance(content, dict):  # Celery's message protocol 1
        request = {**content, **headers}
        args, kwargs = content.get("args", []), content.get("kwargs", {})
        request["group"] = content.get("group") or content.get("taskset")
    else:
        args, kwargs, links = content
        request = {**headers, **(links or {}), "args": args, "kwargs": kwargs}
    # Attributes of Celery's own objects, which are made of this, are not the client's to set.
    request = {name: value for name, value in request.items() if not name.startswith("_")}
    task_id, name = str(request["id"]), str(request["task"])
    task_id.encode()  # it becomes a part of a key in Redis
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError("args must be a list and kwargs a mapping")
    method = name.rpartition(".")[2]
    stamps = _stamps(request)
    return PlainCall(sequence, task_id, method, args, kwargs, _refusal(request), request, stamps)


def values_of(stamp: Any) -> frozenset[str]:
    """Return the values of a stamp: Celery takes one, or several."""
    if stamp is None:
        return frozenset()
    several = isinstance(stamp, (list, tuple, set))
    return frozenset(map(str, stamp)) if several else frozenset([str(stamp)])


def _stamps(request: Mapping[str, Any]) -> Mapping[str, frozenset[str]]:
    stamps, headers = request.get("stamps") or {}, request.get("stamped_headers") or []
    if not isinstance(stamps, dict) or not isinstance(headers, list):
        raise TypeError("stamps must be a mapping and stamped_headers a list")
    return {header: values_of(stamps.get(header)) for header in headers}


def _loads(message: Any, body: bytes) -> Any:
    """Decode a body, with the types that kombu's JSON knows (dates, UUIDs, decimals, bytes)."""
    try:
        if message.errors:  # it was compressed, and can't be decompressed
            raise message.errors[0][1]
        return loads(body, _JSON, message.content_encoding or "utf-8", accept={_JSON})
    except Exception as error:  # decoders of registered types may raise anything
        raise ValueError(f"a body can't be decoded: {error}") from error


def _refusal(request: Mapping[str, Any]) -> str | None:
    """Return why a call can't be run as it was asked for."""
    asked = (
        ("eta/countdown", request.get("eta")),
        ("link", request.get("callbacks")),
        ("link_error", request.get("errbacks")),
        ("chain", request.get("chain")),
        ("chord", request.get("chord")),
        ("time_limit/soft_time_limit", any(request.get("timelimit") or ())),
        ("retry", request.get("retries")),
    )
    what = next((name for name, value in asked if value), None)
    return None if what is None else f"{what} is not supported on a call to an actor"
