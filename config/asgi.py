"""What Granian serves: the door and /healthz on its event loop, and Django's pages behind them, in threads."""

import gc
import os
import resource
import sys
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import Resolver404, get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django = get_wsgi_application()  # sets Django up, which what is imported now needs

from config.pages import Pages, Scope, Send  # noqa: E402
from messaging.door import CLOSE, Door, address_in, answer, is_nearly_ours, tidied  # noqa: E402
from messaging.door_body import Receive  # noqa: E402

MOST_FILES = 65_536
SWITCH_SECONDS = 0.0005  # for which a page may keep the GIL from the door; Python's own is ten times that


class Site:
    """The ASGI application; what needs the event loop is made when the server says that it runs."""

    def __init__(self) -> None:
        self._door: Door | None = None
        self._pages: Pages | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        assert self._door is not None and self._pages is not None and scope["type"] == "http"
        path: str = scope["path"]
        address = address_in(path)
        if address is not None:
            await self._door.take(address, scope, receive, send)
        elif path == "/healthz":
            await answer(send, 200, b"ok", [(b"content-type", b"text/plain"), CLOSE])
        elif not is_nearly_ours(path):
            await self._pages.serve(scope, receive, send)
        elif (known := _known_path(path)) is not None:
            await self._pages.serve({**scope, "path": known}, receive, send)
        else:
            await self._door.miss(path, scope, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        _raise_file_limit()
        sys.setswitchinterval(SWITCH_SECONDS)
        get_resolver().url_patterns  # noqa: B018  # imports all views now, not in front of the first request
        self._door, self._pages = Door(), Pages(django, threads=settings.WEB_THREADS)
        # What is there by now stays. Thousands of connections at once have Python collect garbage, and to look through all
        # modules for it stops the door for half a second.
        gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._door.close()
        await send({"type": "lifespan.shutdown.complete"})


def _known_path(path: str) -> str | None:
    """Find the page that an address means, as it is or tidied up."""
    stripped = path.strip(" \t\r\n/")
    for each in (path, f"/{stripped}", tidied(path)):
        with suppress(Resolver404):
            get_resolver().resolve(each)
            return each
    return None


def _raise_file_limit() -> None:
    """Let this process hold as many sockets as it may: anybody can take up the usual soft limit of 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


application: Any = Site()
