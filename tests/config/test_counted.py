"""What Django's own loggers say: refusals together, a fault of ours whole."""

import logging
from collections.abc import Iterator

import pytest
from django.core.exceptions import SuspiciousOperation

from tenants import repeats


class Lines(logging.Handler):
    """Keeps what reaches the log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Lines]:
    for counted in logging.getLogger("django.security").handlers:
        counted.flush()  # what other tests were refused
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def say(logger: str, exc: Exception) -> None:
    try:
        raise exc
    except type(exc):
        logging.getLogger(logger).error("said", exc_info=True, extra={"status_code": 500})


def test_a_fault_of_ours_is_told_whole_and_at_once(lines: Lines) -> None:
    say("django.request", ValueError("ours"))
    assert [record.exc_info is not None for record in lines.records] == [True]


def test_a_refusal_is_not_told_by_itself_but_counted(lines: Lines) -> None:
    for _ in range(3):
        say("django.security.SuspiciousOperation", SuspiciousOperation("theirs"))
    assert lines.records == []
    for handler in logging.getLogger("django.security").handlers:
        handler.flush()
    (record,) = lines.records
    assert isinstance(record.msg, dict) and record.msg["count"] == 3 and not record.exc_info


def test_the_same_fault_again_is_counted_and_another_one_is_told_whole(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can ask again and again for a page that raises."""
    for _ in range(5):
        say("django.request", ValueError("ours"))
    say("django.request", TypeError("ours as well"))
    assert [record.exc_info is not None for record in lines.records] == [True, True]
    monkeypatch.setattr(repeats, "_kinds", {kind: (0.0, count) for kind, (_, count) in repeats._kinds.items()})
    say("django.request", ValueError("ours"))
    counted, whole = lines.records[2:]
    assert isinstance(counted.msg, dict) and (counted.msg["error"], counted.msg["repeated"]) == ("ValueError", 4)
    assert whole.exc_info
