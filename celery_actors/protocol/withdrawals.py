"""What an executor answers when tasks that wait in it are asked back: a hint, signed.

``<actor>:<begun>:<taken>:<signature>``, ids and signature in hex: of this caller's calls
those with a sequence above ``begun`` and up to ``taken`` will never begin there.  The
caller gives them to others, so that a forged one would have them run twice; to repeat a true
one says nothing new.
"""

from __future__ import annotations

from typing import NamedTuple

from celery_actors.protocol.signing import Signer

__all__ = ["Withdrawal", "decode_withdrawal", "encode_withdrawal"]

_KIND = b"withdrawal"


class Withdrawal(NamedTuple):
    """Which calls of a caller an executor will never begin."""

    actor: bytes
    begun: int
    taken: int


def encode_withdrawal(signer: Signer, caller: bytes, withdrawal: Withdrawal) -> str:
    """Return the signed text for that caller."""
    actor, begun, taken = withdrawal
    text = f"{actor.hex()}:{begun}:{taken}"
    return f"{text}:{signer.sign(_KIND, caller, text.encode()).hex()}"


def decode_withdrawal(signer: Signer, caller: bytes, text: str) -> Withdrawal:
    """Verify and take apart what came for that caller.

    :raises TamperedError: forged, or meant for another.
    :raises ValueError: no such text.
    """
    said, _, signature = text.rpartition(":")
    signer.check(
        bytes.fromhex(signature), _KIND, caller, said.encode(), what="an executor's answer"
    )
    actor, begun, taken = said.split(":")
    return Withdrawal(bytes.fromhex(actor), int(begun), int(taken))
