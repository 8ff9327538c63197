"""Finds what operators look for, by what people paste: each an exact look-up, or the beginning of a value, by an index."""

import re
from collections.abc import Iterable, Sequence
from uuid import UUID

from connector.phone import digits_of, spellings_of
from messaging.models import Address, Conversation, Direction, Message, Session, Status
from messaging.query import query
from tenants.ledgers import MOST_LISTED
from tenants.onboarding import long_org_id

MOST_REPORTED = 100  # messages of a conversation whose arrivals are looked for
HIGHEST = "\U0010ffff"
# Infobip's ids of a status: https://www.infobip.com/docs/essentials/api-essentials/response-status-and-error-codes
DELIVERED = 5
UNDER_WAY = (2, 3, 7, 26)
GONE_WRONG = (4, 6, *range(8, 16), *range(17, 22), *range(23, 26), 29, 31, 51, 52, 87, 100)
WEBHOOK_KEYS = ("{}", "message:{}", "conversation:{}", "seen:{}", f"delivery:{{}}:{DELIVERED}")
STREAM_KEYS = ("{}", "event:{}")

SHORT_ID = re.compile("[0-9A-Za-z]{15}")


def find_messages(term: str) -> set[int]:
    """Look for a platform's id on each channel, as the index is by channel: it costs by channels, not by messages."""
    found = query(
        """SELECT message.id FROM tenants_channel channel CROSS JOIN LATERAL (
               SELECT id FROM messaging_message
               WHERE channel_id = channel.id AND source_entry = %s LIMIT %s) AS message""",
        [term, MOST_LISTED],
    )
    if not found:  # of a channel's further accounts, ids stand behind the account's number: ingest.py
        found = query(
            """SELECT message.id FROM (SELECT DISTINCT channel_id, account_id FROM tenants_sender) AS used
               CROSS JOIN LATERAL (
                   SELECT id FROM messaging_message WHERE channel_id = used.channel_id
                     AND source_entry = used.account_id || ':' || %s LIMIT %s) AS message""",
            [term, MOST_LISTED],
        )
    return {message_id for (message_id,) in found}


def find_conversations(term: str) -> set[int]:
    """Look for an end user: by any of their addresses, as people write numbers, or by how the name begins."""
    of_address = Address.objects.filter(address__in={term, *spellings_of(digits_of(term) or term)})
    found = set(of_address.values_list("conversation", flat=True)[:MOST_LISTED])
    for spelling in {term, term.title(), term.lower(), term.upper()}:
        # spelt out, since in a prepared statement LIKE finds no index, and under a policy neither does lower()
        found |= {
            conversation_id
            for (conversation_id,) in query(
                "SELECT id FROM messaging_conversation WHERE name ~>=~ %s AND name ~<~ %s ORDER BY name USING ~<~ LIMIT %s",
                [spelling, spelling + HIGHEST, MOST_LISTED],
            )
        }
    return found


def find_sessions(term: str) -> set[int]:
    """Look for a session by its id of 15 or of 18 characters, of which Salesforce shows now one, now the other."""
    ids = {term, term[:15], long_org_id(term)} if SHORT_ID.fullmatch(term[:15]) and len(term) in (15, 18) else {term}
    return set(Session.objects.filter(salesforce_id__in=ids).values_list("pk", flat=True)[:MOST_LISTED])


def find_arrivals(term: str) -> set[int]:
    """Look for arrivals by their key, or by an id of a message that a key holds.

    By the key in each account and stream, as the indexes are by these: it costs by accounts, not by arrivals. Reports of
    all kinds are found where the message is known, since a key of theirs ends with the status.
    """
    uuid = _uuid(term)
    name = str(uuid) if uuid else term
    found: set[int] = set()
    for form in WEBHOOK_KEYS:
        found |= _in_every("tenants_infobipaccount", "account_id", form.format(name))
    for form in STREAM_KEYS:
        found |= _in_every("messaging_eventsubscription", "subscription_id", form.format(name))
    named = Message.objects.filter(uuid=uuid) if uuid else Message.objects.filter(pk__in=find_messages(term))
    for message in named[:MOST_REPORTED]:
        found |= _of_org(message.org_id, _keys(message, GONE_WRONG))
    return found


def _uuid(term: str) -> UUID | None:
    try:
        return UUID(term)
    except ValueError:
        return None


def _in_every(sources: str, column: str, key: str) -> set[int]:
    rows = query(
        f"""SELECT event.id FROM {sources} source CROSS JOIN LATERAL (
                SELECT id FROM messaging_receivedevent
                WHERE org_id = source.org_id AND {column} = source.id AND key = %s LIMIT 1) AS event""",
        [key],
    )
    return {event_id for (event_id,) in rows}


def messages_of(conversation_id: int) -> list[int]:
    """Give the newest messages of a conversation, from its lanes, whose index is in their order."""
    rows = query(
        """SELECT message.id FROM messaging_lane lane CROSS JOIN LATERAL (
               SELECT id FROM messaging_message WHERE lane_id = lane.id ORDER BY position DESC LIMIT %s) AS message
           WHERE lane.conversation_id = %s""",
        [MOST_LISTED, conversation_id],
    )
    return sorted((message_id for (message_id,) in rows), reverse=True)[:MOST_LISTED]


def arrivals_of(conversation_id: int) -> set[int]:
    """Give what Infobip posted of the newest messages of a conversation."""
    conversation = Conversation.objects.filter(pk=conversation_id).first()
    if conversation is None:
        return set()
    messages = Message.objects.filter(pk__in=messages_of(conversation_id)[:MOST_REPORTED])
    keys = [key for each in messages for key in _keys(each, GONE_WRONG if each.status == Status.FAILED else ())]
    return _of_org(conversation.org_id, keys)


def _keys(message: Message, also: Iterable[int]) -> list[str]:
    """Name the keys under which Infobip's webhooks about a message are kept; ``also``: further statuses of reports."""
    if message.direction == Direction.INBOUND:
        name = re.sub(r"^\d+:", "", message.source_entry)  # where its account is not the channel's first: ingest.py
        return [f"message:{name}", f"conversation:{name}"]
    return [f"seen:{message.uuid}", *(f"delivery:{message.uuid}:{n}" for n in (DELIVERED, *UNDER_WAY, *also))]


def _of_org(org_id: int, keys: Sequence[str]) -> set[int]:
    rows = query(
        """SELECT event.id FROM tenants_infobipaccount account CROSS JOIN unnest(%s::text[]) AS wanted (key)
           CROSS JOIN LATERAL (
               SELECT id FROM messaging_receivedevent
               WHERE org_id = account.org_id AND account_id = account.id AND key = wanted.key LIMIT 1) AS event
           WHERE account.org_id = %s""",
        [list(keys), org_id],
    )
    return {event_id for (event_id,) in rows}
