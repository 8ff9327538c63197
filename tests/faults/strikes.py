"""Breaks things, and writes down when each fault began and ended."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from benchmarks.hostile import job_of
from benchmarks.sending import Helper
from devstack.ports import HOST, free_port
from tests.faults import database
from tests.faults.checker import HEALED_SECONDS, Fault
from tests.faults.people import People
from tests.faults.poison import spread_poison
from tests.faults.scene import ORGS, Scene
from tests.faults.schedule import Planned

SURGE = 100  # messages in each direction that wait when a process is asked to end


def leaves_doubt(fault: dict[str, Any]) -> bool:
    """Tell whether the connector cannot know if a call that met this fault was taken."""
    unclear = fault["what"] in ("timeout_before", "timeout_after") or fault.get("status", 500) == 500
    return fault["where"] in ("interactions", "send") and fault["what"] not in ("delay", "trickle") and unclear


class Striker:
    """Lets the faults of a schedule happen."""

    def __init__(self, scene: Scene, people: People) -> None:
        self.scene, self.people, self.stack = scene, people, scene.stack
        self.actions: dict[str, Callable[[Planned, str], Awaitable[int]]] = {
            "kill": self.kill,
            "terminate": self.terminate,
            "freeze": self.freeze,
            "restart": self.restart,
            "flush": self.flush,
            "valkey-read-only": self.make_valkey_read_only,
            "postgres-read-only": self.make_postgres_read_only,
            "poison": self.poison,
            "scramble": self.scramble,
            "hostile": self.hostile,
        }

    async def strike(self, planned: Planned) -> None:
        """Let one fault happen, in its time."""
        scene, kind = self.scene, planned.kind
        await asyncio.sleep(max(0.0, planned.at - scene.now()))
        begin = scene.now()
        what, _, whom = kind.action.partition(" ")
        doubts = await self.actions.get(what, self.misbehave)(planned, whom)
        # the last org has no faults of its own: it shows best how those for all heal, and what neighbours notice
        last, everybodys = (ORGS - 1,), planned.org is None and not kind.harmless
        scene.faults.append(
            Fault(
                name=kind.name,
                begin=begin,
                end=scene.now(),
                orgs=last if planned.org is None else (planned.org,),
                directions=(kind.direction,) if kind.direction else ("inbound", "outbound"),
                others=() if everybodys else last,
                doubts=doubts,
                limit=kind.limit or HEALED_SECONDS,
                explains=kind.explains,
            )
        )
        print(f"  {begin:6.1f} s  {kind.name}" + (f", org {planned.org}" if planned.org is not None else ""), flush=True)

    # processes

    async def kill(self, planned: Planned, name: str) -> int:
        """Kill a process. It is frozen for the moment in which its calls are counted: they go on at the far sides."""
        await asyncio.to_thread(self.stack.kill, name, signal.SIGSTOP)
        doubts = await asyncio.to_thread(database.calls_under_way, self.stack) if name.startswith("worker") else 0
        await asyncio.to_thread(self.stack.kill, name, signal.SIGKILL)
        return doubts

    async def terminate(self, planned: Planned, name: str) -> int:
        """Ask a process to end while messages wait. It has the time to finish its calls: none is in doubt."""
        self.scene.spawn(self.people.surge(SURGE))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(self.stack.kill, name, signal.SIGTERM)
        return 0

    async def freeze(self, planned: Planned, name: str) -> int:
        """Let a process stand still: its calls count as at a kill, as others must take its lanes over."""
        await asyncio.to_thread(self.stack.kill, name, signal.SIGSTOP)
        try:
            doubts = await asyncio.to_thread(database.calls_under_way, self.stack)
            await asyncio.sleep(planned.seconds)
        finally:
            await asyncio.to_thread(self.stack.kill, name, signal.SIGCONT)
        return doubts

    # services

    async def restart(self, planned: Planned, name: str) -> int:
        """Stop a service, without ceremony, and start it again."""
        await asyncio.to_thread(self.stack.stop_service, name)
        await asyncio.sleep(planned.seconds)
        await asyncio.to_thread(self.stack.restart_service, name)
        return await asyncio.to_thread(database.calls_under_way, self.stack) if name == "postgres" else 0

    async def flush(self, planned: Planned, _: str) -> int:
        """Empty Valkey."""
        await asyncio.to_thread(self.tell_valkey, "FLUSHALL")
        return 0

    async def make_valkey_read_only(self, planned: Planned, _: str) -> int:
        """Make it the replica of a server that is not there: it answers, and refuses to write."""
        await asyncio.to_thread(self.tell_valkey, "REPLICAOF", HOST, str(free_port()))
        try:
            await asyncio.sleep(planned.seconds)
        finally:
            await asyncio.to_thread(self.tell_valkey, "REPLICAOF", "NO", "ONE")
        return 0

    def tell_valkey(self, *words: str) -> None:
        """Send Valkey a command."""
        with redis.Redis.from_url(self.stack.env["REDIS_URL"]) as client:
            client.execute_command(*words)

    async def make_postgres_read_only(self, planned: Planned, _: str) -> int:
        """Make every transaction read-only, also those of sessions that are open."""
        await asyncio.to_thread(database.set_read_only, self.stack, True)
        try:
            await asyncio.sleep(planned.seconds)
        finally:
            await asyncio.to_thread(database.set_read_only, self.stack, False)
        return 0

    # one org's, and nobody's

    async def poison(self, planned: Planned, _: str) -> int:
        """Post what cannot be read, rightly signed."""
        assert planned.org is not None
        await spread_poison(self.people, planned.org, planned.seconds)
        return 0

    async def scramble(self, planned: Planned, _: str) -> int:
        """Leave an org with credentials that no key of ours fits."""
        assert planned.org is not None
        org = self.scene.companies[planned.org].org
        kept = await asyncio.to_thread(database.scramble_credentials, self.stack, org)
        try:
            await asyncio.sleep(planned.seconds)
        finally:
            await asyncio.to_thread(database.restore_credentials, self.stack, kept)
        return 0

    async def hostile(self, planned: Planned, _: str) -> int:
        """Let somebody without credentials do harm, from a process of its own."""
        job = job_of(planned.kind.name, self.stack.web_url, self.scene.companies)
        attacker = await Helper.start("benchmarks.hostile", job)
        attacker.write("go")
        await asyncio.sleep(planned.seconds)
        await attacker.close()
        return 0

    # far sides

    async def misbehave(self, planned: Planned, whom: str) -> int:
        """Have the far sides misbehave; gives how many calls the connector can be in doubt about."""
        scene, what = self.scene, planned.kind.action.partition(" ")[0]
        if what in ("expire", "relogin"):
            await scene.control("POST", "/control/tokens/expire")
        if what == "refuse":
            for _ in scene.companies:
                await scene.control("POST", "/control/replays/refuse")
        if what in ("cut", "refuse"):
            await scene.control("POST", "/control/streams/cut")
        org = {"org": scene.companies[planned.org].org} if planned.org is not None else {}
        ids = [(await scene.control("POST", "/control/faults", fault | org))["id"] for fault in planned.kind.faults]
        scene.doubling, scene.losing = what == "double" or scene.doubling, what == "lose" or scene.losing
        await asyncio.sleep(planned.seconds)
        scene.doubling, scene.losing = what != "double" and scene.doubling, what != "lose" and scene.losing
        doubts = 0
        for fault_id, fault in zip(ids, planned.kind.faults, strict=True):
            used = (await scene.control("DELETE", f"/control/faults/{fault_id}"))["used"]
            if leaves_doubt(fault):
                doubts += fault["count"] if used is None else used
        return doubts
