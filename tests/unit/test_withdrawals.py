"""What an executor says of tasks that it will not begin: nobody else can say it."""

from __future__ import annotations

import pytest

from celery_actors.exceptions import TamperedError
from celery_actors.protocol.signing import Signer
from celery_actors.protocol.withdrawals import Withdrawal, decode_withdrawal, encode_withdrawal

SIGNER, CALLER = Signer(b"key"), b"c" * 8
SAID = Withdrawal(b"a" * 16, 7, 12)


def test_there_and_back() -> None:
    assert decode_withdrawal(SIGNER, CALLER, encode_withdrawal(SIGNER, CALLER, SAID)) == SAID


def test_one_of_another_key_is_refused() -> None:
    with pytest.raises(TamperedError):
        decode_withdrawal(SIGNER, CALLER, encode_withdrawal(Signer(b"other"), CALLER, SAID))


def test_one_for_another_caller_is_refused() -> None:
    with pytest.raises(TamperedError):
        decode_withdrawal(SIGNER, b"d" * 8, encode_withdrawal(SIGNER, CALLER, SAID))


def test_an_altered_one_is_refused() -> None:
    text = encode_withdrawal(SIGNER, CALLER, SAID)
    with pytest.raises(TamperedError):
        decode_withdrawal(SIGNER, CALLER, text.replace(":12:", ":99:"))


@pytest.mark.parametrize("text", ["", "x", "1:2:3:zz"])
def test_what_is_no_such_text_is_refused(text: str) -> None:
    with pytest.raises((TamperedError, ValueError)):
        decode_withdrawal(SIGNER, CALLER, text)
