"""Lets end users talk to a chatbot that hands them over to a rep, while everything breaks."""

import asyncio

from benchmarks.load import user as number
from tests.faults.checker import Sent
from tests.faults.scene import ORGS, Scene
from tests.faults.schedule import FIRST_CHATTER, Chat

HANDED_OVER = ORGS  # no org's number: how long these messages take says nothing of a fault, as a transcript is late
PAUSE_SECONDS = 0.2  # between two lines
TRANSCRIPT_SECONDS = 6.0  # by which a transcript is imported, where nothing is broken


def chatbot_number(org: int) -> str:
    """Give the number of an org's that a chatbot answers first."""
    return str(447700900180 + org)


async def talk(scene: Scene, chat: Chat) -> None:
    """Carry one conversation on: to the chatbot, while it hands over, and to the rep."""
    await asyncio.sleep(max(0.0, chat.at - scene.now()))
    await _write_all(scene, chat, chat.before)
    company = scene.company(chat.user)
    party = {"org": company.org, "from": number(FIRST_CHATTER + chat.user), "to": chatbot_number(chat.user % ORGS)}
    conversation = (await scene.control("POST", "/control/chatbot/conversations", party))["conversation"]
    handing_over = asyncio.create_task(_hand_over(scene, conversation))
    await _write_all(scene, chat, chat.during)
    await handing_over
    await asyncio.sleep(TRANSCRIPT_SECONDS)
    await _write_all(scene, chat, chat.after)


async def _write_all(scene: Scene, chat: Chat, texts: tuple[str, ...]) -> None:
    for text in texts:
        begun = scene.now()
        message = {
            "org": scene.company(chat.user).org,
            "from": number(FIRST_CHATTER + chat.user),
            "to": chatbot_number(chat.user % ORGS),
            "text": text,
        }
        answer = await scene.control("POST", "/control/phone/messages", message)
        scene.text_of_entry[answer["messageId"]] = text
        taken = all(each["status"] == 200 for each in answer["answers"])  # else the sandbox tries again
        scene.sent[text] = Sent(
            text, "inbound", HANDED_OVER, FIRST_CHATTER + chat.user, begun, scene.now() if taken else None
        )
        await asyncio.sleep(PAUSE_SECONDS)


async def _hand_over(scene: Scene, conversation: str) -> None:
    """Call for a rep until the call is taken, as a flow does."""
    while True:
        body = {"conversation": conversation}
        answers = (await scene.control("POST", "/control/chatbot/handover", body))["answers"]
        if all(each["status"] == 200 for each in answers):
            return
        await asyncio.sleep(PAUSE_SECONDS)
