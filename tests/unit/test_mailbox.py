"""What a process sends while RabbitMQ is away."""

from __future__ import annotations

from typing import Any

import pytest
from amqp.exceptions import AccessRefused

from celery_actors.client.mailbox import Mailbox
from celery_actors.protocol.signing import Signer


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox("amqp://nobody:1", Signer(b"k" * 32), lambda _queue: None)


def be_connected(mailbox: Any) -> None:
    mailbox._channel = object()


def test_without_a_connection_it_is_done_later_in_its_order(mailbox: Mailbox) -> None:
    done: list[int] = []
    for number in (1, 2):
        mailbox.perform(lambda _mailbox, number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    assert mailbox.has_postponed
    be_connected(mailbox)
    mailbox.perform(lambda _mailbox: done.append(3))
    assert done == [1, 2, 3]
    assert not mailbox.has_postponed


def test_what_a_lost_connection_cuts_short_is_done_again(mailbox: Mailbox) -> None:
    done: list[int] = []
    errors = [ConnectionResetError("lost")]

    def action(_mailbox: Mailbox) -> None:
        if errors:
            raise errors.pop()
        done.append(1)

    be_connected(mailbox)
    with pytest.raises(ConnectionResetError):
        mailbox.perform(action)
    mailbox.catch_up()
    assert done == [1]


def test_what_the_broker_refuses_is_not_done_for_ever(mailbox: Mailbox) -> None:
    def refused(_mailbox: Mailbox) -> None:
        raise AccessRefused("queue_delete")

    be_connected(mailbox)
    with pytest.raises(AccessRefused):
        mailbox.perform(refused)
    assert not mailbox.has_postponed
