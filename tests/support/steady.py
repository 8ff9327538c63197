"""Sends signed webhooks at times fixed in advance until its input is closed; prints what became of each."""

import asyncio
import hashlib
import hmac
import json
import sys
import time

import aiohttp


def webhook(number: int, sender: str) -> bytes:
    message = {"type": "TEXT", "text": "Where is my order?"}
    result = {"from": "385991234567", "to": sender, "integrationType": "WHATSAPP", "messageId": f"steady.{number}"}
    return json.dumps({"results": [result | {"message": message, "receivedAt": "2026-03-02T08:15:30.000+0000"}]}).encode()


async def main(url: str, secret: str, sender: str, rate: float) -> None:
    seen: list[tuple[int, float]] = []

    async def send(body: bytes, intended: float) -> None:
        headers = {"X-Hub-Signature": "SHA256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}
        try:
            async with client.post(url, data=body, headers=headers) as answer:
                await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        seen.append((status, time.monotonic() - intended))

    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # there must be room for new connections too
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as client:
        await send(webhook(0, sender), time.monotonic())  # what the first one costs is nobody's doing
        seen.clear()
        print("begun", flush=True)
        closed = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        began = time.monotonic()
        tasks: list[asyncio.Task[None]] = []
        while not closed.done():
            intended = began + len(tasks) / rate
            await asyncio.sleep(max(0.0, intended - time.monotonic()))
            tasks.append(asyncio.create_task(send(webhook(len(tasks), sender), intended)))
        await asyncio.gather(*tasks)
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
