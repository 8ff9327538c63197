"""Servers of the tests' own, each in an event loop of a thread beside the test."""

import asyncio
import json
import threading
import urllib.request
from typing import Any

import grpc.aio
from sfprotostash import pubsub_api_pb2_grpc

from devstack.documents import example_documents
from sandbox.__main__ import Sandbox
from tests.sandbox.far_sides import free_ports
from tests.support.bus import Bus


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


class Platforms(Loop):
    """Both platforms, played by the sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self.ports = free_ports(["page", "salesforce", "infobip", "pubsub"])
        (self.document,) = example_documents(self.ports["salesforce"], self.ports["infobip"])
        self.sandbox = Sandbox()
        ports: dict[str, Any] = {f"{name}_port": port for name, port in self.ports.items()}
        self.run(self.sandbox.start(**ports))

    def stop(self) -> None:
        self.run(self.sandbox.stop())
        self.end()

    def control(self, method: str, path: str, body: object = None) -> Any:
        url = f"http://127.0.0.1:{self.ports['page']}/control/{path}"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def seen(self, kind: str, **facts: object) -> list[dict[str, Any]]:
        """Give the journal's entries of a kind, oldest first."""
        entries = self.control("GET", "journal")["entries"]
        facts["kind"] = kind
        return [entry for entry in entries if all(entry.get(name) == value for name, value in facts.items())]


class BusServer(Loop):
    """A Pub/Sub API that answers as a test wants."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.run(self._start(bus))

    async def _start(self, bus: Bus) -> None:
        self.server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
        pubsub_api_pb2_grpc.add_PubSubServicer_to_server(bus, self.server)
        self.endpoint = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()

    def stop(self) -> None:
        self.run(self.server.stop(None))
        self.end()
