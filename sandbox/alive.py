"""A small life for the demo: one conversation that has begun, and a second customer who writes when somebody looks."""

import asyncio
import urllib.parse

from sandbox.console import Console, text_message
from sandbox.infobip import Infobip
from sandbox.world import Account, Phone, World

END_USERS = [
    ("385991234567", "Ana Horvat"),
    ("447700900555", "Ben Okafor"),
    ("8613800000001", "Chen Wei"),
    ("989120000001", "لیلا احمدی"),
]
CHATBOTS_USER = ("385991234560", "Marta Vidal (chatbot)")  # who writes to the sender that a chatbot answers
OPENING = [
    (True, "Hi, my order 4711 has not arrived yet."),
    (False, "Hello Ana, let me have a look."),
    (False, "It left our depot this morning and arrives tomorrow before noon."),
    (True, "Great, thank you!"),
]
SECOND = "Hello, do you deliver to Ireland?"
PATIENCE = 30.0  # seconds for one message to travel
PAUSE = 0.7  # between two messages
SECOND_COMES = 3.0  # seconds after the page is first opened


async def play(world: World, infobip: Infobip, console: Console) -> None:
    """Play it once, for the first org."""
    await world.org_added.wait()
    org = next(iter(world.orgs.values()))
    account = next(account for account in org.accounts.values() if account.senders)
    sender = min(account.senders)
    phones = [world.phone(account, user, sender, name) for user, name in END_USERS]
    ana, ben = phones[:2]
    for number in org.chatbot_first:
        world.phone(account, CHATBOTS_USER[0], number, CHATBOTS_USER[1])
    world.open_chat = (org.id, ana.user)
    await connector_listens(account)
    for inbound, text in OPENING:
        if inbound:
            await infobip.write(account, ana, {"type": "TEXT", "text": text})
            travelled = await arrives_in_console(world, ana, text)
        else:
            conversation = next(iter(org.conversations.values()))
            console.reply(conversation, text_message(text))
            travelled = await arrives_on_phone(ana, text)
        if not travelled:
            break  # the wire on the page says why
        await asyncio.sleep(PAUSE)
    org.queues = True  # from now on a rep accepts each session, as the person at the page likes
    await world.live.first_page.wait()
    await asyncio.sleep(SECOND_COMES)
    await infobip.write(account, ben, {"type": "TEXT", "text": SECOND})


async def connector_listens(account: Account) -> None:
    """Wait until the connector's door is open."""
    place = urllib.parse.urlsplit(account.webhook)
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection(place.hostname, place.port or 80)
        except OSError:
            await asyncio.sleep(0.2)
        else:
            writer.close()
            return


async def arrives_in_console(world: World, phone: Phone, text: str) -> bool:
    """Wait for a line in the console."""
    for _ in range(int(PATIENCE / 0.05)):
        for session in world.sessions.values():
            if session.conversation.user == phone.user and any(m.text == text for m in session.messages):
                return True
        await asyncio.sleep(0.05)
    return False


async def arrives_on_phone(phone: Phone, text: str) -> bool:
    """Wait for a message on a phone."""
    for _ in range(int(PATIENCE / 0.05)):
        if any(m.text == text and not m.mine for m in phone.messages):
            return True
        await asyncio.sleep(0.05)
    return False
