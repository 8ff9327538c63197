"""A way to PostgreSQL that can stop to carry anything, as a host does that is gone without a word."""

import contextlib
import socket
import threading
from typing import Self


class Proxy:
    """Listens on a port of this machine and passes on what comes, unless it is frozen.

    :param target: host and port
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.flowing = threading.Event()
        self.flowing.set()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.sockets: list[socket.socket] = [self.server]

    @property
    def port(self) -> int:
        port: int = self.server.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.flowing.set()
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def freeze(self) -> None:
        """Carry nothing from now on, on no connection; those that are open stay open."""
        self.flowing.clear()

    def thaw(self) -> None:
        """Carry what comes again, and what came meanwhile."""
        self.flowing.set()

    def lose(self) -> None:
        """Carry nothing on the connections that are open now, ever again; new ones are carried."""
        self.freeze()
        self.flowing = threading.Event()
        self.flowing.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self.server.accept()[0]
                far = socket.create_connection(self.target)
                self.sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(*pair, self.flowing), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while some := source.recv(65536):
                flowing.wait()
                sink.sendall(some)
            sink.shutdown(socket.SHUT_WR)
