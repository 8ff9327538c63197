"""The control API shows the world to the page, and lets nobody else in."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sandbox.journal import Journal
from tests.sandbox.far_sides import ANA, SENDER, far_sides, text_interaction


async def read_event(content: Any) -> tuple[str, Any]:
    """Read one server-sent event, passing over comments."""
    while not (line := (await content.readline()).decode()).startswith("event: "):
        pass
    data = (await content.readline()).decode()
    return line.removeprefix("event: ").strip(), json.loads(data.removeprefix("data: "))


def test_a_page_gets_the_state_and_then_each_change() -> None:
    async def scenario() -> None:
        async with far_sides() as sides, sides.client.get(sides.page + "/control/live") as stream:
            name, state = await read_event(stream.content)
            assert name == "state"
            assert [org["orgId"] for org in state["orgs"]] == [sides.org_id]
            assert state["orgs"][0]["senders"] == [SENDER]
            assert state["adminUrl"] == sides.webhook.removesuffix("messages") + "admin/"
            await sides.control("POST", "/control/phone/messages", {"from": ANA, "to": SENDER, "name": "Ana", "text": "hi"})
            await sides.interact(await sides.token(), text_interaction("hi"))
            await sides.control("POST", "/control/faults", {"where": "send", "what": "status"})
            seen: dict[str, Any] = {}
            while not {"phone", "wire", "session", "faults"} <= set(seen) or not seen["wire"]["done"]:
                name, data = await asyncio.wait_for(read_event(stream.content), 5)
                seen[name] = data
            assert seen["phone"]["messages"][0]["text"] == "hi"
            assert seen["session"]["name"] == "Ana"
            assert seen["faults"][0]["where"] == "send"

    asyncio.run(scenario())


def test_the_journal_is_read_from_a_number_on_and_is_bounded() -> None:
    journal = Journal(kept=3)
    for number in range(5):
        journal.write("phone" if number % 2 else "console", "kind", org="a", error=None)
    assert [entry["seq"] for entry in journal.read()] == [3, 4, 5]
    assert [entry["seq"] for entry in journal.read(after=4)] == [5]
    assert [entry["seq"] for entry in journal.read(side="phone")] == [4]
    assert journal.read(org="b") == [] and "error" not in journal.read()[0]


def test_pages_of_other_sites_and_unreadable_bodies_are_refused() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            url = sides.page + "/control/tokens/expire"
            async with sides.client.post(url, headers={"Origin": "https://evil.example"}) as response:
                assert response.status == 403
            async with sides.client.post(url, headers={"Origin": sides.page}) as response:
                assert response.status == 200
            async with sides.client.post(sides.page + "/control/clock", data=b"{") as response:
                assert response.status == 400
            document = sides.document()
            document["org"]["orgId"] = "00D5g00000ABcDEXXX"
            await sides.control("POST", "/control/orgs", {"document": document}, 400)
            await sides.control("POST", "/control/console/end", {"session": "0Mw"}, 404)

    asyncio.run(scenario())


def test_an_org_can_be_replaced_and_what_was_said_stays() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            token, conversation, _ = await sides.ana_and_the_rep()
            document = sides.document()
            document["infobipAccounts"][0]["apiKey"] = "key-new"
            await sides.control("POST", "/control/orgs", {"document": document, "webhooks": {"main": sides.webhook}})
            _, answer = await sides.interact(token, text_interaction("still me"))
            assert answer["conversationIdentifier"] == conversation
            assert (await sides.send({}))[0] == 401

    asyncio.run(scenario())


def test_a_process_is_found_by_its_pid_file_and_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            sides.sandbox.control.run_folder = tmp_path
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (tmp_path / "worker.pid").write_text(f"{child.pid}\n")
            await sides.until(lambda: sides.sandbox.control.processes)
            assert sides.sandbox.control.processes == [{"name": "worker", "pid": child.pid, "alive": True}]
            body = {"name": "worker", "signal": int(signal.SIGKILL)}
            assert await sides.control("POST", "/control/processes/kill", body) == {"pid": child.pid}
            assert child.wait(5) == -signal.SIGKILL
            await sides.until(lambda: not sides.sandbox.control.processes[0]["alive"])
            await sides.control("POST", "/control/processes/kill", {"name": "../worker"}, 404)

    asyncio.run(scenario())


def test_a_fault_that_is_turned_off_says_how_often_it_was_used() -> None:
    async def scenario() -> None:
        async with far_sides() as sides:
            lasting = await sides.control("POST", "/control/faults", {"where": "send", "what": "status"})
            once = await sides.control("POST", "/control/faults", {"where": "login", "what": "status", "count": 1})
            for _ in range(2):
                assert (await sides.send({}))[0] == 500
            assert await sides.control("DELETE", f"/control/faults/{lasting['id']}") == {"used": 2}
            await sides.login()
            assert await sides.control("DELETE", f"/control/faults/{once['id']}") == {"used": None}

    asyncio.run(scenario())
