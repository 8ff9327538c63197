"""Servers on this machine, which end with the test."""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.connector.upstream import Behaviour, Upstream


@pytest.fixture
def upstream() -> Iterator[Callable[[Behaviour], Upstream]]:
    running: list[Upstream] = []

    def start(behave: Behaviour) -> Upstream:
        running.append(Upstream(behave))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port where the backlog is full, so that nobody's connection is made or refused."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
