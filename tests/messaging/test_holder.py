"""The life of a process that holds lanes goes on, whatever its connection raises."""

import pytest

from messaging.holder import Holder
from messaging.wake import wake
from tests.support.happenings import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_connection_that_breaks_off_with_any_error_is_made_anew_under_the_same_number() -> None:
    heard: list[str] = []

    def hear(channel: str, _payload: str) -> None:
        heard.append(channel)
        if len(heard) == 1:
            raise ValueError("file descriptor cannot be a negative integer (-1)")

    holder = Holder(hear, lambda: True)
    holder.start()
    try:
        wait_until(holder.held.is_set)
        number = holder.number
        wake()
        wait_until(lambda: len(heard) == 1 and not holder.held.is_set())
        wait_until(holder.held.is_set)
        wake()
        wait_until(lambda: len(heard) == 2)
        assert holder.number == number
    finally:
        holder.stop()
