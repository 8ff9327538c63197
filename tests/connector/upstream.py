"""A server on this machine that answers byte for byte as a test says, over real sockets."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

Behaviour = Callable[[socket.socket], None]


def read_request(connection: socket.socket) -> bytes:
    """Read one request to its end; nothing if the other side hangs up."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        piece = connection.recv(65536)
        if not piece:
            return raw
        raw += piece
    head, _, body = raw.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(lengths[0] if lengths else 0):
        piece = connection.recv(65536)
        if not piece:
            break
        raw, body = raw + piece, body + piece
    return raw


def answer(status: int, body: bytes | str, *headers: str) -> bytes:
    """Write an answer; its length is added where no header says how it ends."""
    content = body.encode() if isinstance(body, str) else body
    ends = any(each.lower().startswith(("content-length", "transfer-encoding")) for each in headers)
    lines = [f"HTTP/1.1 {status} Said So", *headers, *([] if ends else [f"Content-Length: {len(content)}"])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def replies(raw: bytes) -> Behaviour:
    """Send this to each request, and keep the connection."""
    return lambda connection: connection.sendall(raw)


def reset(connection: socket.socket) -> None:
    """End a connection by an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hang_up(connection: socket.socket) -> None:
    """End a connection as a server does that closes it."""
    connection.shutdown(socket.SHUT_RDWR)


def then_hang_up(raw: bytes) -> Behaviour:
    """Send this and end the connection, whether the answer was whole or not."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(raw)
        hang_up(connection)

    return behave


def drip(first: bytes, piece: bytes, pause: float = 0.05) -> Behaviour:
    """Send the beginning of an answer, and then a little of it again and again."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(first)
        for _ in range(400):
            connection.sendall(piece)
            time.sleep(pause)

    return behave


def wait(seconds: float) -> Behaviour:
    return lambda connection: time.sleep(seconds)


@dataclass
class Upstream:
    """The server: ``behave`` is called after each request of each connection."""

    behave: Behaviour
    read: Callable[[socket.socket], bytes] = read_request
    wrap: Callable[[socket.socket], socket.socket] = lambda connection: connection
    requests: list[bytes] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)
    requests_by: dict[socket.socket, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            connection = self.wrap(plain)
            if connection is not plain:  # it has taken the socket over
                self.connections.append(connection)
            while request := self.read(connection):
                self.requests.append(request)
                self.requests_by.setdefault(connection, []).append(request)
                self.behave(connection)
        except OSError:
            return

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # or the wait for the next one goes on, and takes it
        for each in (self.listener, *self.connections):
            each.close()
