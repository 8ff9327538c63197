"""The connector, and how much of it is looked through for garbage; run by Granian, as tests.config.looked_through."""

import gc

from config.asgi import application as connector
from config.pages import Scope, Send
from messaging.door import answer
from messaging.door_body import Receive


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope.get("path") == "/looked-through":
        await answer(send, 200, str(len(gc.get_objects())).encode())
    else:
        await connector(scope, receive, send)
