"""Start the sandbox: ``python -m sandbox --page-port N --salesforce-port N --infobip-port N --pubsub-port N``."""

import argparse
import asyncio
import gc
import logging
import signal
from pathlib import Path

from aiohttp import web

from sandbox import alive, pubsub
from sandbox.console import Console
from sandbox.control import Control
from sandbox.infobip import Infobip
from sandbox.salesforce import Salesforce
from sandbox.world import World

HOST = "127.0.0.1"


class Sandbox:
    """All servers of one simulated world, in one event loop."""

    def __init__(self, run_folder: Path | None = None) -> None:
        self.world = World()
        self.pubsub = pubsub.PubSub(self.world)
        self.console = Console(self.world, self.pubsub)
        self.infobip = Infobip(self.world)
        self.control = Control(self.world, self.pubsub, self.infobip, self.console, run_folder)
        self._runners: list[web.AppRunner] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(
        self, *, page_port: int, salesforce_port: int, infobip_port: int, pubsub_port: int, lively: bool = False
    ) -> None:
        """Listen on these ports, and play a small life if it is to be lively."""
        self._grpc_server = await pubsub.serve(self.pubsub, pubsub_port)
        for application, port in (
            (Salesforce(self.world).application(), salesforce_port),
            (self.infobip.application(), infobip_port),
            (self.control.application(), page_port),  # last: once the page answers, all do
        ):
            # a call that hangs on demand ends when its caller has gone
            runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
            self._runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, HOST, port, backlog=4096).start()
        self._tasks.append(asyncio.create_task(self.control.watch_processes()))
        if lively:
            self.infobip.reports["auto"] = False  # a person looks at the phone
            self._tasks.append(asyncio.create_task(alive.play(self.world, self.infobip, self.console)))

    async def stop(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        await self.infobip.close()
        await self._grpc_server.stop(0.2)
        for runner in self._runners:
            await runner.cleanup()


async def run(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sandbox = Sandbox(options.run_folder)
    await sandbox.start(
        page_port=options.page_port,
        salesforce_port=options.salesforce_port,
        infobip_port=options.infobip_port,
        pubsub_port=options.pubsub_port,
        lively=options.alive,
    )
    print(f"sandbox: http://{HOST}:{options.page_port}/", flush=True)
    await stop.wait()
    await sandbox.stop()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    for name in ("page", "salesforce", "infobip", "pubsub"):
        parser.add_argument(f"--{name}-port", type=int, required=True)
    parser.add_argument("--run-folder", type=Path, help="where the launcher keeps <name>.pid of the connector's processes")
    parser.add_argument("--alive", action="store_true", help="play a small life for the demo")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    gc.set_threshold(50_000, 50, 50)  # the journal is large and has no cycles: looking through it often costs latency
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
