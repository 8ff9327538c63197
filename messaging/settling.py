"""Keeps a transcript as it is read, tells when it is complete, and settles which of its lines the rep reads in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import QuerySet

from connector.events import split_text
from connector.infobip.conversations import Author, Line, Page
from connector.salesforce.interactions import TEXT_LIMIT
from messaging.leases import LeaseLost
from messaging.matching import Place, Said, Settlement, Written, likeness_of, settle
from messaging.models import ChatbotMessage, Conversation, Direction, Handover, Lane, LeftMessage, Message, TranscriptLine
from messaging.query import query, records
from messaging.transcript import Entry
from tenants.models import TranscriptForm

LEASE_SECONDS = 30.0  # from each page on
LAG = timedelta(seconds=3)  # by which a transcript is complete, where no event named a line of it
UNREAD = timedelta(days=1)  # so long before the call, where the transcript cannot be read: too much is better than nothing
RECENT = timedelta(minutes=2)  # before the call: what came so late, and is of no known conversation, belongs to this one


def note_progress(handover: Handover, change: str, parameters: Sequence[object]) -> None:
    """Change a hand-over's row while its step goes on, and prolong the lease; in the caller's transaction.

    :param change: what SQL's SET says
    :raises LeaseLost: if the hand-over is somebody else's by now
    """
    mine = query(
        f"""UPDATE messaging_handover SET {change}, leased_until = clock_timestamp() + make_interval(secs => %s)
            WHERE id = %s AND lease_id = %s RETURNING id""",
        [*parameters, LEASE_SECONDS, handover.pk, handover.lease_id],
    )
    if not mine:
        raise LeaseLost


def keep_page(handover: Handover, number: int, page: Page) -> int:
    """Keep what was read, so that nobody reads it again; gives the page to read next.

    At the end that is the last full one: the newest lines appear late, among those that are there.

    :raises LeaseLost: if the hand-over is somebody else's by now
    """
    following = number + 1 if page.more else max(0, number - 1)
    note_progress(handover, "page = %s, page_at = clock_timestamp()", [following])
    lines = {line.id: (place, line) for place, line in page.lines}
    query(
        """INSERT INTO messaging_transcriptline AS known (org_id, account_id, handover_id, conversation_id,
               infobip_conversation, infobip_id, channel_id, likeness, author, text, at, ordinal, state, read_at)
           SELECT %s, %s, %s, %s, %s, infobip_id, '', likeness, author, text, at, ordinal, 'read', clock_timestamp()
           FROM jsonb_to_recordset(%s::jsonb) AS come (infobip_id text, likeness text, author text, text text,
               at timestamptz, ordinal int)
           ON CONFLICT (org_id, account_id, infobip_id) DO UPDATE SET ordinal = EXCLUDED.ordinal,
               handover_id = CASE WHEN known.state = 'read' THEN EXCLUDED.handover_id ELSE known.handover_id END""",
        [
            handover.org_id,
            handover.account_id,
            handover.pk,
            handover.conversation_id,
            handover.infobip_conversation,
            records(_row(place, line) for place, line in lines.values()),
        ],
    )
    handover.page = following
    return following


def _row(place: int, line: Line) -> dict[str, object]:
    return {
        "infobip_id": line.id,
        "likeness": likeness_of(line.text),
        "author": line.author.value,
        "text": line.text,
        "at": line.at,
        "ordinal": place,
    }


def last_written(handover: Handover) -> datetime | None:
    """Say when the last line that was read was written."""
    return _lines(handover).order_by("-at").values_list("at", flat=True).first()


def is_complete(handover: Handover) -> bool:
    """Tell whether the transcript holds all that was left to it; where no event told of a line, whether it had the time."""
    if _settlement(handover, move=False).missing:
        return False
    return _told(handover).exists() or age(handover) >= LAG


def age(handover: Handover) -> timedelta:
    """Say for how long the conversation has been the reps'."""
    ((passed,),) = query("SELECT clock_timestamp() - %s::timestamptz", [handover.held_at])
    return passed  # type: ignore[no-any-return]


def settle_lines(handover: Handover, form: str) -> None:
    """Decide which lines the rep reads in the transcript; the caller has locked the lane.

    :param form: of the transcript, as its channel wants it
    """
    settlement = _settlement(handover, move=form == TranscriptForm.LINES)
    for state, ids in (
        (TranscriptLine.State.SHOWN, settlement.shown),
        (TranscriptLine.State.LEFT_OUT, settlement.left_out),
    ):
        query(
            """UPDATE messaging_transcriptline line SET state = %s, channel_id = COALESCE(brought.channel_id, '')
               FROM unnest(%s::bigint[], %s::text[]) AS brought (id, channel_id)
               WHERE line.id = brought.id AND line.id = ANY(%s)""",
            [state.value, ids, [settlement.channel_ids.get(each) for each in ids], ids],
        )
    left = LeftMessage.objects.filter(org_id=handover.org_id, conversation_id=_conversation_id(handover), settled=False)
    left.filter(source_entry__in=settlement.found).update(found=True)


def entries_of(handover: Handover) -> list[Entry]:
    """Give the lines that the rep reads in the transcript, in order; none is of a time ahead of our clock."""
    shown = _lines(handover).filter(handover_id=handover.pk, state=TranscriptLine.State.SHOWN).order_by("at", "ordinal")
    lines = list(shown)
    read_at = max((line.read_at for line in lines), default=None)
    return [
        Entry(
            Author(line.author),
            line.text,
            min(line.at, read_at or line.at),
            line.channel_id or f"infobip:{line.infobip_id}",
            line.infobip_id,
        )
        for line in lines
    ]


def missing_messages(handover: Handover, conversation: Conversation, *, read: bool) -> list[dict[str, object]]:
    """Write the messages that were left to the transcript and are not in it, in the order in which they came.

    :param read: whether the transcript was passed on; if not, nothing is in it
    """
    left = _left(handover)
    return [
        {
            "channel_id": conversation.channel_id,
            "sender_id": conversation.last_sender_id,
            "source_entry": each.source_entry,
            "part": part,
            "text": text,
            "written_at": each.written_at,
            "routing_attributes": None,
        }
        for each in left
        if _is_due(each, handover, since=RECENT if read else UNREAD) and not (read and each.found)
        for part, text in enumerate(split_text(each.text, TEXT_LIMIT))
    ]


def close(handover: Handover, *, read: bool) -> None:
    """Note that nothing is left to do about what was left to the transcript; of it and of the lines only ids are kept."""
    _left(handover).update(settled=True, text="")
    lines = _lines(handover).filter(handover_id=handover.pk)
    if read:
        lines.update(text="")
    else:
        lines.update(state=TranscriptLine.State.READ)


def _conversation_id(handover: Handover) -> int:
    assert handover.conversation_id is not None
    return handover.conversation_id


def _lines(handover: Handover) -> QuerySet[TranscriptLine]:
    return TranscriptLine.objects.filter(
        org_id=handover.org_id, account_id=handover.account_id, infobip_conversation=handover.infobip_conversation
    )


def _told(handover: Handover) -> QuerySet[ChatbotMessage]:
    # an account is one org's; asked for the org too, a planner without statistics reads all that the account has
    return ChatbotMessage.objects.filter(account_id=handover.account_id, infobip_conversation=handover.infobip_conversation)


def _left(handover: Handover) -> QuerySet[LeftMessage]:
    left = LeftMessage.objects.filter(org_id=handover.org_id, conversation_id=_conversation_id(handover), settled=False)
    return left.order_by("pk")


def _is_due(left: LeftMessage, handover: Handover, *, since: timedelta = RECENT) -> bool:
    if left.infobip_conversation:
        return left.infobip_conversation == handover.infobip_conversation
    return left.arrived_at >= handover.called_at - since


def _settlement(handover: Handover, *, move: bool) -> Settlement:
    channel_ids = dict(_told(handover).values_list("infobip_id", "channel_id"))
    earlier = _Earlier.of(handover)
    rows = list(_lines(handover).order_by("at", "ordinal").defer("text"))
    known = earlier.known(handover, rows)
    said = [
        Said(
            row.pk,
            row.channel_id or channel_ids.get(row.infobip_id, ""),
            row.likeness,
            row.author == Author.END_USER,
            known=row.pk in known,
        )
        for row in rows
    ]
    left = [
        Written(
            each.source_entry,
            likeness_of(each.text),
            Place.LEFT,
            due=_is_due(each, handover),
            elsewhere=each.infobip_conversation not in ("", handover.infobip_conversation),
        )
        for each in _left(handover)
    ]
    before, live = _relayed(handover, earlier.since)
    return settle(said, [*before, *left, *live], move=move)


def _relayed(handover: Handover, since: datetime | None) -> tuple[list[Written], list[Written]]:
    """Give what webhooks brought into the lane: since an earlier hand-over of the same conversation, and above the hold."""
    lane = Lane.objects.get(org_id=handover.org_id, conversation_id=_conversation_id(handover), direction=Direction.INBOUND)
    messages = Message.objects.filter(lane_id=lane.pk, part=0, ours=False).order_by("position")
    hold = lane.hold if lane.hold is not None else lane.position
    live = messages.filter(position__gt=hold)
    before = messages.filter(position__lte=hold, created_at__gte=since) if since is not None else messages.none()
    fields = ("source_entry", "text")
    return (
        [
            Written(entry, likeness_of(text), Place.BEFORE)
            for entry, text in before.values_list(*fields)
            if not entry.startswith(("infobip:", "handover:"))
        ],
        [Written(entry, likeness_of(text), Place.LIVE) for entry, text in live.values_list(*fields)],
    )


@dataclass(slots=True)
class _Earlier:
    """Earlier hand-overs of the same conversation at Infobip.

    :param since: when the first one began to relay
    :param unrecorded_until: the end of the last one of whose lines no ids are kept: they were too old, or it was before
        ids were kept. Its lines are known by the messages that they became, else by their time
    """

    ids: list[int] = field(default_factory=list)
    since: datetime | None = None
    unrecorded_until: datetime | None = None

    @classmethod
    def of(cls, handover: Handover) -> "_Earlier":
        others = Handover.objects.filter(
            org_id=handover.org_id, account_id=handover.account_id, infobip_conversation=handover.infobip_conversation
        )
        rows = list(others.exclude(pk=handover.pk).filter(held_at__isnull=False))
        recorded = set(_lines(handover).exclude(handover_id=handover.pk).values_list("handover_id", flat=True))
        ends = [each.ended_at for each in rows if each.ended_at and each.lines and each.pk not in recorded]
        begins = [each.held_at for each in rows if each.held_at is not None]
        return cls([each.pk for each in rows], min(begins, default=None), max(ends, default=None))

    def known(self, handover: Handover, rows: Sequence[TranscriptLine]) -> set[int]:
        """Name the lines that the rep has since an earlier session."""
        known = {row.pk for row in rows if row.handover_id != handover.pk and row.state != TranscriptLine.State.READ}
        if self.unrecorded_until is not None:
            until = self.unrecorded_until
            entries = {f"infobip:{row.infobip_id}": row.pk for row in rows}
            relayed = Message.objects.filter(
                org_id=handover.org_id, conversation_id=_conversation_id(handover), source_entry__in=list(entries)
            )
            known |= {entries[entry] for entry in relayed.values_list("source_entry", flat=True)}
            known |= {row.pk for row in rows if row.at <= until}
        return known
