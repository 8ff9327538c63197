"""A hand-over: how soon a rep sees what was said with the chatbot."""

import asyncio
import json

from benchmarks.bench import DISTANCE, Bench
from benchmarks.figures import Row, Series, Verdict, percentile
from benchmarks.load import user

LINES = 40


async def handover(bench: Bench) -> Row:
    """Measure how soon a rep sees a transcript, once it is complete."""
    first, whole = (
        Series("its first line at Salesforce", "ms", ours=True),
        Series("all of it at Salesforce", "ms", ours=True),
    )
    count = bench.size.of(6, full=50, smoke=2)
    row = Row(
        "handover",
        "From the transcript is complete to its lines at Salesforce",
        f"A chatbot hands over {count} conversations of {LINES} lines, one after the other, with both platforms 50 ms "
        "away; from Infobip's last answer about the transcript to Salesforce's answer to a line; medians.",
        [first, whole],
        [Verdict(first, must=500, goal=250, at_least=False)],
    )
    await bench.set_distance(DISTANCE)
    company = bench.companies[-1]
    document = json.loads(json.dumps(company.document))
    document["channels"][0]["senders"][0]["chatbotFirst"] = True
    await asyncio.to_thread(bench.stack.provision, document)
    await bench.control("POST", "/control/chatbot", {"lag": 0.5})
    for run in range(bench.size.runs):
        begun, ended = [], []
        for number in range(count):
            shown, read = await hand_over(bench, user(900_000 + run * count + number))
            begun.append(shown[0] - read)
            ended.append(shown[-1] - read)
        first.values.append(percentile(begun, 50))
        whole.values.append(percentile(ended, 50))
    await asyncio.to_thread(bench.stack.provision, company.document)
    return row


async def hand_over(bench: Bench, end_user: str) -> tuple[list[float], float]:
    """Hand one conversation over: when its lines were at Salesforce, and when the transcript was read last."""
    company = bench.companies[-1]
    who = {"org": company.org, "from": end_user, "to": company.sender, "name": "Ana"}
    said = [{"author": ("CUSTOMER", "BOT")[n % 2], "text": f"line {n}", "secondsAgo": 90 - n} for n in range(LINES)]
    made = await bench.control("POST", "/control/chatbot/conversations", {**who, "messages": said})
    mark = await bench.journal_end()
    await bench.control("POST", "/control/chatbot/handover", made)
    shown = await bench.lines_of(end_user, mark, LINES + 2)
    return shown, await bench.last_read(made["conversation"], mark)
