"""The demo: the whole system on this machine, until Ctrl-C."""

import os
import secrets
import socket
import threading
import time
from contextlib import suppress

from devstack.check import Check
from devstack.documents import demo_document, empty_document
from devstack.family import StackError
from devstack.ports import HOST, free_port
from devstack.stack import Stack


class _Steps:
    """Prints what is being done, and how long it took."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        print(f"  {what:<58}{now - self.began:6.1f} s", flush=True)
        self.began = now


def demo(*, check: bool, empty: bool = False) -> int:
    """Run the whole system until Ctrl-C, or until a script has talked through it."""
    page_port = int(os.environ.get("DEMO_PORT") or free_port())
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, page_port))
        except OSError as exc:
            raise StackError(f"Port {page_port} is taken. Free it, or set DEMO_PORT to another one.") from exc
    steps = _Steps()
    with Stack(alive=not check, page_port=page_port) as stack:
        steps.done("PostgreSQL and Valkey")
        stack.manage("migrate", "--no-input")
        steps.done("migrations")
        password = secrets.token_urlsafe(9)
        stack.manage("createsuperuser", "--noinput", "--username=demo", "--email=", DJANGO_SUPERUSER_PASSWORD=password)
        stack.start()
        stack.wait_ready()
        steps.done("web, worker, subscriber, beat, and the sandbox")
        if empty:
            document = empty_document(stack.salesforce_port, stack.infobip_port)
            stack.open_empty_org(document)
            steps.done("Acme's fresh org, to be set up in the console")
            print(
                f"\n  My Domain                   {document['org']['baseUrl']}"
                f"\n  Infobip base URL            {document['infobipAccounts'][0]['baseUrl']}"
                f"\n  Infobip API key             {document['infobipAccounts'][0]['apiKey']}"
            )
        else:
            document = demo_document(stack.salesforce_port, stack.infobip_port)
            stack.provision(document)
            steps.done("the demo org Acme")
        if check:
            return Check(stack, document).run()
        print(
            # by another name than the connector's, so that the frame is of another site, as it is in Lightning
            f"\n  Phone and service console   {stack.page_url.replace(HOST, 'localhost')}/"
            f"\n  Admin (demo / {password})   {stack.web_url}/admin/"
            f"\n  Logs                        {stack.folder}\n\n  Ctrl-C ends it.",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        print("\n  Stopping.", flush=True)
    return 0
