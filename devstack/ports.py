"""Finds ports on this machine that nobody else has."""

import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"

_given_ports: dict[int, int] = {}  # and the open file whose lock keeps each


def free_port() -> int:
    """Find a port that nobody listens on now and that was not given out before, in this process or one beside it.

    It lies below those that systems give to outgoing connections, so that no client takes it while a service is restarted.
    Until this process ends it is kept by a lock: stacks that start at once find the same ports free.
    """
    folder = Path(tempfile.gettempdir()) / f"connector-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if port in _given_ports:
            continue
        mark = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind((HOST, port))
        except OSError:
            os.close(mark)
            continue
        _given_ports[port] = mark
        return port
