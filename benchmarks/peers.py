"""Peers of the relay: what others build for the same work, calling the same far side with the same requests.

One Celery task per message, with `requests` and 64 threads, and a bare asyncio loop with as many calls under way as the
connector has, each in a process of its own. Neither keeps an order, leases, or any row: they do less than the connector and
write nothing down.
"""

import asyncio
import itertools
import json
import os
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import aiohttp
import jwt
import requests
from celery import Celery

from benchmarks.load import Company
from benchmarks.loader import read_line

AT_ONCE = 64
QUEUE = "bench-peer"
_numbers = itertools.count(1)

app = Celery("peer", broker=os.environ.get("REDIS_URL", ""))
app.conf.update(task_default_queue=QUEUE, task_ignore_result=True, worker_hijack_root_logger=False)
_sessions = threading.local()


@app.task(name="relay_one")
def relay_one(url: str, headers: dict[str, str], body: str) -> None:
    """Carry one message."""
    session = getattr(_sessions, "session", None)
    if session is None:
        session = _sessions.session = requests.Session()
    answer = session.post(url, data=body.encode(), headers=headers, timeout=14)
    answer.raise_for_status()


async def log_in(client: aiohttp.ClientSession, company: Company) -> str:
    """Get an access token of the org: https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_jwt_flow.htm"""
    org = company.document["org"]
    claims = {"iss": org["consumerKey"], "sub": org["username"], "aud": org["baseUrl"], "exp": int(time.time()) + 180}
    assertion = jwt.encode(claims, org["privateKey"], algorithm="RS256")
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    async with client.post(f"{org['baseUrl']}/services/oauth2/token", data=form) as answer:
        return str((await answer.json())["access_token"])


def interaction(company: Company, token: str, user: str) -> tuple[str, dict[str, str], str]:
    """Write a request of the Interaction Service, as the connector writes it: address, headers and body."""
    entry, channel = str(uuid4()), company.document["channels"][0]
    text = f"peer {next(_numbers)}: where is the parcel that I ordered last Monday, please?"
    content = f'"staticContent":{{"formatType":"Text","text":"{text}"}}'
    message = f'{{"messageType":"StaticContentMessage","id":"{entry}",{content}}}'
    payload = f'{{"id":"{entry}","entryType":"Message","abstractMessage":{message}}}'
    single = f'{{"timestamp":{int(time.time() * 1000)},"interactionType":"EntryInteraction","payload":{payload}}}'
    body = f'{{"to":"{channel["channelAddressIdentifier"]}","from":"{user}","interactions":[{single}]}}'
    boundary = uuid4().hex
    head = 'Content-Disposition: form-data; name="json"\r\nContent-Type: application/json'
    headers = {
        "Authorization": f"Bearer {token}",
        "OrgId": company.org[:15],
        "AuthorizationContext": channel["authorizationContext"],
        "RequestId": str(uuid4()),
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    url = f"{company.document['org']['scrtUrl']}/api/v1/interactions"
    return url, headers, f"--{boundary}\r\n{head}\r\n\r\n{body}\r\n--{boundary}--\r\n"


async def relay(calls: Sequence[tuple[str, dict[str, str], str]], at_once: int) -> None:
    """Carry all of them, so many at once."""
    waiting = iter(calls)
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector) as client:

        async def carry() -> None:
            for url, headers, body in waiting:
                async with client.post(url, data=body.encode(), headers=headers) as answer:
                    answer.raise_for_status()
                    await answer.read()

        await asyncio.gather(*(carry() for _ in range(at_once)))


def enqueue(broker: str, calls: Sequence[tuple[str, dict[str, str], str]]) -> None:
    """Publish one task per message."""
    with app.connection_for_write(broker) as connection, app.amqp.Producer(connection) as producer:
        for call in calls:
            relay_one.apply_async(args=call, producer=producer)


def worker_command(python_folder: str) -> list[str]:
    """Say how Celery's worker is started."""
    options: list[Any] = ["-P", "threads", "--concurrency", AT_ONCE, "-Q", QUEUE, "--loglevel", "WARNING"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [f"{python_folder}/celery", "-A", "benchmarks.peers", "worker", *map(str, options), *quiet]


def main() -> None:
    """Carry what standard input holds: how many at once, and the calls; print the seconds of CPU that it took."""
    work = json.loads(read_line())
    print("ready", flush=True)
    read_line()
    begun = time.process_time()
    asyncio.run(relay(work["calls"], work["at_once"]))
    print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
