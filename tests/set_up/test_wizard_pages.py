"""Each step as a page: empty, failing, with long names; what is wrong stands at its field; no secret shows."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from tenants import cache, connecting
from tenants.models import Channel, InfobipAccount, Installation, Membership, Org, Role, SalesforceConnection, Sender
from tenants.tenancy import every_org, org_scope
from tests.set_up.conftest import Company
from tests.set_up.pages import STEPS, alerts, look, press, read, signed_in
from tests.tenants.salesforce import OURS

pytestmark = pytest.mark.django_db
NOWHERE = "http://127.0.0.1:9"
LONG = ("<b>Übermäßig lange Namen & Zeichen</b>" * 6)[:200]


@pytest.fixture
def ada(acme: Company) -> Client:
    return signed_in(acme.org)


def empty_out(company: Company) -> None:
    """Take away what was set up but the connection."""
    with every_org():
        for model in (Sender, Channel, InfobipAccount):
            model.objects.filter(org=company.org).delete()


# looking


@pytest.mark.parametrize("query", ["", "?id=", "?id=undefined", "?id=null", "?id=a0B5g00000XyZab&id=%00"])
@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_shown_whatever_salesforce_appends_to_its_address(
    acme: Company, ada: Client, step: str, query: str
) -> None:
    page = look(ada, acme.org, step, query)
    assert f"WhatsApp for {acme.org.name}" in page and 'aria-current="step"' in page


@pytest.mark.parametrize("query", ["", "?id=", "?id=undefined", "?id=null", "?id=a0B5g00000XyZab"])
def test_the_bare_addresses_take_it_too(acme: Company, ada: Client, query: str) -> None:
    assert Client().get(f"/{query}").status_code == 200
    assert Client().get(f"/new/{query}").status_code == 302
    assert ada.get(f"/e/{acme.org.handle}/{query}").status_code == 302


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("connect", "Test and save"),
        ("byoc", "Install for me"),
        ("channel", "WhatsApp"),
        ("texts", "there is none yet"),
        ("accounts", "Add your Infobip account"),
        ("senders", "Add an Infobip account first"),
        ("summary", "none yet"),
    ],
)
def test_of_an_org_with_nothing_in_it_each_step_says_what_comes_next(
    acme: Company, ada: Client, step: str, words: str
) -> None:
    empty_out(acme)
    assert words in look(ada, acme.org, step)


def test_the_wizard_opens_at_the_first_step_that_is_not_done(acme: Company, ada: Client) -> None:
    def opens_at() -> str:
        return str(ada.get(f"/e/{acme.org.handle}/")["Location"]).rpartition("/")[2]

    assert opens_at() == "summary"
    with every_org():
        Sender.objects.filter(org=acme.org).delete()
    assert opens_at() == "senders"
    empty_out(acme)
    assert opens_at() == "byoc"
    with org_scope(acme.org.pk):
        connecting.disconnect(Org.objects.select_related("salesforce").get(pk=acme.org.pk), who="Ada")
    again = signed_in(acme.org)
    assert str(again.get(f"/e/{acme.org.handle}/")["Location"]).endswith("/setup/connect")
    assert "connect again" in look(again, acme.org, "connect")


def test_an_unknown_step_is_none(acme: Company, ada: Client) -> None:
    assert ada.get(f"/e/{acme.org.handle}/setup/elsewhere").status_code == 404


@pytest.mark.parametrize("step", STEPS)
def test_while_both_platforms_are_down_each_step_still_stands(acme: Company, ada: Client, step: str) -> None:
    acme.keep(acme.org.salesforce, base_url=NOWHERE)
    acme.keep(acme.account, base_url=NOWHERE)
    page = look(ada, acme.org, step)
    if step == "channel":
        assert "Salesforce does not list its channels" in alerts(page)[""]
        assert "no messaging channel for WhatsApp in your org yet" not in page  # nobody knows
    if step in ("accounts", "senders"):
        assert "Infobip does not" in page


@pytest.mark.parametrize("step", STEPS)
def test_long_names_with_marks_in_them_are_shown_as_they_are(acme: Company, step: str) -> None:
    acme.keep(acme.org, name=LONG)
    acme.keep(acme.account, name=LONG[:100])
    acme.keep(acme.channel, name=LONG)
    with every_org():
        Installation.objects.create(org=acme.org, who=LONG, state=Installation.State.FAILED)
        acme.org.audit(LONG, LONG, LONG * 5)
    client = signed_in(acme.org, name=LONG)
    page = look(client, acme.org, step)
    assert "<b>" not in page and "&lt;b&gt;" in page


def test_a_run_that_failed_shows_each_problem_and_one_under_way_how_far_it_is(acme: Company, ada: Client) -> None:
    step = {"key": "check", "title": "Check", "done": 3, "total": 12, "now": "Deploying", "problems": []}
    problem = {"what": "Queue Infobip_Messaging", "why": "Omni-Channel is off in this org."}
    with every_org():
        run = Installation.objects.create(
            org=acme.org, who="Ada", state="failed", steps=[step | {"state": "failed", "problems": [problem]}]
        )
    page = look(ada, acme.org, "byoc")
    assert "Queue Infobip_Messaging" in page and "Omni-Channel is off" in page
    assert "The installation stopped" in alerts(page)[""] and "Install for me" in page
    with every_org():
        Installation.objects.filter(pk=run.pk).update(state="running", steps=[step | {"state": "running"}])
    page = look(ada, acme.org, "byoc")
    assert 'role="progressbar"' in page and "3 of 12" in page and "Install for me" not in page


# who may


@pytest.mark.parametrize("step", STEPS)
def test_a_rep_sees_and_changes_nothing(acme: Company, step: str) -> None:
    rep = signed_in(acme.org, Role.REP)
    for answer in (rep.get(f"/e/{acme.org.handle}/setup/{step}"), press(rep, acme.org, step, action="disconnect")):
        assert answer.status_code == 403
        for secret in (acme.account.webhook_secret, acme.sender.number, acme.org.salesforce.username):
            assert secret not in answer.content.decode()


# secrets


def secrets_of(company: Company) -> Iterator[tuple[str, str]]:
    with every_org():
        way, account = SalesforceConnection.objects.get(org=company.org), InfobipAccount.objects.get(pk=company.account.pk)
    yield "private key", way.private_key.splitlines()[1]
    yield "next private key", way.next_private_key.splitlines()[1]
    yield "API key", account.api_key
    yield "webhook secret", account.webhook_secret
    yield "webhook secret of before", account.previous_webhook_secret
    yield "hand-over token", account.handover_token


def test_no_page_shows_a_secret_but_those_that_are_there_to_be_copied(acme: Company, ada: Client) -> None:
    press(ada, acme.org, "connect", action="new key")
    press(ada, acme.org, "accounts", action="new secret", account=str(acme.account.uuid))
    acme.keep(acme.sender, chatbot_first=True)
    secrets = dict(secrets_of(acme))
    assert all(secrets.values())
    allowed = {"accounts": {"webhook secret"}, "senders": {"hand-over token"}}
    base = f"/e/{acme.org.handle}"
    for step in STEPS:
        refused = press(ada, acme.org, step, consumer_key="", username="", account=str(acme.account.uuid), action="change")
        for answer in (ada.get(f"{base}/setup/{step}"), refused):
            shown = {name for name, secret in secrets.items() if secret in answer.content.decode()}
            assert shown <= allowed.get(step, set()), step
    assert "webhook secret" in {name for name, each in secrets.items() if each in look(ada, acme.org, "accounts")}
    for path in ("doctor", "package"):
        content = ada.get(f"{base}/{path}").content
        assert not [name for name, secret in secrets.items() if secret.encode() in content], path
    with every_org():
        entries = str(list(acme.org.audit_entries.values()))
    assert not [name for name, secret in secrets.items() if secret in entries]


def test_what_was_typed_as_a_key_does_not_come_back(acme: Company, ada: Client) -> None:
    page = press(ada, acme.org, "accounts", name="", base_url="", api_key="typed-key-1").content.decode()
    assert "typed-key-1" not in page


# what is wrong stands at its field


def test_an_address_that_is_no_orgs_is_told_at_its_field(db: None) -> None:
    for typed in ("https://evil.example", "", "http://[", "a" * 299, "x\x00y"):
        page = Client().post("/", {"my_domain": typed}, **OURS).content.decode()
        assert alerts(page).get("my_domain"), typed


def test_a_refused_login_is_told_at_its_field_and_changes_nothing(acme: Company, ada: Client) -> None:
    given = acme.document["org"]
    fields = {"consumer_key": given["consumerKey"], "username": given["username"], "scrt_url": given["scrtUrl"]}
    for change, field in (
        ({"consumer_key": "3MVG9wrong"}, "consumer_key"),
        ({"username": "nobody@acme.example"}, "username"),
        ({"scrt_url": "https://evil.example"}, "scrt_url"),
        ({"scrt_url": ""}, "scrt_url"),
        ({"username": "u" * 201}, "username"),
        ({"consumer_key": ""}, "consumer_key"),
    ):
        answer = press(ada, acme.org, "connect", **fields | change)
        assert answer.status_code == 200
        told = alerts(answer.content.decode())
        assert set(told) == {field}, (change, told)
    with every_org():
        way = SalesforceConnection.objects.get(org=acme.org)
    assert (way.consumer_key, way.username, way.scrt_url) == tuple(fields.values())


def test_a_key_that_the_org_does_not_have_yet_is_told_and_the_certificate_is_still_there(
    acme: Company, ada: Client
) -> None:
    press(ada, acme.org, "connect", action="new key")
    page = press(ada, acme.org, "connect", action="use new key").content.decode()
    assert "certificate" in alerts(page)[""] and "Test and use the new key" in page and "Download the certificate" in page


def test_what_is_wrong_with_a_new_account_is_told_at_its_field(acme: Company, ada: Client) -> None:
    account = acme.document["infobipAccounts"][0]
    fields = {"name": "second", "base_url": account["baseUrl"], "api_key": account["apiKey"]}
    for change, field in (
        ({"api_key": "wrong"}, "api_key"),
        ({"api_key": ""}, "api_key"),
        ({"base_url": "https://evil.example"}, "base_url"),
        ({"base_url": NOWHERE}, "base_url"),
        ({"name": acme.account.name}, "name"),
        ({"name": "n" * 101}, "name"),
    ):
        answer = press(ada, acme.org, "accounts", **fields | change)
        assert answer.status_code == 200 and set(alerts(answer.content.decode())) == {field}, change
    with every_org():
        assert InfobipAccount.objects.filter(org=acme.org).count() == 1


def test_what_is_wrong_with_a_changed_account_is_told_in_its_own_form(acme: Company, ada: Client) -> None:
    fields = {"name": "main", "base_url": acme.account.base_url, "api_key": "wrong"}
    answer = press(ada, acme.org, "accounts", action="change", account=str(acme.account.uuid), **fields)
    page = answer.content.decode()
    assert answer.status_code == 200 and alerts(page)["api_key"]
    own = page.index("Change the key or the address"), page.index("Another Infobip account")
    assert own[0] < page.index("does not accept this API key; check") < own[1] and "key is not accepted" not in page
    with every_org():
        assert InfobipAccount.objects.get(pk=acme.account.pk).api_key == acme.document["infobipAccounts"][0]["apiKey"]


def test_a_change_of_an_account_that_is_gone_makes_no_new_one(acme: Company, ada: Client) -> None:
    account = acme.document["infobipAccounts"][0]
    fields = {"name": "third", "base_url": account["baseUrl"], "api_key": account["apiKey"]}
    for named in ("", "4a1b6f0e-0000-4000-8000-000000000000", "nonsense\x00"):
        answer = press(ada, acme.org, "accounts", action="change", account=named, **fields)
        assert answer.status_code == 409 and "no longer there" in answer.content.decode()
    with every_org():
        assert InfobipAccount.objects.filter(org=acme.org).count() == 1


def test_a_channel_that_the_org_does_not_have_is_told_at_its_field(acme: Company, ada: Client) -> None:
    page = press(ada, acme.org, "channel", pasted="another", context="Kept_as_typed").content.decode()
    assert "No custom messaging channel" in alerts(page)["pasted"] and "Kept_as_typed" in page
    page = press(ada, acme.org, "channel", found="gone meanwhile").content.decode()
    assert "Select a valid choice" in alerts(page)["found"]


def test_while_salesforce_is_down_a_channel_is_not_said_to_be_wrong(acme: Company, ada: Client) -> None:
    acme.keep(acme.org.salesforce, base_url=NOWHERE)
    address = acme.channel.channel_address_identifier
    page = press(ada, acme.org, "channel", found=address, context="Kept_as_typed").content.decode()
    assert list(alerts(page)) == [""] and "does not list its channels" in alerts(page)[""]
    assert "Kept_as_typed" in page


def test_a_channel_or_a_number_that_is_not_there_is_told(acme: Company, ada: Client) -> None:
    fields = {"account": str(acme.account.uuid), "number": acme.sender.number, "channel": acme.channel.pk, "first": "rep"}
    for change, place, words in (
        ({"channel": 999_999_999}, "first", "no longer there"),  # after the fields of the number's row
        ({"channel": "x"}, "first", "no longer there"),
        ({"number": "15550001111"}, "", "not a WhatsApp sender"),
        ({"number": "1\x00"}, "", "country code"),
        ({"number": "1" * 300}, "", "country code"),
    ):
        answer = press(ada, acme.org, "senders", **fields | change)
        assert answer.status_code == 200 and words in alerts(answer.content.decode())[place], change
    with every_org():
        assert Sender.objects.get(org=acme.org).channel_id == acme.channel.pk


def test_numbers_are_typed_in_where_the_key_may_not_list_them(acme: Company, ada: Client) -> None:
    assert 'placeholder="447700900123"' not in look(ada, acme.org, "senders")
    acme.at_infobip(scopes=["message:send"])
    assert 'placeholder="447700900123"' in look(ada, acme.org, "senders")
    fields = {"account": str(acme.account.uuid), "number": "+1 (555) 000-1111", "channel": acme.channel.pk, "first": "rep"}
    assert press(ada, acme.org, "senders", **fields).status_code == 302
    with every_org():
        assert Sender.objects.filter(org=acme.org, number="15550001111").exists()
    page = press(ada, acme.org, "senders", **fields | {"number": "12 of ours", "first": "chatbot"}).content.decode()
    assert "Not added. Give the number with its country code" in alerts(page)["first"]
    assert 'value="12 of ours"' in page and '<option value="chatbot" selected>' in page


@pytest.mark.parametrize("step", STEPS)
def test_what_describes_a_field_is_there_and_no_id_is_there_twice(acme: Company, ada: Client, step: str) -> None:
    wrong: dict[str, Any] = {"consumer_key": "", "name": "", "pasted": "another", "account": str(acme.account.uuid)}
    for page in (look(ada, acme.org, step), press(ada, acme.org, step, **wrong).content.decode() or ""):
        found = read(page)
        assert set(found.described) <= set(found.ids)
        assert len(set(found.ids)) == len(found.ids)


# plain forms


def test_plain_forms_are_answered_with_a_redirect_to_what_comes_next(acme: Company, ada: Client) -> None:
    given, account = acme.document["org"], acme.document["infobipAccounts"][0]
    uuid = str(acme.account.uuid)
    steps: list[tuple[str, dict[str, Any], str]] = [
        (
            "connect",
            {"consumer_key": given["consumerKey"], "username": given["username"], "scrt_url": given["scrtUrl"]},
            "byoc",
        ),
        ("connect", {"action": "new key"}, "connect"),
        ("channel", {"found": acme.channel.channel_address_identifier}, f"texts?channel={acme.channel.pk}"),
        ("accounts", {"name": "second", "base_url": account["baseUrl"], "api_key": account["apiKey"]}, "accounts"),
        ("accounts", {"action": "change", "account": uuid, "name": "first", "base_url": account["baseUrl"]}, "accounts"),
        ("accounts", {"action": "subscribe", "account": uuid}, "accounts"),
        ("accounts", {"action": "new secret", "account": uuid}, "accounts"),
        ("accounts", {"action": "end old secret", "account": uuid}, "accounts"),
        (
            "senders",
            {"account": uuid, "number": acme.sender.number, "channel": acme.channel.pk, "first": "chatbot"},
            f"senders?saved={acme.sender.number}",
        ),
        (
            "senders",
            {"account": uuid, "number": acme.sender.number, "channel": "", "first": "rep"},
            f"senders?saved={acme.sender.number}",
        ),
        ("connect", {"action": "disconnect"}, ""),
    ]
    for step, fields, after in steps:
        answer = press(ada, acme.org, step, **fields)
        assert answer.status_code == 302, (step, fields, alerts(answer.content.decode()))
        assert answer["Location"] == f"/e/{acme.org.handle}/" + (f"setup/{after}" if after else "")
    assert look_is_over(ada, acme)


def look_is_over(client: Client, company: Company) -> bool:
    """Tell whether a session has ended."""
    return client.get(f"/e/{company.org.handle}/setup/connect").status_code == 401


def test_signing_out_goes_back_to_the_door(acme: Company, ada: Client) -> None:
    answer = ada.post(f"/e/{acme.org.handle}/sign-out", **OURS)
    assert answer.status_code == 302 and look_is_over(ada, acme)
    with every_org():
        assert Membership.objects.filter(org=acme.org).exists()


def test_when_the_old_secret_was_last_used_is_shown(acme: Company, ada: Client) -> None:
    press(ada, acme.org, "accounts", action="new secret", account=str(acme.account.uuid))
    assert "was not used within the last days" in look(ada, acme.org, "accounts")
    cache.note_old_secret(acme.account.pk)
    assert "The old secret was last used" in look(ada, acme.org, "accounts")
