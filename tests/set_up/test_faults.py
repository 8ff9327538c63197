"""Each check has a fault that is planted here: it is found, nothing else is blamed, and what to do is said."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from messaging.models import (
    Attempt,
    Circuit,
    Conversation,
    Direction,
    EventSubscription,
    Handover,
    Lane,
    Message,
    Outcome,
    Session,
    Upstream,
)
from sandbox import rest
from tenants import cache, connecting, doctor
from tenants.doctor import State
from tenants.models import InfobipAccount, Sender
from tenants.tenancy import every_org, org_scope
from tests.set_up.conftest import Company
from tests.support.happenings import receive_webhook
from tests.tenants.test_encryption import spoil

Patch = pytest.MonkeyPatch
EVENT = {
    "EventType__c": {"label": "EventType", "type": "Text", "length": 255},
    "Payload__c": {"label": "Payload", "type": "LongTextArea", "length": 131_072},
}
NOBODY = {"type": "HTTP_FORWARD", "url": "https://old-system.example.com/hook"}


@dataclass(frozen=True)
class Fault:
    """What is planted, the titles that it turns, and how bad that is."""

    plant: Callable[[Company, Patch], object]
    titles: tuple[str, ...]
    state: State = State.FAILED
    hides: bool = False  # other checks cannot look then
    says: str = ""


def edit(path: str, value: object) -> Callable[[Company, Patch], object]:
    return lambda company, patch: company.edit(path, value)


def at_infobip(**change: object) -> Callable[[Company, Patch], object]:
    return lambda company, patch: company.at_infobip(**change)


def rename_org(company: Company, patch: Patch) -> None:
    company.keep(company.org, salesforce_id="00D5g0000999999EAA")


def let_certificate_end(company: Company, patch: Patch) -> None:
    patch.setattr(connecting, "CERTIFICATE_LIFE", timedelta(days=10))
    way = company.org.salesforce
    company.keep(way, certificate=connecting.certificate_for(way.private_key))


def lose_private_key(company: Company, patch: Patch) -> None:
    spoil(company.org.salesforce, "private_key")


def lose_webhook_secret(company: Company, patch: Patch) -> None:
    spoil(company.account, "webhook_secret")


def be_an_old_org(company: Company, patch: Patch) -> None:
    patch.setattr(rest, "VERSIONS", {"64.0": "Summer '25"})


def move_channel(company: Company, patch: Patch) -> None:
    company.edit("MessagingChannel.ChannelAddressIdentifier", "another")
    company.edit("MessagingChannel.MessagingPlatformKey", "another")


def unroute(company: Company, patch: Patch) -> None:
    company.edit("MessagingChannel.SessionHandlerId", None)
    company.edit("MessagingChannel.TargetQueueId", None)


def use_other_permission_set(company: Company, patch: Patch) -> None:
    ours = next(row for row in company.records("PermissionSet") if row["Name"] == "Infobip_Connector")
    user = next(row for row in company.records("User") if row["Username"] == company.document["org"]["username"])
    other = {"Name": "Theirs", "Label": "Theirs", "PermissionsApiEnabled": True, "PermissionsViewSetup": True}
    company.edit("PermissionSet", other)
    theirs = next(row for row in company.records("PermissionSet") if row["Name"] == "Theirs")
    company.edit("PermissionSetAssignment", {"AssigneeId": user["Id"], "PermissionSetId": theirs["Id"]})
    rights = {"PermissionsRead": True, "PermissionsCreate": True, "SobjectType": "Infobip_Event__e"}
    company.edit("ObjectPermissions", {"ParentId": theirs["Id"], **rights})
    company.edit("ExternalClientApp.PermissionSets", ["Theirs"])
    company.edit(f"PermissionSetAssignment[PermissionSetId={ours['Id']}]", None)


def remove_account(company: Company, patch: Patch) -> None:
    with every_org():
        InfobipAccount.objects.filter(org=company.org).delete()


def remove_senders(company: Company, patch: Patch) -> None:
    with every_org():
        Sender.objects.filter(org=company.org).delete()


def let_key_end(company: Company, patch: Patch) -> None:
    company.at_infobip(validTo=(timezone.now() + timedelta(days=5)).isoformat())


def forget_address(company: Company, patch: Patch) -> None:
    patch.setattr(settings, "OUTBOUND_ADDRESSES", ["127.0.0.1", "203.0.113.7"])
    company.at_infobip(allowedIPs=["127.0.0.1", "198.51.100.0/24"])


def in_account(change: Callable[[Any], object]) -> Callable[[Company, Patch], object]:
    """Change what no call of the control API changes."""

    def plant(company: Company, patch: Patch) -> None:
        org = company.far_side.sandbox.world.find_org(company.document["org"]["orgId"])
        change(org.accounts["main"].setup)

    return plant


def unsign(setup: Any) -> None:
    setup.profiles["provisioned"].auth_id = None


def post_elsewhere(setup: Any) -> None:
    setup.profiles["provisioned"].settings["webhook"]["notifyUrl"] = "https://old-system.example.com/hook"


def mute_reports(setup: Any) -> None:
    setup.subscriptions["provisioned"].events.remove("SEEN")


def put_chatbot_first(company: Company, patch: Patch) -> None:
    company.keep(company.sender, chatbot_first=True)


def refuse_webhooks(company: Company, patch: Patch) -> None:
    cache.count_refusal(company.account.pk, "wrong signature")


def change_secret(company: Company, patch: Patch) -> None:
    company.keep(company.account, previous_webhook_secret="the-one-of-before")


def refuse_handover(company: Company, patch: Patch) -> None:
    with every_org():
        Handover.objects.create(
            org=company.org,
            account=company.account,
            infobip_conversation="4461ea29",
            end_user="385991234567",
            state=Handover.State.REFUSED,
            called_at=timezone.now(),
            problem="senderNumber did not write in this conversation",
        )


def stop_stream(**values: object) -> Callable[[Company, Patch], object]:
    def plant(company: Company, patch: Patch) -> None:
        with every_org():
            EventSubscription.objects.filter(org=company.org).update(**values)

    return plant


def forget_stream(company: Company, patch: Patch) -> None:
    with every_org():
        EventSubscription.objects.filter(org=company.org).delete()


def open_circuit(company: Company, patch: Patch) -> None:
    with every_org():
        Circuit.objects.create(org=company.org, upstream=Upstream.INFOBIP, endpoint_id=1, opened_at=timezone.now())


def fail_calls(direction: Direction, upstream: Upstream, seconds: int = 120, failures: int = 5) -> Any:
    """Let the messages of one conversation fail, too few to open a circuit."""

    def plant(company: Company, patch: Patch | None = None) -> None:
        at = timezone.now() - timedelta(seconds=seconds)
        endpoint = company.account.pk if upstream is Upstream.INFOBIP else company.channel.pk
        message = keep_waiting(company, direction, at, failed_at=at, tries=failures)
        with every_org():
            Attempt.objects.create(
                org=company.org, message=message, started_at=at, outcome=Outcome.RETRY, status=500, detail="it is on fire"
            )
            lanes = [message.lane_id]
            Circuit.objects.create(
                org=company.org, upstream=upstream, endpoint_id=endpoint, failures=failures, failing_lanes=lanes
            )

    return plant


def fail_receipts(company: Company, patch: Patch) -> None:
    with every_org():
        Circuit.objects.create(
            org=company.org,
            upstream=Upstream.RECEIPTS,
            endpoint_id=company.channel.pk,
            opened_at=timezone.now(),
            failures=8,
        )


def lose_key(company: Company, patch: Patch) -> None:
    with every_org(), connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_salesforceconnection SET private_key = 'x' WHERE org_id = %s", [company.org.pk])


def fail_to_ask(company: Company, patch: Patch) -> None:
    with every_org():
        conversation = Conversation.objects.create(org=company.org, channel=company.channel, subject="385991234567")
        Session.objects.create(
            org=company.org,
            conversation=conversation,
            salesforce_id="0Mw5g000000AbCdCAK",
            opened_at=timezone.now(),
            problem="Salesforce does not tell",
        )


def see_automatic_response(company: Company, patch: Patch) -> None:
    company.keep(company.channel, welcome_message="Hang tight.", closing_message="Goodbye.")
    cache.note_automatic(company.channel.pk)


def be_refused_history(company: Company, patch: Patch) -> None:
    company.keep(company.channel, transcript="native")
    company.keep(company.org.salesforce, history_refused_at=timezone.now())


def lose_token(company: Company, patch: Patch) -> None:
    hand_over(company)
    company.keep(company.account, handover_token="")


def lose_conversations_scope(company: Company, patch: Patch) -> None:
    hand_over(company)
    scopes = ["message:send", "account-management:manage", "numbers:manage", "subscriptions:manage", "whatsapp:manage"]
    company.at_infobip(scopes=scopes)


def hand_over(company: Company) -> None:
    """Let a chatbot have the first word, with all that this needs."""
    company.keep(company.sender, chatbot_first=True)
    with every_org():
        account = InfobipAccount.objects.select_related("org").get(pk=company.account.pk)
        connecting.subscribe(account, who="Ada")


def receive_unreadable(company: Company, patch: Patch) -> None:
    with every_org():
        receive_webhook(company.account, [{"something": "else"}])


def let_message_wait(company: Company, patch: Patch) -> None:
    keep_waiting(company, Direction.INBOUND, timezone.now() - timedelta(hours=1))


def keep_waiting(company: Company, direction: Direction, at: datetime, **values: Any) -> Message:
    with every_org():
        conversation = Conversation.objects.create(org=company.org, channel=company.channel, subject="385991234567")
        lane = Lane.objects.create(org=company.org, conversation=conversation, direction=direction, due_at=at)
        return Message.objects.create(
            org=company.org,
            lane=lane,
            conversation=conversation,
            channel=company.channel,
            direction=direction,
            position=1,
            source_entry=str(uuid4()),
            text="hello",
            written_at=at,
            created_at=at,
            status_at=at,
            **values,
        )


WARNING = State.WARNING
RIGHTS = "ObjectPermissions[SobjectType=Infobip_Event__e,PermissionSet.Name=sfdc_scrt2]"
FORWARDED = ("Forwarding of +{number}",)
SUBSCRIPTION = ("Subscription of main",)
# by the title of the check: what can be wrong with it
FAULTS: dict[str, list[Fault]] = {
    "Stored credentials": [Fault(lose_key, ("Stored credentials",), hides=True, says="private key")],
    "Login to Salesforce": [
        Fault(
            edit("ExternalClientApp.ConsumerKey", "3MVG9other"), ("Login to Salesforce",), hides=True, says="consumer key"
        ),
        Fault(edit("User.IsActive", False), ("Login to Salesforce",), hides=True),
    ],
    "Org ID": [Fault(rename_org, ("Org ID",))],
    "OAuth scopes of the external client app": [
        Fault(
            edit("ExternalClientApp.Scopes", ["api", "refresh_token", "openid", "id"]),
            ("OAuth scopes of the external client app",),
            says="interaction_api",
        )
    ],
    "SCRT URL": [
        Fault(
            lambda company, patch: company.keep(company.org.salesforce, scrt_url="https://other.my.salesforce-scrt.com"),
            ("SCRT URL",),
            WARNING,
        )
    ],
    "Certificate": [Fault(let_certificate_end, ("Certificate",), WARNING, says="9 days")],
    "Salesforce API version": [Fault(be_an_old_org, ("Salesforce API version",), hides=True, says="64.0")],
    "API requests left today": [
        Fault(edit("limits.DailyApiRequests.Remaining", 5_000), ("API requests left today",), WARNING)
    ],
    "Platform event deliveries left today": [
        Fault(edit("limits.DailyDeliveredPlatformEvents.Remaining", 0), ("Platform event deliveries left today",), WARNING)
    ],
    "Platform event": [
        Fault(
            edit("EntityDefinition.Fields", {"EventType__c": EVENT["EventType__c"]}),
            ("Platform event Infobip_Event__e",),
            says="Payload__c",
        ),
        Fault(edit("EntityDefinition", None), ("Platform event Infobip_Event__e", "*Infobip_Event__e"), says="not found"),
    ],
    "Access to the event stream": [
        Fault(
            edit("ObjectPermissions[PermissionSet.Name=Infobip_Connector]", None),
            ("Access to the stream of Infobip_Event__e", "*Infobip_Event__e"),
            says="may not read",
        ),
        Fault(
            edit("EntityDefinition", None),
            ("Access to the stream of Infobip_Event__e", "*Infobip_Event__e"),
            says="no such stream",
        ),
    ],
    "Fields of the platform event": [
        Fault(
            edit("EntityDefinition.Fields", EVENT | {"Payload__c": EVENT["Payload__c"] | {"length": 256}}),
            ("Fields of Infobip_Event__e",),
            says="256",
        )
    ],
    "Messaging service access to the platform event": [
        Fault(edit(RIGHTS, None), ("Messaging service access to Infobip_Event__e",)),
        Fault(
            edit(f"{RIGHTS}.PermissionsCreate", False),
            ("Messaging service access to Infobip_Event__e",),
            says="create: no",
        ),
    ],
    "Channel definition": [
        Fault(
            lambda company, patch: company.keep(company.channel, authorization_context="Infobip WhatsApp"),
            ("Channel definition of WhatsApp",),
            says="Infobip WhatsApp",
        )
    ],
    "Vendor type of the channel definition": [
        Fault(edit("ConversationVendorInfo.VendorType", "BringYourOwnContactCenter"), ("Vendor type of Infobip_WhatsApp",))
    ],
    "Routing and consent owners": [
        Fault(
            edit("ConversationChannelDefinition.RoutingOwner", "Partner"),
            ("Routing and consent owners of Infobip_WhatsApp",),
            says="Partner",
        )
    ],
    "Event of the channel definition": [
        Fault(edit("ConversationChannelDefinition.CustomEventTypeField", "Kind__c"), ("Event of Infobip_WhatsApp",))
    ],
    "Messaging channel": [Fault(move_channel, ("Messaging channel WhatsApp",))],
    "Messaging channel is active": [Fault(edit("MessagingChannel.IsActive", False), ("WhatsApp is active",))],
    "Channel routing": [Fault(unroute, ("Routing of WhatsApp",))],
    "Custom channel record": [Fault(edit("CustomMsgChannel", None), ("Custom channel record of WhatsApp",), WARNING)],
    "Delivery and read receipts": [
        Fault(edit("CustomMsgChannel.HasInboundReceipts", False), ("Delivery and read receipts of WhatsApp",), WARNING)
    ],
    "Duplicate automatic messages": [
        Fault(see_automatic_response, ("Automatic messages of WhatsApp",), WARNING, says="welcome and closing")
    ],
    "Conversation history": [Fault(be_refused_history, ("Conversation history of WhatsApp",), WARNING, says="refused")],
    "Queue for sessions": [Fault(edit("QueueSobject", None), ("Queue for sessions",))],
    "Routing configuration of the queue": [
        Fault(edit("Group.QueueRoutingConfigId", None), ("Routing configuration of the queue",))
    ],
    "Members of the queue": [Fault(edit("GroupMember", None), ("Members of the queue",), WARNING)],
    "Routing flow": [Fault(edit("FlowDefinitionView.ActiveVersionId", None), ("Routing flow",))],
    "Service Cloud User": [Fault(edit("User.UserPermissionsSupportUser", False), ("Service Cloud User",))],
    "Permission set licenses of the integration user": [
        Fault(
            edit("PermissionSetLicenseAssign[PermissionSetLicense.MasterLabel=Messaging User]", None),
            ("Permission set licenses of the integration user",),
            says="missing: Messaging User",
        )
    ],
    "Permission set of the integration user": [
        Fault(use_other_permission_set, ("Permission set of the integration user",), WARNING)
    ],
    "Permission set of the reps": [
        Fault(
            edit("PermissionSetAssignment[PermissionSet.Name=Infobip_Agent]", None),
            ("Permission set of the reps",),
            WARNING,
        )
    ],
    "Infobip account": [Fault(remove_account, ("Infobip account", "Senders of WhatsApp"))],
    "Infobip API key": [
        Fault(at_infobip(enabled=False), ("API key of main",), hides=True),
        Fault(
            at_infobip(
                scopes=[
                    "account-management:manage",
                    "numbers:manage",
                    "subscriptions:manage",
                    "whatsapp:manage",
                    "conversations:manage",
                    "inbound-message:read",
                ]
            ),
            ("API key of main",),
            says="message:send",
        ),
        Fault(lose_conversations_scope, ("API key of main",), says="conversations:manage"),
    ],
    "Expiry of the Infobip API key": [Fault(let_key_end, ("Expiry of the API key of main",), WARNING, says="4 days")],
    "Allowed IP addresses of the Infobip API key": [
        Fault(forget_address, ("Allowed IP addresses of the API key of main",), says="203.0.113.7"),
        Fault(
            at_infobip(allowedIPs=["127.0.0.1"]),
            ("Allowed IP addresses of the API key of main",),
            WARNING,
            says="127.0.0.1",
        ),
    ],
    "Subscription to WhatsApp events": [
        Fault(at_infobip(removeSubscriptions=["provisioned"]), SUBSCRIPTION, says="none"),
        Fault(in_account(post_elsewhere), SUBSCRIPTION, says="another URL"),
        Fault(in_account(unsign), ("Signature of the events of main",)),
        Fault(in_account(mute_reports), ("Delivery and seen events of main",), WARNING, says="SEEN"),
    ],
    "Senders": [Fault(remove_senders, ("Senders of WhatsApp",))],
    "Forwarding of the senders": [
        Fault(
            lambda company, patch: company.at_infobip(numbers={company.sender.number: {"forwarding": NOBODY}}), FORWARDED
        ),
        Fault(
            lambda company, patch: company.at_infobip(
                numbers={company.sender.number: {"keyword": "STOP", "forwarding": NOBODY}}
            ),
            FORWARDED,
            WARNING,
            says="STOP",
        ),
    ],
    "WhatsApp status of the senders": [
        Fault(
            lambda company, patch: company.at_infobip(numbers={company.sender.number: {"status": "RESTRICTED"}}),
            ("WhatsApp status of +{number}",),
            WARNING,
            says="restricted",
        )
    ],
    "Subscription to chatbot conversations": [
        Fault(put_chatbot_first, ("Subscription to chatbot conversations of main",), WARNING)
    ],
    "Hand-over token": [Fault(lose_token, ("Hand-over token of main",))],
    "Refused webhooks": [Fault(refuse_webhooks, ("Webhooks of main today: wrong signature",), WARNING, says="1. They")],
    "Webhook secret": [Fault(change_secret, ("Webhook secret of main",), WARNING)],
    "Event stream": [
        Fault(stop_stream(problem="the login is refused"), ("Event stream /event/Infobip_Event__e",)),
        Fault(
            stop_stream(last_answer_at=timezone.now() - timedelta(hours=1)),
            ("Event stream /event/Infobip_Event__e",),
            says="silent",
        ),
        Fault(forget_stream, ("Event stream",), WARNING),
    ],
    "Connections": [
        Fault(open_circuit, ("Connection to Infobip",)),
        Fault(
            fail_calls(Direction.OUTBOUND, Upstream.INFOBIP),
            ("Connection to Infobip",),
            says="UTC (HTTP 500, it is on fire)See the other findings. We try again",
        ),
        Fault(fail_calls(Direction.INBOUND, Upstream.SALESFORCE), ("Connection to Salesforce",), says="fails for WhatsApp"),
        Fault(fail_receipts, ("Connection to Salesforce",), says="fails for the receipts of WhatsApp since"),
    ],
    "Hand-overs": [Fault(refuse_handover, ("Hand-overs",), WARNING, says="did not write")],
    "Sessions": [Fault(fail_to_ask, ("Sessions",), WARNING, says="does not tell")],
    "Waiting messages": [Fault(let_message_wait, ("Waiting messages",), WARNING)],
    "Unreadable arrivals": [
        Fault(receive_unreadable, ("Unreadable arrivals of main",), WARNING, says="Subscribe our address")
    ],
}


def test_every_check_has_a_fault_that_is_planted() -> None:
    assert set(FAULTS) == set(doctor.checks)


@pytest.mark.parametrize(
    ("check", "fault"),
    [pytest.param(check, fault, id=f"{check}-{n}") for check in FAULTS for n, fault in enumerate(FAULTS[check])],
)
def test_a_fault_is_found_and_nothing_else_is_blamed(acme: Company, monkeypatch: Patch, check: str, fault: Fault) -> None:
    assert acme.troubles() == {}
    fault.plant(acme, monkeypatch)
    troubles = acme.troubles()
    titles = [title.format(number=acme.sender.number) for title in fault.titles]
    first = troubles[titles[0]]
    assert first.state is fault.state
    assert fault.says in first.found + first.remedy
    assert first.remedy.endswith(".") and first.why.endswith(".") and first.expected and first.found
    unknown = {title for title, each in troubles.items() if each.state is State.UNKNOWN}
    assert bool(unknown) == fault.hides
    endings = tuple(title.removeprefix("*") for title in titles if title.startswith("*"))
    others = set(troubles) - unknown - set(titles)
    assert {title for title in others if not (endings and title.endswith(endings))} == set()


@pytest.mark.parametrize(("seconds", "failures"), [(30, 5), (120, 0)], ids=["just now", "others passed"])
def test_a_hiccup_of_a_connection_is_no_fault(acme: Company, seconds: int, failures: int) -> None:
    fail_calls(Direction.OUTBOUND, Upstream.INFOBIP, seconds, failures)(acme)
    assert acme.troubles() == {}


def test_who_has_a_chatbot_first_with_all_that_it_needs_is_not_warned(acme: Company) -> None:
    hand_over(acme)
    acme.keep(acme.channel, transcript="native")
    assert acme.troubles() == {}


@pytest.mark.parametrize(
    "values",
    [{"forward_automatic": False}, {"welcome_message": "", "closing_message": ""}],
    ids=["not sent on", "no texts"],
)
def test_automatic_responses_alone_are_no_fault(acme: Company, values: dict[str, Any]) -> None:
    cache.note_automatic(acme.channel.pk)
    acme.keep(acme.channel, **values)
    assert acme.troubles() == {}


def test_refused_history_is_tried_anew_when_an_administrator_says_so(acme: Company, monkeypatch: Patch) -> None:
    be_refused_history(acme, monkeypatch)
    (finding,) = acme.troubles().values()
    with org_scope(acme.org.pk):
        doctor.fix(acme.org, finding.fix, finding.about, who="Ada")
    assert acme.troubles() == {}
