"""Connecting step by step: what is wrong is said at its field, and nothing is kept that was not tried."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from messaging import subscriptions
from messaging.routes import Routes
from tenants import connecting, onboarding
from tenants.models import Channel, Draft, InfobipAccount, Org, SalesforceConnection, Sender, WebSession
from tenants.onboarding import SetupProblem
from tenants.tenancy import every_org, org_scope
from tests.conftest import World
from tests.set_up.conftest import Company, FarSide
from tests.tenants.salesforce import OURS


def problem_of(work: Any) -> dict[str, str]:
    with pytest.raises(SetupProblem) as caught:
        work()
    return caught.value.problems


# My Domain


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("acme", "https://acme.my.salesforce.com"),
        (" Acme.my.salesforce.com/ ", "https://acme.my.salesforce.com"),
        ("https://acme.lightning.force.com/lightning/page/home", "https://acme.my.salesforce.com"),
        ("https://acme--uat.sandbox.lightning.force.com", "https://acme--uat.sandbox.my.salesforce.com"),
        ("acme--uat.sandbox", "https://acme--uat.sandbox.my.salesforce.com"),
        ("https://acme.my.salesforce-setup.com/lightning/setup/SetupOneHome/home", "https://acme.my.salesforce.com"),
        ("acme.my.salesforce-scrt.com", "https://acme.my.salesforce.com"),
        ("HTTPS://ACME.LIGHTNING.FORCE.COM/x?y#z", "https://acme.my.salesforce.com"),
        ("acme-dev-ed.develop", "https://acme-dev-ed.develop.my.salesforce.com"),
        ("http://acme.my.salesforce.com", "https://acme.my.salesforce.com"),
    ],
)
def test_a_my_domain_is_understood_however_it_is_typed(typed: str, address: str) -> None:
    assert connecting.my_domain(typed) == address


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "https://acme.example.com",
        "https://acme.my.salesforce.com.evil.example",
        "https://evil.example/acme.my.salesforce.com",
        "https://user@evil.example",
        "http://169.254.169.254",
        "https://10.0.0.1",
        "https://localhost",
        "https://acme.my.salesforce.com:8443",
        "https://\u0430cme.my.salesforce.com",  # its first letter is a Cyrillic one
        "https://\u212aacme.my.salesforce.com",  # the sign of Kelvin, which lower case makes a plain k
        "https://acme.my.salesforce.com\uff0fevil.example",  # a broad slash
        "https://acme.my.salesforce.com@evil.example",
        "https://ada:secret@acme.my.salesforce.com",
        "https://evil.example\\.my.salesforce.com",
        "https://acme.my.salesforce.com.",
        "http://[",
        "https://acme.my.salesforce.com:port",
        "acme..my.salesforce.com",
        "-acme",
        "a" * 300,
    ],
)
def test_an_address_that_is_no_orgs_is_refused_with_what_one_looks_like(typed: str, settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = False
    assert "https://acme.my.salesforce.com" in problem_of(lambda: connecting.my_domain(typed))["my_domain"]


# keys


def test_a_key_pair_fits_together_and_lasts_two_years() -> None:
    pair = connecting.new_key_pair("acme.my.salesforce.com")
    certificate = x509.load_pem_x509_certificate(pair.certificate.encode())
    key = load_pem_private_key(pair.private_key.encode(), password=None)
    assert certificate.public_key() == key.public_key()
    assert isinstance(key, RSAPrivateKey) and key.key_size == 2048
    assert len(connecting.certificate_for(pair.private_key)) > 100
    ends = connecting.certificate_ends(pair.certificate)
    assert ends is not None and timedelta(days=729) < ends - datetime.now(UTC) < timedelta(days=731)


def test_the_old_key_works_until_the_new_certificate_is_in_the_org(acme: Company) -> None:
    with org_scope(acme.org.pk):
        before = SalesforceConnection.objects.get(org=acme.org).private_key
        connecting.begin_key_change(acme.org, who="Ada")
        org = Org.objects.select_related("salesforce").get(pk=acme.org.pk)
        assert "certificate" in problem_of(lambda: connecting.finish_key_change(org, who="Ada"))[""]
        assert SalesforceConnection.objects.get(org=acme.org).private_key == before
        connecting.try_login(SalesforceConnection.objects.get(org=acme.org))
        new = SalesforceConnection.objects.get(org=acme.org).next_certificate
        public = x509.load_pem_x509_certificate(new.encode()).public_key()
        acme.edit(
            "ExternalClientApp.Certificate", public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )
        connecting.finish_key_change(Org.objects.select_related("salesforce").get(pk=acme.org.pk), who="Ada")
        way = SalesforceConnection.objects.get(org=acme.org)
        assert way.private_key != before and not way.next_private_key
        connecting.try_login(way)


# drafts


@pytest.fixture
def local(settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True


@pytest.mark.django_db
def test_a_draft_is_known_to_its_own_browser_only(local: None) -> None:
    client = Client()
    page = client.post("/", {"my_domain": "newcomer"}, **OURS)
    assert (page.status_code == 200 and "External" in page.content.decode()) or "external" in page.content.decode()
    assert client.get("/new/").status_code == 200
    assert Client().get("/new/").status_code == 302
    with every_org():
        draft = Draft.objects.get()
        assert draft.base_url == "https://newcomer.my.salesforce.com" and not Org.objects.exists()
        assert client.cookies["__Host-sid-new"].value not in draft.token_hash
        Draft.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert client.get("/new/").status_code == 302


@pytest.mark.django_db
def test_from_one_address_only_so_many_set_ups_are_begun(local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.views.DRAFTS_AN_HOUR", 2)
    address: dict[str, Any] = {"HTTP_X_FORWARDED_FOR": f"203.0.113.{uuid4().int % 250}, 198.51.100.{uuid4().int % 250}"}
    pages = [Client().post("/", {"my_domain": "newcomer"}, **OURS, **address).content.decode() for _ in range(3)]
    assert "Too many set-ups" not in pages[1] and "Too many set-ups" in pages[2]


def test_a_known_org_is_shown_its_own_page_and_nothing_else(acme: Company) -> None:
    way = acme.document["org"]["baseUrl"]
    answer = Client().post("/", {"my_domain": way}, **OURS)
    assert answer.status_code == 302 and answer["Location"].endswith("/")
    with every_org():
        assert not Draft.objects.exists()


def test_an_org_whose_app_is_gone_is_connected_anew_without_touching_what_is_there(acme: Company) -> None:
    with every_org():
        before = SalesforceConnection.objects.filter(org=acme.org).values().get()
    page = Client().get(f"/e/{acme.org.handle}/", follow=True).content.decode()
    assert "Connect again" in page
    answer = Client().post("/", {"my_domain": acme.document["org"]["baseUrl"], "anew": "yes"}, **OURS)
    assert answer.status_code == 200 and "external client app" in answer.content.decode()
    with every_org():
        assert Draft.objects.get().base_url == acme.document["org"]["baseUrl"]
        assert SalesforceConnection.objects.filter(org=acme.org).values().get() == before


def fresh_draft(far_side: FarSide, **document: Any) -> Draft:
    return connecting.begin_draft(f"http://127.0.0.1:{far_side.ports['salesforce']}", str(uuid4()))


def test_each_refused_login_has_its_remedy_at_the_field_that_it_is_about(acme: Company) -> None:
    draft = fresh_draft(acme.far_side)
    key, user = acme.document["org"]["consumerKey"], acme.document["org"]["username"]

    def told(field: str, consumer_key: str, username: str) -> str:
        problems = problem_of(lambda: connecting.connect_draft(draft, consumer_key=consumer_key, username=username))
        assert set(problems) == {field}
        return problems[field]

    assert "consumer key" in told("consumer_key", "3MVG9wrong", user)
    assert "certificate" in told("", key, user)  # the draft's key is not the app's, which is no field's fault
    draft.private_key = acme.document["org"]["privateKey"]
    assert "in a sandbox it ends with a dot" in told("username", key, "nobody@acme.example")
    acme.edit("ExternalClientApp.PermissionSets", [])
    assert "pre-authorized" in told("username", key, user)
    acme.edit(f"User[Username={user}].IsActive", False)
    assert "not active" in told("username", key, user)
    acme.edit("ExternalClientApp.IsEnabled", False)
    assert "not installed in this org" in told("consumer_key", key, user)
    with every_org():
        assert Draft.objects.get(pk=draft.pk).consumer_key == ""  # nothing of it was kept


def test_a_platform_that_does_not_answer_is_said_so(acme: Company) -> None:
    draft = connecting.begin_draft("http://127.0.0.1:9", str(uuid4()))
    problems = problem_of(lambda: connecting.connect_draft(draft, consumer_key="3MVG9", username="x@y.example"))
    assert "does not answer" in problems[""]


def test_a_proven_draft_becomes_an_org_and_the_same_org_again_under_its_new_name(acme: Company) -> None:
    draft = fresh_draft(acme.far_side)
    draft.consumer_key, draft.username = "3MVG9new", "byoc@renamed.example"
    org = connecting.promote_draft(draft, organization_id=acme.org.salesforce_id[:15], name="Renamed", who="Ada")
    with every_org():
        assert (
            org.pk == acme.org.pk and Org.objects.filter(salesforce_id__startswith=acme.org.salesforce_id[:15]).count() == 1
        )
        assert SalesforceConnection.objects.get(org=org).consumer_key == "3MVG9new"
        assert Channel.objects.filter(org=org).count() == 1  # what was set up stays
        assert not Draft.objects.filter(pk=draft.pk).exists()
    other = fresh_draft(acme.far_side)
    new = connecting.promote_draft(other, organization_id="00D5g0000999999EAA", name="New", who="Ada")
    with every_org():
        assert new.name == "New" and new.handle != org.handle


@pytest.mark.django_db(transaction=True)
def test_two_browsers_that_prove_the_same_org_at_once_make_one(local: None) -> None:
    drafts = [connecting.begin_draft("https://twice.my.salesforce.com", str(uuid4())) for _ in range(2)]
    problems: list[Exception] = []

    def adopt(draft: Draft) -> None:
        try:
            connecting.promote_draft(draft, organization_id="00D5g0000888888EAA", name="Twice", who="Ada")
        except Exception as exc:
            problems.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=adopt, args=[draft]) for draft in drafts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with every_org():
        assert Org.objects.filter(salesforce_id="00D5g0000888888EAA").count() == 1
    assert problems == []


# the connection


def test_a_changed_connection_is_kept_only_if_it_works_and_is_of_this_org(acme: Company, rival: Company) -> None:
    org = acme.document["org"]
    with org_scope(acme.org.pk):
        wrong: dict[str, Any] = {"consumer_key": "3MVG9wrong", "username": org["username"], "scrt_url": org["scrtUrl"]}
        problem_of(lambda: connecting.change_connection(acme.org, **wrong, who="Ada"))
        way = SalesforceConnection.objects.get(org=acme.org)
        assert way.consumer_key == org["consumerKey"]
        other = rival.document["org"]
        acme.org.salesforce = way
        way.private_key = other["privateKey"]
        foreign: dict[str, Any] = {
            "consumer_key": other["consumerKey"],
            "username": other["username"],
            "scrt_url": org["scrtUrl"],
        }
        problems = problem_of(lambda: connecting.change_connection(acme.org, **foreign, who="Ada"))
        assert "another org" in problems["consumer_key"] and rival.org.name not in str(problems)
        assert SalesforceConnection.objects.get(org=acme.org).consumer_key == org["consumerKey"]


def test_disconnecting_stops_everything_keeps_the_history_and_connecting_again_resumes(acme: Company) -> None:
    with every_org():
        org = Org.objects.select_related("salesforce").get(pk=acme.org.pk)
    tokens = org.salesforce.tokens()
    token = tokens.current()
    with org_scope(org.pk):
        connecting.disconnect(org, who="Ada")
    with every_org():
        subscriptions.add_missing()
        assert not subscriptions.claim_streams(10)
        key = (acme.channel.pk, acme.sender.pk)
        assert Routes().find([key])[key].problem == "the org is disconnected"
        assert not WebSession.objects.filter(org=org).exists()
        assert Channel.objects.filter(org=org).exists() and org.audit_entries.filter(what="disconnected the org").exists()
    assert tokens.current().value != token.value  # the old one was revoked and forgotten
    with org_scope(org.pk):
        given = acme.document["org"]
        connecting.change_connection(
            org, consumer_key=given["consumerKey"], username=given["username"], scrt_url=given["scrtUrl"], who="Ada"
        )
    with every_org():
        assert Org.objects.get(pk=org.pk).disconnected_at is None
        assert len(subscriptions.claim_streams(10)) == 1


# channels


def test_the_channels_of_the_org_are_found_with_what_they_are_made_of(acme: Company) -> None:
    with org_scope(acme.org.pk):
        (found,) = connecting.find_channels(acme.org)
    assert (found.address, found.definition, found.active) == (
        acme.channel.channel_address_identifier,
        "Infobip_WhatsApp",
        True,
    )
    assert (found.event, found.event_type_field, found.event_payload_field) == (
        "Infobip_Event__e",
        "EventType__c",
        "Payload__c",
    )


def test_saving_a_channel_twice_keeps_one(acme: Company) -> None:
    with org_scope(acme.org.pk):
        (found,) = connecting.find_channels(acme.org)
        Channel.objects.all().delete()
        for context in ("Other", "Infobip_WhatsApp"):
            connecting.keep_channel(acme.org, found, context=context, who="Ada")
        kept = Channel.objects.get(org=acme.org)
    assert kept.authorization_context == "Infobip_WhatsApp"
    assert (kept.welcome_message, kept.closing_message) == (connecting.WELCOME, connecting.CLOSING)


def test_saving_a_channel_again_leaves_its_texts(acme: Company) -> None:
    acme.keep(acme.channel, welcome_message="", closing_message="Bye")
    with org_scope(acme.org.pk):
        (found,) = connecting.find_channels(acme.org)
        connecting.keep_channel(acme.org, found, context="Infobip_WhatsApp", who="Ada")
        kept = Channel.objects.get(org=acme.org)
    assert (kept.welcome_message, kept.closing_message) == ("", "Bye")


# Infobip


def account_fields(acme: Company, **change: str) -> dict[str, Any]:
    account = acme.document["infobipAccounts"][0]
    return {"name": "second", "base_url": account["baseUrl"], "api_key": account["apiKey"]} | change


def test_a_key_that_infobip_does_not_take_is_not_kept(acme: Company) -> None:
    with org_scope(acme.org.pk):
        fields = account_fields(acme, api_key="wrong")
        assert "does not accept" in problem_of(lambda: connecting.connect_infobip(acme.org, **fields, who="Ada"))["api_key"]
        assert acme.org.infobip_accounts.count() == 1


@pytest.mark.parametrize(
    "host", ["https://api.infobip.com.evil.example", "https://169.254.169.254", "ftp://api.infobip.com"]
)
def test_a_host_that_is_not_infobips_never_gets_the_key(acme: Company, host: str) -> None:
    with org_scope(acme.org.pk):
        fields = account_fields(acme, base_url=host)
        assert "base_url" in problem_of(lambda: connecting.connect_infobip(acme.org, **fields, who="Ada"))


def test_what_a_key_may_not_is_kept_and_shown_with_its_cost(acme: Company) -> None:
    acme.at_infobip(scopes=["message:send", "numbers:manage"])
    with org_scope(acme.org.pk):
        account = connecting.connect_infobip(acme.org, **account_fields(acme), who="Ada")
        missing = {each.name: each.cost for each in connecting.describe_account(account).capabilities if not each.granted}
    assert missing["templates panel"] == "reps cannot send templates"
    assert "two-way messaging" not in missing


def test_two_accounts_of_one_name_are_refused(acme: Company) -> None:
    with org_scope(acme.org.pk):
        fields = account_fields(acme, name=acme.account.name)
        assert "already" in problem_of(lambda: connecting.connect_infobip(acme.org, **fields, who="Ada"))["name"]


def test_a_changed_account_keeps_its_secret_its_address_and_an_unmentioned_key(acme: Company) -> None:
    with org_scope(acme.org.pk):
        fields = account_fields(acme, name="renamed", api_key="")
        connecting.connect_infobip(acme.org, **fields, who="Ada", account=InfobipAccount.objects.get(pk=acme.account.pk))
        account = InfobipAccount.objects.get(pk=acme.account.pk)
    assert account.name == "renamed"
    for field in ("uuid", "webhook_secret", "api_key"):
        assert getattr(account, field) == getattr(acme.account, field)


def test_of_a_changed_webhook_secret_both_are_valid_until_the_old_one_is_ended(acme: Company) -> None:
    with org_scope(acme.org.pk):
        account = InfobipAccount.objects.get(pk=acme.account.pk)
        connecting.change_webhook_secret(account, who="Ada")
        account = InfobipAccount.objects.get(pk=acme.account.pk)
        assert account.previous_webhook_secret == acme.account.webhook_secret != account.webhook_secret
        connecting.retire_old_secret(account, who="Ada")
        assert InfobipAccount.objects.get(pk=acme.account.pk).webhook_secrets == [account.webhook_secret, ""]


def test_a_sender_is_put_on_a_channel_changed_and_taken_off(acme: Company) -> None:
    with org_scope(acme.org.pk):
        account = InfobipAccount.objects.get(pk=acme.account.pk)
        for chatbot_first in (True, True, False):
            connecting.choose_sender(
                account, acme.sender.number, channel=acme.channel, chatbot_first=chatbot_first, who="Ada"
            )
        assert Sender.objects.get(account=account).chatbot_first is False
        assert acme.org.audit_entries.filter(what="chose a sender").count() == 2  # the repeated one changed nothing
        connecting.choose_sender(account, acme.sender.number, channel=None, chatbot_first=False, who="Ada")
        assert not Sender.objects.filter(account=account).exists()


def test_a_number_that_is_not_the_accounts_is_refused(acme: Company) -> None:
    with org_scope(acme.org.pk):
        account = InfobipAccount.objects.get(pk=acme.account.pk)
        problems = problem_of(
            lambda: connecting.choose_sender(account, "15550001111", channel=acme.channel, chatbot_first=False, who="Ada")
        )
    assert "not a WhatsApp sender of this account" in problems["number"]


@pytest.mark.parametrize(
    "number", ["", "+447700900123", "0044", "1" * 40, "1\x00", "\u0661\u0662\u0663\u0664\u0665\u0666\u0667"]
)
def test_what_is_no_number_is_refused(acme: Company, number: str) -> None:
    with org_scope(acme.org.pk):
        for channel in (acme.channel, None):
            problems = problem_of(
                lambda channel=channel: connecting.choose_sender(
                    acme.account, number, channel=channel, chatbot_first=False, who="Ada"
                )
            )
            assert "country code" in problems["number"]


def test_a_key_that_may_not_list_numbers_has_them_typed_in(acme: Company) -> None:
    acme.at_infobip(scopes=["message:send"])
    with org_scope(acme.org.pk):
        assert not connecting.describe_senders(acme.account).listed
        connecting.choose_sender(acme.account, "15550001111", channel=acme.channel, chatbot_first=False, who="Ada")
        assert Sender.objects.filter(account=acme.account, number="15550001111").count() == 1


def test_while_infobip_does_not_answer_no_number_is_taken_on_trust(acme: Company) -> None:
    acme.keep(acme.account, base_url="http://127.0.0.1:9")
    with org_scope(acme.org.pk):
        problems = problem_of(
            lambda: connecting.choose_sender(
                acme.account, "15550001111", channel=acme.channel, chatbot_first=False, who="Ada"
            )
        )
        assert "does not list" in problems["number"]
        connecting.choose_sender(acme.account, acme.sender.number, channel=None, chatbot_first=False, who="Ada")
        assert not Sender.objects.filter(account=acme.account).exists()  # taking off needs nobody's leave


def test_a_token_is_revoked_at_salesforce_when_the_org_is_disconnected(acme: Company) -> None:
    with every_org():
        org = Org.objects.select_related("salesforce").get(pk=acme.org.pk)
    token = org.salesforce.tokens().current().value
    world = acme.far_side.sandbox.world
    assert token in world.by_token
    with org_scope(org.pk):
        connecting.disconnect(org, who="Ada")
    assert token not in world.by_token


def test_a_number_whose_forwarding_goes_elsewhere_is_marked(acme: Company) -> None:
    with org_scope(acme.org.pk):
        account = InfobipAccount.objects.get(pk=acme.account.pk)
        (view,) = connecting.describe_senders(account).senders
        assert view.bypasses == ""
    forwarding = {"type": "HTTP_FORWARD", "url": "https://old.example/hook"}
    acme.at_infobip(numbers={acme.sender.number: {"forwarding": forwarding}})
    with org_scope(acme.org.pk):
        (view,) = connecting.describe_senders(account).senders
        assert view.bypasses == "https://old.example/hook"


def test_who_changed_what_is_written_down_without_secrets(acme: Company) -> None:
    with org_scope(acme.org.pk):
        account = InfobipAccount.objects.get(pk=acme.account.pk)
        connecting.change_webhook_secret(account, who="Ada Admin")
        entry = acme.org.audit_entries.get()
        assert (entry.who, entry.what, entry.detail) == ("Ada Admin", "made a new webhook secret", account.name)
        assert account.webhook_secret not in str(entry.__dict__)


def test_fifteen_characters_are_completed(acme: World) -> None:
    assert onboarding.long_org_id("00Dxx0000001gER") == "00Dxx0000001gEREAY"
