"""The page of a channel's texts and hand-over: what is typed is kept, and nothing that others changed is lost."""

import html
import re
from typing import Any

import pytest
from django.test import Client

from tenants import connecting
from tenants.models import AuditEntry, Channel, InfobipAccount, SalesforceConnection
from tenants.tenancy import every_org
from tests.set_up.conftest import Company
from tests.set_up.pages import alerts, at_once, look, press, read, signed_in

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ada(acme: Company) -> Client:
    return signed_in(acme.org)


def kept(company: Company) -> Channel:
    with every_org():
        return Channel.objects.get(pk=company.channel.pk)


def noted(company: Company) -> list[tuple[str, str]]:
    with every_org():
        return list(AuditEntry.objects.filter(org=company.org).order_by("pk").values_list("what", "detail"))


def opened(page: str, form: str) -> dict[str, str]:
    """Give what a browser would send of a form that nobody touched; ``form``: words that are in it only."""
    (found,) = [each for each in re.findall(r"<form.*?</form>", page, re.DOTALL) if form in each]
    fields: dict[str, str] = {}
    for given in re.findall(r"<input([^>]*)>", found):
        named = dict(re.findall(r'([\w-]+)="([^"]*)"', given))
        if "name" in named and (named.get("type") != "checkbox" or " checked" in given):
            fields[named["name"]] = named.get("value", "on" if named.get("type") == "checkbox" else "")
    for name, text in re.findall(r'<textarea name="(\w+)"[^>]*>\n?(.*?)</textarea>', found, re.DOTALL):
        fields[name] = text
    for name, options in re.findall(r'<select name="(\w+)"[^>]*>(.*?)</select>', found, re.DOTALL):
        fields[name] = re.findall(r'value="([^"]*)" selected', options)[0]
    return {name: html.unescape(value) for name, value in fields.items()}


def texts_form(client: Client, company: Company) -> dict[str, str]:
    return opened(look(client, company.org, "texts"), "welcome_message")


EVERYTHING: dict[str, str] = {
    "welcome_message": "Zdravo\r\nA colleague comes at once",
    "welcome_when": "joined",
    "closing_message": "",
    "language": "hr",
    "show_failures": "",
    "forward_automatic": "",
    "mon": "9-12, 13-17",
    "sat": "10:00-24:00",
    "time_zone": "Europe/Zagreb",
    "out_of_hours_message": "We are closed",
    "transcript": "compact",
    "chatbot_name": "Ivo",
    "at_end": "leave",
    "routing_attributes": "orderNumber = Order_Number\r\n\r\ncustomerName=newEndUserName",
}


def test_everything_that_is_chosen_is_kept_and_noted(acme: Company, ada: Client) -> None:
    given = texts_form(ada, acme) | EVERYTHING
    answer = press(ada, acme.org, "texts", **{name: value for name, value in given.items() if value or "_m" in name})
    assert answer.status_code == 302, alerts(answer.content.decode())
    channel = kept(acme)
    assert {name: getattr(channel, name) for name in EVERYTHING if name not in ("mon", "sat")} == {
        "welcome_message": "Zdravo\nA colleague comes at once",
        "welcome_when": "joined",
        "closing_message": "",
        "language": "hr",
        "show_failures": False,
        "forward_automatic": False,
        "time_zone": "Europe/Zagreb",
        "out_of_hours_message": "We are closed",
        "transcript": "compact",
        "chatbot_name": "Ivo",
        "at_end": "leave",
        "routing_attributes": {"orderNumber": "Order_Number", "customerName": "newEndUserName"},
    }
    assert channel.business_hours == {"mon": [["09:00", "12:00"], ["13:00", "17:00"]], "sat": [["10:00", "24:00"]]}
    (entry,) = [detail for what, detail in noted(acme) if what == "changed the texts or the hand-over of a channel"]
    assert "business hours" in entry and "chatbot name" in entry and "Zdravo" not in entry
    assert "Saved." in look(ada, acme.org, "texts", f"?channel={channel.pk}&saved=texts")
    assert texts_form(ada, acme)["mon"] == "09:00-12:00, 13:00-17:00"


def test_who_saves_what_they_did_not_change_changes_and_notes_nothing(acme: Company, ada: Client) -> None:
    before, entries = kept(acme), noted(acme)
    assert press(ada, acme.org, "texts", **texts_form(ada, acme)).status_code == 302
    after = kept(acme)
    assert all(getattr(after, field.attname) == getattr(before, field.attname) for field in Channel._meta.fields)
    assert noted(acme) == entries


def test_of_two_administrators_each_keeps_what_they_changed(acme: Company, ada: Client) -> None:
    bob = signed_in(acme.org, name="Bob Boss")
    first, second = texts_form(ada, acme), texts_form(bob, acme)
    first["chatbot_name"], second["closing_message"] = "Ivo", "Bye"
    answers = at_once(lambda: press(ada, acme.org, "texts", **first), lambda: press(bob, acme.org, "texts", **second))
    assert [each.status_code for each in answers] == [302, 302]
    assert (kept(acme).chatbot_name, kept(acme).closing_message) == ("Ivo", "Bye")


def test_what_somebody_else_changed_meanwhile_is_told_at_its_field_and_taken_when_meant(acme: Company, ada: Client) -> None:
    bob = signed_in(acme.org, name="Bob Boss")
    first, second = texts_form(ada, acme), texts_form(bob, acme)
    press(ada, acme.org, "texts", **first | {"chatbot_name": "Ivo", "mon": "9-17"})
    answer = press(bob, acme.org, "texts", **second | {"chatbot_name": "Eva", "tue": "9-17", "closing_message": "Bye"})
    page = answer.content.decode()
    assert set(alerts(page)) - {""} == {"chatbot_name", "mon"}
    assert "Somebody else changed this meanwhile" in alerts(page)["chatbot_name"]
    assert kept(acme).chatbot_name == "Ivo" and kept(acme).closing_message != "Bye"
    again = opened(page, "welcome_message")
    assert (again["chatbot_name"], again["closing_message"], again["tue"]) == ("Eva", "Bye", "9-17")
    assert press(bob, acme.org, "texts", **again).status_code == 302
    channel = kept(acme)
    assert (channel.chatbot_name, channel.closing_message) == ("Eva", "Bye")
    assert channel.business_hours == {"tue": [["09:00", "17:00"]]}


def test_a_form_that_is_sent_twice_counts_once(acme: Company, ada: Client) -> None:
    given = texts_form(ada, acme) | {"chatbot_name": "Ivo"}
    answers = at_once(*[lambda: press(ada, acme.org, "texts", **given)] * 2)
    assert [each.status_code for each in answers] == [302, 302]
    assert [what for what, _ in noted(acme)].count("changed the texts or the hand-over of a channel") == 1


def test_a_page_from_before_that_the_back_button_shows_undoes_nothing(acme: Company, ada: Client) -> None:
    before = texts_form(ada, acme)
    press(ada, acme.org, "texts", **before | {"chatbot_name": "Ivo"})
    assert press(ada, acme.org, "texts", **before | {"closing_message": "Bye"}).status_code == 302
    assert (kept(acme).chatbot_name, kept(acme).closing_message) == ("Ivo", "Bye")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("mon", "nine to five", "is not from one time to another"),
        ("sun", "22-2", "ends before it begins"),
        ("fri", "9-13, 12-17", "overlap"),
        ("time_zone", "Europe/Nowhere", "Select a valid choice"),
        ("language", "xx", "Select a valid choice"),
        ("welcome_when", "never", "Select a valid choice"),
        ("welcome_message", "x" * 4097, "at most 4096"),
        ("closing_message", "a\x00b", "Null characters"),
        ("chatbot_name", "", "required"),
        ("chatbot_name", "x" * 51, "at most 50"),
        ("routing_attributes", "orderNumber", "is not a pair"),
        ("routing_attributes", "a = b\na = c", "is there twice"),
        ("routing_attributes", "a = b\nc = b", "same custom parameter"),
        ("routing_attributes", "order number = b", "is not a name"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_and_nothing_is_kept(
    acme: Company, ada: Client, field: str, value: str, says: str
) -> None:
    before = kept(acme)
    answer = press(ada, acme.org, "texts", **texts_form(ada, acme) | {"out_of_hours_message": "As typed", field: value})
    page = answer.content.decode()
    assert answer.status_code == 200 and says in html.unescape(alerts(page)[field])
    assert set(alerts(page)) == {"", field} and "As typed" in page and "autofocus" in page
    assert kept(acme).out_of_hours_message == before.out_of_hours_message
    assert set(read(page).described) <= set(read(page).ids) and len(set(read(page).ids)) == len(read(page).ids)


# languages


def translate(company: Company, client: Client, language: str, **texts: str) -> Any:
    given = opened(look(client, company.org, "texts"), "Choose…")
    return press(client, company.org, "texts", **given | {"language": language} | texts)


def test_a_language_is_added_changed_and_removed(acme: Company, ada: Client) -> None:
    assert translate(acme, ada, "de", welcome="Willkommen").status_code == 302
    assert translate(acme, ada, "fr", closing="Au revoir").status_code == 302
    assert kept(acme).translations == {"de": {"welcome": "Willkommen"}, "fr": {"closing": "Au revoir"}}
    german = opened(look(ada, acme.org, "texts"), "Save German") | {"action": "translation", "closing": "Tschüss"}
    assert press(ada, acme.org, "texts", **german).status_code == 302
    assert kept(acme).translations["de"] == {"welcome": "Willkommen", "closing": "Tschüss"}
    press(ada, acme.org, "texts", channel=acme.channel.pk, translation="de", action="remove translation")
    press(ada, acme.org, "texts", channel=acme.channel.pk, translation="de", action="remove translation")
    assert kept(acme).translations == {"fr": {"closing": "Au revoir"}}
    whats = [what for what, _ in noted(acme)]
    assert [whats.count(each) for each in ("added a translation", "changed a translation", "removed a translation")] == [
        2,
        1,
        1,
    ]


def test_two_who_add_languages_at_once_add_both(acme: Company, ada: Client) -> None:
    bob = signed_in(acme.org, name="Bob Boss")
    answers = at_once(
        lambda: translate(acme, ada, "de", welcome="Willkommen"), lambda: translate(acme, bob, "fr", welcome="Bienvenue")
    )
    assert [each.status_code for each in answers] == [302, 302]
    assert kept(acme).translations == {"de": {"welcome": "Willkommen"}, "fr": {"welcome": "Bienvenue"}}


def test_a_language_that_is_added_twice_is_one_and_other_words_for_it_are_told(acme: Company, ada: Client) -> None:
    given = opened(look(ada, acme.org, "texts"), "Choose…") | {"language": "de", "welcome": "Willkommen"}
    answers = at_once(*[lambda: press(ada, acme.org, "texts", **given)] * 2)
    assert [each.status_code for each in answers] == [302, 302]
    page = press(ada, acme.org, "texts", **given | {"welcome": "Servus"}).content.decode()
    assert "There are texts in this language already" in alerts(page)["language"] and "Servus" in page
    assert kept(acme).translations == {"de": {"welcome": "Willkommen"}}


def test_what_was_typed_for_a_language_that_somebody_removed_is_not_lost(acme: Company, ada: Client) -> None:
    translate(acme, ada, "de", welcome="Willkommen")
    german = opened(look(ada, acme.org, "texts"), "Save German") | {"action": "translation", "welcome": "Servus"}
    press(ada, acme.org, "texts", channel=acme.channel.pk, translation="de", action="remove translation")
    page = press(ada, acme.org, "texts", **german).content.decode()
    assert "Somebody else changed this meanwhile" in alerts(page)["welcome"]
    again = opened(page, "Save German") | {"action": "translation"}
    assert press(ada, acme.org, "texts", **again).status_code == 302
    assert kept(acme).translations == {"de": {"welcome": "Servus"}}


def test_a_language_without_a_text_and_the_channels_own_are_refused(acme: Company, ada: Client) -> None:
    assert "Give at least one text" in alerts(translate(acme, ada, "de").content.decode())["welcome"]
    assert "required" in alerts(translate(acme, ada, "", welcome="x").content.decode())["language"]
    assert "already" in alerts(translate(acme, ada, "en", welcome="Hi").content.decode())["language"]
    assert kept(acme).translations == {}


def test_the_channels_language_cannot_become_one_that_it_is_translated_into(acme: Company, ada: Client) -> None:
    before = texts_form(ada, acme) | {"language": "de"}
    translate(acme, ada, "de", welcome="Willkommen")
    assert alerts(press(ada, acme.org, "texts", **before).content.decode())["language"]
    assert kept(acme).language == "en"


# other channels, other orgs


def test_each_channel_has_texts_of_its_own(acme: Company, ada: Client) -> None:
    with every_org():
        other = Channel.objects.get(pk=acme.channel.pk)
        other.pk, other.name, other.channel_address_identifier, other.chatbot_name = None, "Sales", "other", "Mia"
        other.save()
    page = look(ada, acme.org, "texts", f"?channel={other.pk}")
    assert "Texts of Sales" in page and 'value="Mia"' in page
    press(ada, acme.org, "texts", **opened(page, "welcome_message") | {"chatbot_name": "Eva"})
    assert kept(acme).chatbot_name == "Bot"


@pytest.mark.parametrize("action", ["texts", "translation", "remove translation"])
def test_no_channel_of_another_org_is_shown_or_changed(acme: Company, rival: Company, ada: Client, action: str) -> None:
    rival.keep(rival.channel, welcome_message="Rival's own words", translations={"de": {"welcome": "x"}})
    assert "Rival's own words" not in html.unescape(look(ada, acme.org, "texts", f"?channel={rival.channel.pk}"))
    fields = {"channel": rival.channel.pk, "action": action, "translation": "de", "welcome": "y", "chatbot_name": "y"}
    answer = press(ada, acme.org, "texts", **fields)
    assert answer.status_code == 409 and "no longer there" in answer.content.decode()
    assert (kept(rival).chatbot_name, kept(rival).translations) == ("Bot", {"de": {"welcome": "x"}})


@pytest.mark.parametrize("named", ["", "x", "0", "9" * 30, "1\x00"])
def test_a_channel_that_is_none_changes_nothing(acme: Company, ada: Client, named: str) -> None:
    assert press(ada, acme.org, "texts", channel=named, action="texts", chatbot_name="x").status_code == 409
    assert (
        press(ada, acme.org, "texts", channel=acme.channel.pk, action="remove translation", translation="<b>").status_code
        == 409
    )
    assert "Texts of WhatsApp" in look(ada, acme.org, "texts", "?channel=x")
    assert kept(acme).chatbot_name == "Bot"


# session changes


def test_session_changes_are_followed_when_an_administrator_says_so(acme: Company, ada: Client) -> None:
    def follows() -> bool:
        with every_org():
            return SalesforceConnection.objects.get(org=acme.org).session_changes

    fields = {"channel": acme.channel.pk, "action": "session changes"}
    at_once(*[lambda: press(ada, acme.org, "texts", on="yes", **fields)] * 2)
    assert follows() and "We follow them." in look(ada, acme.org, "texts")
    press(ada, acme.org, "texts", on="no", **fields)
    assert not follows()
    whats = [what for what, _ in noted(acme)]
    assert whats.count("let us follow session changes") == whats.count("ended following session changes") == 1


# how a chatbot hands over


def account_of(company: Company) -> InfobipAccount:
    with every_org():
        return InfobipAccount.objects.get(pk=company.account.pk)


def test_what_is_to_be_entered_at_infobip_is_shown_for_a_sender_with_a_chatbot_first_only(
    acme: Company, ada: Client
) -> None:
    assert "Call API" not in look(ada, acme.org, "senders")
    acme.keep(acme.sender, chatbot_first=True)
    acme.keep(acme.channel, routing_attributes={"orderNumber": "Order_Number"})
    page = html.unescape(look(ada, acme.org, "senders"))
    assert acme.account.handover_url in page and "X-Connector-Token" in page
    assert connecting.handover_body(kept(acme)) in page
    for line in ('"conversationId": "{{conversationId}}"', '"senderNumber": "{{senderNumber}}"', '"{{orderNumber}}"'):
        assert line in page
    assert "There is no subscription yet" in page
    press(ada, acme.org, "senders", action="subscribe", account=str(acme.account.uuid))
    assert "conversation messages to a subscription" in look(ada, acme.org, "senders")


def test_a_new_token_ends_the_old_one_once_however_often_it_is_pressed(acme: Company, ada: Client) -> None:
    acme.keep(acme.sender, chatbot_first=True)
    before = account_of(acme).handover_token
    fields = opened(look(ada, acme.org, "senders"), "Make a new token") | {"action": "new token"}
    answers = at_once(*[lambda: press(ada, acme.org, "senders", **fields)] * 2)
    assert [each.status_code for each in answers] == [302, 302]
    after = account_of(acme).handover_token
    assert len(after) >= 32 and after != before
    press(ada, acme.org, "senders", **fields)
    assert account_of(acme).handover_token == after
    entries = noted(acme)
    assert [what for what, _ in entries].count("made a new hand-over token") == 1
    assert after not in str(entries) and before not in str(entries)


def test_the_summary_shows_the_addresses_of_both_frames(acme: Company, ada: Client) -> None:
    page = look(ada, acme.org, "summary")
    assert (
        acme.org.setup_url in page and f"{acme.org.setup_url}templates" == acme.org.panel_url and acme.org.panel_url in page
    )
