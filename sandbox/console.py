"""The service console: what a rep does there, and the platform events that come of it."""

import json
import uuid
from typing import Any

from sandbox.journal import now_ms
from sandbox.pubsub import PubSub
from sandbox.world import REP_NAME, Conversation, Session, World

MARKUP = set("*_`[#~>-")  # a text with these may leave the connector in other words
OTHER_REP = "Petra Novak"
REP = {"appType": "agent", "subject": "0055g00000XyZab", "role": "Agent"}
SYSTEM = {"appType": "conversation", "subject": "conversation-service", "role": "System"}


class Console:
    """What reps do."""

    def __init__(self, world: World, pubsub: PubSub) -> None:
        self.world = world
        self.pubsub = pubsub

    def reply(self, conversation: Conversation, message: dict[str, Any]) -> str:
        """Write to the end user; return the id of the entry.

        The event has the form of https://github.com/salesforce-misc/interaction-service-apis (outbound payload).

        :raises ValueError: if no session is open, or nobody has accepted it, as a rep cannot write then
        """
        session = conversation.session
        if session and session.status == "Waiting":
            raise ValueError("The session waits for a rep. Accept it first.")
        if session is None or session.status != "Active":
            raise ValueError("The session has ended. The end user must write first.")
        entry = str(message.setdefault("id", str(uuid.uuid4())))
        text = words_of(message)
        plain = message.get("messageType") == "StaticContentMessage" and not MARKUP & set(text)
        row = self.world.wire.start(
            inbound=False, org=conversation.org.id, user=conversation.user, text=text, plain=plain, key=entry
        )
        conversation.org.entries[entry] = self.world.show_in_console(session, entry, text, mine=True)
        self.world.journal.write(
            "console",
            "reply",
            org=conversation.org.id,
            conversation=conversation.id,
            session=session.id,
            to=conversation.user,
            id=entry,
            text=text,
        )
        payload = {"entryType": "Message", "id": entry, "abstractMessage": message, "messageReason": None}
        self.publish(conversation, entry, payload, REP, REP_NAME)
        if not conversation.channel.publishes:
            self.world.wire.trouble(row, "the platform's permission set sfdc_scrt2 may not publish the event")
            return entry
        self.world.wire.mark(row, "published")
        if not self.pubsub.is_heard(conversation.channel.topic):
            self.world.wire.trouble(row, "nobody is subscribed to the event stream")
        return entry

    def publish(
        self, conversation: Conversation, entry: str, payload: dict[str, Any], sender: dict[str, str], name: str | None
    ) -> None:
        """Publish one conversation entry as a platform event."""
        now = int(now_ms())
        wrapped = {
            **({"senderDisplayName": name} if name else {}),
            "identifier": entry,
            "entryType": payload["entryType"],
            "entryPayload": payload,
            "sender": sender,
            "transcriptedTimestamp": now,
            "clientTimestamp": now,
            "clientDuration": 0,
        }
        event = {
            "conversationIdentifier": conversation.id,
            "channelAddressIdentifier": conversation.channel.address,
            "recipient": {"appType": "custom", "subject": conversation.user, "role": "EndUser"},
            "payload": wrapped,
        }
        if not conversation.channel.publishes:  # its own permission set lacks the event: nothing comes, and nothing says so
            self.world.journal.write("pubsub", "event_lost", org=conversation.org.id, id=entry, text=payload["entryType"])
            return
        self.world.journal.write(
            "pubsub",
            "event_published",
            org=conversation.org.id,
            conversation=conversation.id,
            id=entry,
            text=payload["entryType"],
        )
        conversation.channel.topic.publish("Interaction", json.dumps(event, ensure_ascii=False), entry=entry)

    def end(self, session: Session) -> None:
        """End a session; the next message of the end user opens a new one."""
        if session.status == "Ended":
            return
        session.status = "Ended"
        session.ended = now_ms()
        conversation = session.conversation
        if session.rep:
            self.change_reps(session, ("remove", session.rep))
        entry = str(uuid.uuid4())
        payload = {
            "entryType": "SessionStatusChanged",
            "id": entry,
            "sessionId": session.id,
            "channelAddressIdentifier": conversation.channel.address,
            "conversationIdentifier": conversation.id,
            "sessionStatus": "Ended",
            "sessionStatusPrev": "Active",
            "sessionStartTime": int(session.started / 1000),  # the schema's example is in seconds
            "sessionEndTime": int(now_ms() / 1000),
            "sessionEndedByRole": "Agent",
        }
        if conversation.org.tells_end:
            self.publish(conversation, entry, payload, SYSTEM, None)
        self.world.journal.write(
            "console", "session_end", org=conversation.org.id, conversation=conversation.id, session=session.id
        )
        self.world.session_changed(session)

    def delete(self, session: Session) -> None:
        """Delete a session's record: the session is over, and no event says so."""
        session.status, session.ended = "Ended", now_ms()
        del self.world.sessions[session.id]
        self.world.session_changed(session)

    def accept(self, session: Session) -> None:
        """Take a session that waits."""
        if session.status == "Waiting":
            session.status = "Active"
            session.rep = REP_NAME
            self.change_reps(session, ("add", REP_NAME))
            self.world.session_changed(session)

    def transfer(self, session: Session) -> None:
        """Pass a session on to the other rep, who takes it."""
        if session.status == "Active" and session.rep:
            before, session.rep = session.rep, OTHER_REP if session.rep == REP_NAME else REP_NAME
            self.change_reps(session, ("remove", before))
            self.change_reps(session, ("add", session.rep))
            self.world.session_changed(session)

    def change_reps(self, session: Session, change: tuple[str, str]) -> None:
        """Publish that a rep came or went."""
        operation, name = change
        entry = str(uuid.uuid4())
        who = {"operation": operation, "menuMetadata": None, "participant": REP, "displayName": name}
        payload = {"entryType": "ParticipantChanged", "id": entry, "entries": [who]}
        self.publish(session.conversation, entry, payload, SYSTEM, "System")

    def respond_automatically(self, conversation: Conversation, text: str) -> str:
        """Let the channel write by itself, as its automatic responses do."""
        entry = str(uuid.uuid4())
        message = {**text_message(text), "id": entry}
        payload = {
            "entryType": "Message",
            "id": entry,
            "abstractMessage": message,
            "messageReason": "AutomatedResponse",
        }
        self.publish(conversation, entry, payload, SYSTEM, "Automated Process")
        return entry

    def open(self, session: Session) -> None:
        """Read a session."""
        session.unread = 0
        self.world.session_changed(session)


def text_message(text: str) -> dict[str, Any]:
    """Return a message of plain text."""
    message_id = str(uuid.uuid4())
    content = {"formatType": "Text", "text": text}
    return {"messageType": "StaticContentMessage", "id": message_id, "staticContent": content}


def words_of(message: dict[str, Any]) -> str:
    """Return what the console shows of a rep's message."""
    for name in ("staticContent", "choices", "form"):
        content = message.get(name)
        if isinstance(content, dict):
            files = content.get("attachments")
            names = ", ".join(str(file.get("name")) for file in files) if isinstance(files, list) else ""
            return str(
                content.get("text") or content.get("title") or (f"[{names}]" if names else f"[{content.get('formatType')}]")
            )
    return f"[{message.get('messageType')}]"
