"""An org comes to be from a document, or not at all."""

import copy
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from tenants.encryption import Ciphertext
from tenants.models import Channel, InfobipAccount, Org, SalesforceConnection, Sender
from tenants.onboarding import UNSENDABLE_KEY, SetupProblem, long_org_id, provision
from tenants.tenancy import every_org, org_scope

pytestmark = pytest.mark.django_db


@pytest.fixture
def document(private_key: str) -> dict[str, Any]:
    return {
        "org": {
            "name": "Acme",
            "orgId": "00Dxx0000001gEREAY",
            "baseUrl": "https://acme.my.salesforce.com",
            "scrtUrl": "https://acme.my.salesforce-scrt.com",
            "consumerKey": "3MVG9",
            "username": "byoc@acme.example",
            "privateKey": private_key,
        },
        "infobipAccounts": [
            {"name": "main", "baseUrl": "https://xyz.api.infobip.com", "apiKey": "k", "webhookSecret": "s1"}
        ],
        "channels": [
            {
                "name": "WhatsApp",
                "developerName": "Infobip_WhatsApp",
                "authorizationContext": "Infobip_WhatsApp",
                "channelAddressIdentifier": "6f1f4a5e-2f0a-4e1c-9c55-0b9b6f9f2d31",
                "customEventName": "Infobip_Event__e",
                "customEventTypeField": "EventType__c",
                "customEventPayloadField": "Payload__c",
                "welcomeMessage": "Hang tight.",
                "senders": [{"account": "main", "number": "+44 7700 900123", "chatbotFirst": False}],
            }
        ],
    }


def test_a_document_becomes_an_org_and_tells_where_to_post(document: dict[str, Any], settings: Settings) -> None:
    settings.PUBLIC_URL = "https://connector.example.com"
    result = provision(document)
    with every_org():
        org = Org.objects.get()
        with org_scope(org.pk):
            account = InfobipAccount.objects.get()
            assert Sender.objects.get().number == "447700900123"
            assert Channel.objects.get().welcome_message == "Hang tight."
    assert result == {
        "org": {"orgId": "00Dxx0000001gEREAY", "name": "Acme", "created": True, "setup": org.setup_url},
        "infobipAccounts": [
            {
                "name": "main",
                "webhook": f"https://connector.example.com/api/infobip/inbound/messages/{account.uuid}",
                "handover": f"https://connector.example.com/api/infobip/inbound/answers/{account.uuid}",
            }
        ],
        "leftAlone": [],
    }


def test_a_channels_texts_and_hand_over_are_taken_and_what_is_absent_is_the_default(document: dict[str, Any]) -> None:
    plain, defaults = document["channels"][0], Channel()
    given = {
        "language": "en-GB",
        "welcomeWhen": "joined",
        "outOfHoursMessage": "Closed.",
        "translations": {"PT_br": {"welcome": "Bem-vindo", "closing": ""}, "de": {"outOfHours": "Geschlossen"}},
        "timeZone": "Europe/London",
        "businessHours": {"mon": [["13:00", "17:00"], ["09:00", "12:00"]], "sun": []},
        "forwardAutomatic": False,
        "showFailures": False,
        "transcript": "compact",
        "chatbotName": "Ivo",
        "routingAttributes": {"orderNumber": "Order_Number"},
        "atEnd": "leave",
    }
    document["channels"], document["org"]["sessionChanges"] = [plain | given], True
    provision(document)
    with every_org():
        kept = Channel.objects.select_related("org__salesforce").get()
    values = {
        "language": "en-gb",
        "welcome_when": "joined",
        "out_of_hours_message": "Closed.",
        "translations": {"pt-br": {"welcome": "Bem-vindo"}, "de": {"out_of_hours": "Geschlossen"}},
        "time_zone": "Europe/London",
        "business_hours": {"mon": [["09:00", "12:00"], ["13:00", "17:00"]]},
        "forward_automatic": False,
        "show_failures": False,
        "transcript": "compact",
        "chatbot_name": "Ivo",
        "routing_attributes": {"orderNumber": "Order_Number"},
        "at_end": "leave",
    }
    assert {name: getattr(kept, name) for name in values} == values
    assert kept.org.salesforce.session_changes
    document["channels"] = [plain]
    del document["org"]["sessionChanges"]
    provision(document)
    with every_org():
        kept = Channel.objects.select_related("org__salesforce").get()
    assert {name: getattr(kept, name) for name in values} == {name: getattr(defaults, name) for name in values}
    assert not kept.org.salesforce.session_changes


COPIED = "\u2066\ufeff{}\u200b\u00a0"  # as out of a page or a chat


def test_what_nobody_sees_is_taken_out_of_what_was_copied(document: dict[str, Any]) -> None:
    provision(document)
    before = rows_of_set_up()
    for part, names in {
        "org": ("baseUrl", "scrtUrl", "consumerKey", "username"),
        "infobipAccounts": ("baseUrl",),
        "channels": ("developerName", "authorizationContext", "channelAddressIdentifier", "customEventTypeField"),
    }.items():
        inner = document[part] if part == "org" else document[part][0]
        inner |= {name: COPIED.format(inner[name]) for name in names}
    provision(document)
    assert rows_of_set_up() == before


def rows_of_set_up() -> list[dict[str, Any]]:
    with every_org():
        return [
            {name: value for name, value in each.items() if name != "updated_at" and not isinstance(value, Ciphertext)}
            for rows in (SalesforceConnection.objects, InfobipAccount.objects, Channel.objects)
            for each in rows.values()
        ]


def test_a_key_with_an_invisible_character_is_refused_in_its_own_words(document: dict[str, Any]) -> None:
    document["infobipAccounts"][0]["apiKey"] = "k\u200bey"
    with pytest.raises(SetupProblem) as caught:
        provision(document)
    assert caught.value.problems == {"infobipAccounts[0].apiKey": UNSENDABLE_KEY}


def test_a_value_of_nothing_that_is_seen_is_none(document: dict[str, Any]) -> None:
    document["org"]["consumerKey"] = "\u200b\u00a0"
    with pytest.raises(SetupProblem, match=r"org\.consumerKey: .*blank"):
        provision(document)


def test_the_same_document_again_changes_nothing(document: dict[str, Any]) -> None:
    first = provision(document)
    second = provision(document)
    assert second == {**first, "org": {**first["org"], "created": False}}
    with every_org():
        assert Org.objects.count() == Sender.objects.count() == Channel.objects.count() == 1
        assert InfobipAccount.objects.get().previous_webhook_secret == ""


def test_fifteen_characters_name_the_same_org(document: dict[str, Any]) -> None:
    provision(document)
    document["org"]["orgId"] = "00Dxx0000001gER"
    again = provision(document)["org"]
    assert (again["orgId"], again["created"]) == ("00Dxx0000001gEREAY", False)


def test_an_org_id_of_eighteen_characters_is_kept_as_it_is_given(document: dict[str, Any]) -> None:
    document["org"]["orgId"] = "00D5g00000ABcDEEA4"
    assert provision(document)["org"]["orgId"] == "00D5g00000ABcDEEA4"
    assert provision(document)["org"]["created"] is False


def test_the_long_form_of_an_org_id_is_the_published_one() -> None:
    assert long_org_id("00Dxx0000001gER") == "00Dxx0000001gEREAY"


def test_a_changed_secret_keeps_the_old_one_valid(document: dict[str, Any]) -> None:
    provision(document)
    document["infobipAccounts"][0]["webhookSecret"] = "s2"
    provision(document)
    provision(document)
    with every_org():
        assert InfobipAccount.objects.get().webhook_secrets == ["s2", "s1"]


def test_what_is_no_longer_listed_is_left_alone_and_named(document: dict[str, Any]) -> None:
    document["channels"][0]["senders"].append({"account": "main", "number": "447700900130"})
    provision(document)
    document["channels"][0]["senders"].pop()
    assert provision(document)["leftAlone"] == ["sender 447700900130"]
    with every_org():
        assert Sender.objects.count() == 2


@pytest.mark.parametrize(
    ("path", "value", "place", "says"),
    [
        ("org.orgId", "00Dxx", "org.orgId", "15 or 18"),
        ("org.baseUrl", "http://acme.my.salesforce.com", "org.baseUrl or org.scrtUrl", "not an https address"),
        ("org.baseUrl", "https://acme.my.salesforce.com.evil.example", "org.baseUrl or org.scrtUrl", "not an https"),
        ("org.scrtUrl", "http://127.0.0.1:9", "org.baseUrl or org.scrtUrl", "not an https address"),
        ("org.privateKey", "-----BEGIN", "org.privateKey", "RSA key"),
        ("infobipAccounts.0.baseUrl", "https://infobip.com.evil.example", "infobipAccounts[0].baseUrl", "not an https"),
        ("infobipAccounts.0.apiKey", "", "infobipAccounts[0].apiKey", "blank"),
        ("channels.0.senders.0.account", "other", "channels", "No account of infobipAccounts is named other"),
        ("channels.0.senders.0.number", "12", "channels[0].senders[0].number", "2 digits"),
        ("channels.0.customEventName", "Infobip_Event", "channels[0].customEventName", "ends with __e"),
        ("channels", [], "channels", "empty"),
        ("channels.0.language", "english", "channels[0].language", "code"),
        ("channels.0.translations", {"d": {"welcome": "x"}}, "channels[0].translations", "code"),
        ("channels.0.translations", {"en": {"welcome": "x"}}, "channels[0].translations", "own texts"),
        ("channels.0.translations", {"de": {"welcome": "x" * 4097}}, "channels[0].translations.de.welcome", "4096"),
        ("channels.0.welcomeWhen", "never", "channels[0].welcomeWhen", "not a valid choice"),
        ("channels.0.timeZone", "Zagreb", "channels[0].timeZone", "Europe/Zagreb"),
        ("channels.0.businessHours", {"monday": []}, "channels[0].businessHours", "mon, tue"),
        ("channels.0.businessHours", {"mon": [["17:00", "09:00"]]}, "channels[0].businessHours", "ends before"),
        ("channels.0.routingAttributes", {"order number": "x"}, "channels[0].routingAttributes", "not a name"),
        ("channels.0.atEnd", "", "channels[0].atEnd", "not a valid choice"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_nothing_is_changed(
    document: dict[str, Any], path: str, value: object, place: str, says: str, settings: Settings
) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = False
    broken = copy.deepcopy(document)
    target: Any = broken
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        target = target[step]
    target[last] = value
    with pytest.raises(SetupProblem) as caught:
        provision(broken)
    assert says in caught.value.problems[place]
    with every_org():
        assert not Org.objects.exists()


@pytest.mark.parametrize("document", [None, [], "x", {}, {"org": 1}])
def test_a_document_of_another_shape_is_refused(document: object) -> None:
    with pytest.raises(SetupProblem):
        provision(document)


def test_the_command_says_what_to_mend(tmp_path: Path, document: dict[str, Any]) -> None:
    del document["org"]["consumerKey"]
    file = tmp_path / "acme.json"
    file.write_text(json.dumps(document))
    with pytest.raises(CommandError, match=r"Nothing was changed[\s\S]*org.consumerKey: This field is required"):
        call_command("provision", str(file))
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("provision", str(tmp_path / "absent.json"))


def test_the_command_prints_json(tmp_path: Path, document: dict[str, Any]) -> None:
    file = tmp_path / "acme.json"
    file.write_text(json.dumps(document))
    out = StringIO()
    call_command("provision", str(file), stdout=out)
    assert json.loads(out.getvalue())["org"]["name"] == "Acme"
