"""Pages that misbehave, served by two threads as the connector's are; run by Granian, as tests.config.odd_pages."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from config import pages as module  # noqa: E402
from config.pages import Pages, Scope, Send  # noqa: E402
from messaging.door import answer  # noqa: E402
from messaging.door_body import Receive  # noqa: E402
from tenants import known  # noqa: E402

module.MOST_WAITING = int(os.environ.get("MOST_WAITING", module.MOST_WAITING))
PIECE = b"x" * 65536
closed: list[str] = []  # the responses whose end their page was told of


class Pieces:
    """A response that comes in pieces; the end of it is told to the page, as PEP 3333 asks."""

    def __init__(self, name: str, pieces: Iterable[bytes]) -> None:
        self.name, self.pieces = name, pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)

    def close(self) -> None:
        closed.append(self.name)


def broken() -> Iterator[bytes]:
    yield PIECE
    raise OSError("in the middle")


def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ValueError("a page's own fault")
    length = [("Content-Length", str(2 * len(PIECE)))] if path == "/broken" else []
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-One", "1"), ("X-One", "2"), *length])
    if path == "/accept":  # as a page does that knows who asks
        known.note(environ["QUERY_STRING"])
    if path == "/sleep":
        time.sleep(3)
    if path == "/large":
        return Pieces(path, (PIECE for _ in range(16 * 64)))  # 64 MiB
    if path == "/broken":
        return Pieces(path, broken())
    if path == "/closed":
        return [json.dumps(closed).encode()]
    body = environ["wsgi.input"].read().decode("latin-1")
    facts = {name: value for name, value in environ.items() if isinstance(value, str)}
    return [json.dumps({**facts, "body": body}).encode()]


pages: Pages | None = None


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    global pages
    if scope["type"] == "lifespan":
        await receive()
        pages = Pages(page, threads=2)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/healthz":
        await answer(send, 200)
    else:
        assert pages is not None
        await pages.serve(scope, receive, send)
