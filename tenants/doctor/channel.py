"""Checks of the messaging channel, its definition, and what it says by itself."""

from collections.abc import Iterator
from typing import Any

from tenants.cache import automatic_seen_at
from tenants.doctor.checks import Seen, State, check
from tenants.doctor.snapshot import OrgSnapshot
from tenants.models import Channel, TranscriptForm

MESSAGING_SETTINGS = "LiveMessageSetup/home"


def _defined(org: OrgSnapshot) -> Iterator[tuple[Channel, dict[str, Any]]]:
    for channel in org.channels:
        if definition := org.definitions.get(channel.authorization_context):
            yield channel, definition


def _made(org: OrgSnapshot) -> Iterator[tuple[Channel, dict[str, Any]]]:
    for channel in org.channels:
        if row := org.messaging_channels.get(channel.channel_address_identifier):
            yield channel, row


@check(
    "Channel definition",
    title="Channel definition of {of}",
    why="Each message names it as its authorization context. Messages with an unknown one are refused.",
    remedy="Correct the authorization context under “Configure the application”, or install the package.",
)
def definition_is_there(org: OrgSnapshot) -> Iterator[Seen]:
    expected = f"one of: {', '.join(sorted(org.definitions))}" if org.definitions else "a channel definition; there is none"
    for channel in org.channels:
        name = channel.authorization_context
        there = name in org.definitions
        yield Seen(of=channel.name, ok=there, found=name if there else f"{name} does not exist", expected=expected)


@check(
    "Vendor type of the channel definition",
    title="Vendor type of {of}",
    expected="BringYourOwnChannelPartner",
    why="Other types belong to other products, whose channels refuse our messages.",
    remedy="Delete the vendor info and the channel definition, then install the package again.",
)
def vendor_type_fits(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, definition in _defined(org):
        if not definition.get("ConversationVendorInfoId"):
            continue  # the form without a vendor: right for an org's own app
        kind = str((definition.get("ConversationVendorInfo") or {}).get("VendorType"))
        yield Seen(of=channel.authorization_context, ok=kind == "BringYourOwnChannelPartner", found=kind)


@check(
    "Routing and consent owners",
    title="Routing and consent owners of {of}",
    expected="Salesforce for both",
    why="With another owner, Salesforce waits for us to route, and no rep ever sees a session.",
    remedy="Delete the channel definition and install the package again.",
)
def owners_fit(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, definition in _defined(org):
        owners = [str(definition.get("RoutingOwner")), str(definition.get("ConsentOwner"))]
        found = f"routing: {owners[0]}, consent: {owners[1]}"
        yield Seen(of=channel.authorization_context, ok=owners == ["Salesforce", "Salesforce"], found=found)


@check(
    "Event of the channel definition",
    title="Event of {of}",
    why="We subscribe to this event and read these fields.",
    remedy="Save the channel again under “Configure the application”: the names are then read from your org.",
)
def definition_names_event(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, definition in _defined(org):
        event = str(definition.get("CustomPlatformEvent"))
        found = [event, *(_bare(definition.get(f"CustomEvent{part}Field"), event) for part in ("Type", "Payload"))]
        wanted = [channel.custom_event_name, channel.custom_event_type_field, channel.custom_event_payload_field]
        yield Seen(of=channel.authorization_context, ok=found == wanted, found=", ".join(found), expected=", ".join(wanted))


def _bare(name: object, event: str) -> str:
    return str(name or "").removeprefix(f"{event}.")


@check(
    "Messaging channel",
    title="Messaging channel {of}",
    why="Messages are addressed to it, and sessions open on it.",
    remedy="It was deleted or created anew. Select it again under “Configure the application”.",
    page=MESSAGING_SETTINGS,
)
def channel_is_there(org: OrgSnapshot) -> Iterator[Seen]:
    if not org.channels:
        remedy = "Create one in Messaging Settings, then select it under “Configure the application”."
        yield Seen(title="Messaging channel", ok=False, found="none is selected", expected="one", remedy=remedy)
    for channel in org.channels:
        there = channel.channel_address_identifier in org.messaging_channels
        yield Seen(
            of=channel.name,
            ok=there,
            found="found" if there else "no custom channel has this channel address identifier",
            expected=channel.channel_address_identifier,
        )


@check(
    "Messaging channel is active",
    title="{of} is active",
    expected="active",
    why="Sessions of an inactive channel open but are never routed, and the customer gets no answer.",
    remedy="Open the channel in Messaging Settings, and choose Activate.",
    page=MESSAGING_SETTINGS,
)
def channel_is_active(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, row in _made(org):
        active = bool(row.get("IsActive"))
        yield Seen(of=channel.name, ok=active, found="active" if active else "not active")


@check(
    "Channel routing",
    title="Routing of {of}",
    expected="a flow or a queue",
    why="Without routing, sessions wait forever.",
    remedy="Select the flow “Infobip Route Session” under Omni-Channel Routing of the channel.",
    page=MESSAGING_SETTINGS,
)
def channel_is_routed(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, row in _made(org):
        routed = bool(row.get("SessionHandlerId") or row.get("TargetQueueId"))
        found = str(row.get("RoutingType") or "") or ("set" if routed else "not set")
        yield Seen(of=channel.name, ok=routed, found=found)


@check(
    "Custom channel record",
    title="Custom channel record of {of}",
    expected="a CustomMsgChannel record that joins the channel and its definition",
    why="Setup does not always create it, and channels without it have been seen to behave erratically.",
    remedy="Let us create it.",
    otherwise=State.WARNING,
)
def custom_channel_is_there(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, row in _made(org):
        there = str(row["Id"]) in org.custom_channels
        found = "found" if there else "there is no CustomMsgChannel record"
        yield Seen(of=channel.name, ok=there, found=found, fix="join", about=channel.channel_address_identifier)


@check(
    "Delivery and read receipts",
    title="Delivery and read receipts of {of}",
    expected="on",
    why="Without them, reps do not see whether their messages were delivered and read.",
    remedy="Let us turn them on, or turn them on for the channel in Messaging Settings.",
    page=MESSAGING_SETTINGS,
    otherwise=State.WARNING,
)
def receipts_are_on(org: OrgSnapshot) -> Iterator[Seen]:
    for channel, row in _made(org):
        joined = org.custom_channels.get(str(row["Id"]))
        if joined is None:
            continue
        on = bool(joined.get("HasInboundReceipts"))
        yield Seen(
            of=channel.name,
            ok=on,
            found="on" if on else "off",
            fix="receipts",
            about=channel.channel_address_identifier,
        )


@check(
    "Duplicate automatic messages",
    title="Automatic messages of {of}",
    expected="either our texts or the channel's automatic responses",
    why="With both, customers are greeted twice.",
    remedy="Turn off the channel's automatic responses in Messaging Settings. Or, under “Texts and hand-over”, remove our "
    "texts or stop forwarding automatic responses.",
    page=MESSAGING_SETTINGS,
    otherwise=State.WARNING,
)
def texts_are_not_doubled(org: OrgSnapshot) -> Iterator[Seen]:
    """Salesforce tells no API which automatic responses a channel has: those that came are what is known."""
    for channel in org.channels:
        ours = [name for name, text in (("welcome", channel.welcome_message), ("closing", channel.closing_message)) if text]
        seen = automatic_seen_at(channel.pk)
        ok = not (ours and channel.forward_automatic and seen)
        twice = f"our {' and '.join(ours)}, and the channel's own automatic responses (last seen at {seen})"
        yield Seen(of=channel.name, ok=ok, found="sent once" if ok else twice)


@check(
    "Conversation history",
    title="Conversation history of {of}",
    expected="an org that may import history",
    why="Until then, reps see the chatbot's conversation as one message per line.",
    remedy="Choose another form under “Texts and hand-over”. Or, once Salesforce has enabled it, let us try again.",
    otherwise=State.WARNING,
)
def history_may_be_imported(org: OrgSnapshot) -> Iterator[Seen]:
    for channel in org.channels:
        if channel.transcript != TranscriptForm.NATIVE:
            continue
        refused = org.connection.history_refused_at
        found = f"refused by Salesforce on {refused:%d %B %Y}" if refused else "selected, and not refused"
        yield Seen(of=channel.name, ok=refused is None, found=found, fix="history")
