"""Two administrators at once, or one who presses twice: one record, nothing that the other did is lost, no error page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tenants import connecting, installation
from tenants.models import Channel, InfobipAccount, Installation, Org, SalesforceConnection, Sender
from tenants.tenancy import every_org, org_scope
from tests.set_up.conftest import Company
from tests.set_up.pages import at_once, press, signed_in

pytestmark = pytest.mark.django_db(transaction=True)


def fields_of_connection(company: Company, **change: str) -> dict[str, Any]:
    org = company.document["org"]
    return {"consumer_key": org["consumerKey"], "username": org["username"], "scrt_url": org["scrtUrl"]} | change


def account_fields(company: Company, **change: str) -> dict[str, Any]:
    account = company.document["infobipAccounts"][0]
    return {"name": "second", "base_url": account["baseUrl"], "api_key": account["apiKey"]} | change


@contextmanager
def slow_login(company: Company, seconds: float) -> Iterator[None]:
    """Let Salesforce take its time with this org's logins."""
    fault = {"where": "login", "what": "delay", "seconds": seconds, "org": company.org.salesforce_id}
    company.far_side.control("POST", "/faults", fault)
    try:
        yield
    finally:
        company.far_side.control("DELETE", "/faults")


def way_of(company: Company) -> SalesforceConnection:
    with every_org():
        return SalesforceConnection.objects.get(org=company.org)


def account_of(company: Company) -> InfobipAccount:
    with every_org():
        return InfobipAccount.objects.get(pk=company.account.pk)


def put_certificate(company: Company, pem: str) -> None:
    """Put a certificate into the app in the org, in place of the one that is there."""
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    company.edit(
        "ExternalClientApp.Certificate", key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    )


# the connection


def test_a_changed_connection_does_not_undo_a_change_of_keys_that_began_meanwhile(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org, name="Bob Boss")

    def begin_key_change() -> Any:
        time.sleep(0.3)  # while Salesforce thinks about the login
        return press(bob, acme.org, "connect", action="new key")

    with slow_login(acme, 1.0):
        answers = at_once(lambda: press(ada, acme.org, "connect", **fields_of_connection(acme)), begin_key_change)
    assert [each.status_code for each in answers] == [302, 302]
    assert way_of(acme).next_certificate and way_of(acme).next_private_key


def test_a_key_change_that_finishes_does_not_undo_a_changed_username(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org, name="Bob Boss")
    press(ada, acme.org, "connect", action="new key")
    put_certificate(acme, way_of(acme).next_certificate)

    def rename() -> Any:
        time.sleep(0.3)
        with every_org():
            SalesforceConnection.objects.filter(org=acme.org).update(username="renamed@acme.example")
        return press(bob, acme.org, "connect", action="new key")  # under way already: changes nothing

    with slow_login(acme, 1.0):
        answers = at_once(lambda: press(ada, acme.org, "connect", action="use new key"), rename)
    assert [each.status_code for each in answers] == [302, 302]
    assert way_of(acme).username == "renamed@acme.example" and not way_of(acme).next_certificate


def test_a_second_press_does_not_replace_the_key_whose_certificate_is_on_its_way_into_the_org(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    at_once(*[lambda client=client: press(client, acme.org, "connect", action="new key") for client in (ada, bob)])
    first = way_of(acme).next_certificate
    press(ada, acme.org, "connect", action="new key")
    assert first and way_of(acme).next_certificate == first
    with every_org():
        assert acme.org.audit_entries.filter(what="made a new key pair").count() == 1


def test_a_new_key_is_put_to_use_once(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    press(ada, acme.org, "connect", action="new key")
    new = way_of(acme).next_certificate
    put_certificate(acme, new)
    with slow_login(acme, 0.3):
        answers = at_once(*[lambda c=c: press(c, acme.org, "connect", action="use new key") for c in (ada, bob)])
    assert {each.status_code for each in answers} <= {200, 302}
    way = way_of(acme)
    assert (way.certificate, way.next_certificate, way.next_private_key) == (new, "", "")
    connecting.try_login(way)
    with every_org():
        assert acme.org.audit_entries.filter(what="put the new key pair to use").count() == 1


def test_two_who_disconnect_at_once_do_it_once_and_see_no_error(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    answers = at_once(*[lambda c=c: press(c, acme.org, "connect", action="disconnect") for c in (ada, bob)])
    assert {each.status_code for each in answers} <= {302, 401}
    with every_org():
        assert Org.objects.get(pk=acme.org.pk).disconnected_at is not None


# the channel


def test_a_channel_that_is_saved_twice_at_once_is_one(acme: Company) -> None:
    address = acme.channel.channel_address_identifier
    with every_org():
        Channel.objects.filter(org=acme.org).delete()
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    answers = at_once(*[lambda c=c: press(c, acme.org, "channel", found=address) for c in (ada, bob)])
    assert [each.status_code for each in answers] == [302, 302]
    with every_org():
        assert Channel.objects.get(org=acme.org).welcome_message


# accounts


def test_an_account_that_is_added_twice_at_once_is_one(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    answers = at_once(*[lambda c=c: press(c, acme.org, "accounts", **account_fields(acme)) for c in (ada, bob)])
    assert sorted(each.status_code for each in answers) == [200, 302]
    refused = next(each for each in answers if each.status_code == 200)
    assert connecting.NAME_TAKEN in refused.content.decode()
    with every_org():
        assert InfobipAccount.objects.filter(org=acme.org).count() == 2


def test_a_changed_key_does_not_take_back_a_webhook_secret_that_was_made_meanwhile(acme: Company) -> None:
    before = account_of(acme)  # what the page of one administrator read
    with org_scope(acme.org.pk):
        connecting.change_webhook_secret(account_of(acme), who="Bob Boss")
        fields = account_fields(acme, name="renamed", api_key="")
        connecting.connect_infobip(acme.org, **fields, who="Ada Admin", account=before)
    after = account_of(acme)
    assert after.name == "renamed"
    assert after.webhook_secret != acme.account.webhook_secret == after.previous_webhook_secret


def test_a_second_press_does_not_drop_the_webhook_secret_that_infobip_still_signs_with(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    uuid = str(acme.account.uuid)
    at_once(*[lambda c=c: press(c, acme.org, "accounts", action="new secret", account=uuid) for c in (ada, bob)])
    press(ada, acme.org, "accounts", action="new secret", account=uuid)
    secrets = account_of(acme).webhook_secrets
    assert acme.account.webhook_secret in secrets and len(set(secrets)) == 2
    answers = at_once(
        *[lambda c=c: press(c, acme.org, "accounts", action="end old secret", account=uuid) for c in (ada, bob)]
    )
    assert [each.status_code for each in answers] == [302, 302]
    assert account_of(acme).webhook_secrets == [secrets[0], ""]
    with every_org():
        assert acme.org.audit_entries.filter(what="ended the old webhook secret").count() == 1


def test_a_subscription_that_is_made_twice_at_once_is_one(acme: Company) -> None:
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    uuid = str(acme.account.uuid)
    answers = at_once(*[lambda c=c: press(c, acme.org, "accounts", action="subscribe", account=uuid) for c in (ada, bob)])
    assert [each.status_code for each in answers] == [302, 302]
    ours = [each for each in acme.at_infobip()["subscriptions"].values() if each["notifyUrl"] == acme.account.webhook_url]
    assert len([each for each in acme.at_infobip()["subscriptions"] if each.startswith("scc-")]) == 1
    assert all(each["security"] == "HMAC" for each in ours)


# senders


def test_a_sender_that_is_chosen_twice_at_once_is_one(acme: Company) -> None:
    with every_org():
        Sender.objects.filter(org=acme.org).delete()
    ada, bob = signed_in(acme.org), signed_in(acme.org)
    fields = {"account": str(acme.account.uuid), "number": acme.sender.number, "channel": acme.channel.pk, "first": "rep"}
    answers = at_once(*[lambda c=c: press(c, acme.org, "senders", **fields) for c in (ada, bob)])
    assert [each.status_code for each in answers] == [302, 302]
    with every_org():
        assert Sender.objects.get(org=acme.org).number == acme.sender.number


# installing


def test_of_two_who_install_at_once_one_begins_and_the_other_goes_on_with_it(acme: Company) -> None:
    world = acme.far_side.sandbox.world
    ada = next(row for row in acme.records("User") if row["Name"] == "Ada Admin")
    body = {"username": ada["Username"], "scopes": ["api", "openid", "id"]}
    tokens = [
        acme.far_side.control("POST", f"/orgs/{acme.org.salesforce_id}/tokens", body)["accessToken"] for _ in range(2)
    ]

    def begin(token: str) -> Installation:
        with org_scope(acme.org.pk):
            org = Org.objects.select_related("salesforce").get(pk=acme.org.pk)
            return installation.begin(org, who="Ada Admin", token=token, undo=False)

    runs = at_once(*[lambda token=token: begin(token) for token in tokens])
    assert len({run.pk for run in runs}) == 1
    with every_org():
        kept = Installation.objects.get(org=acme.org).token
    assert [token in world.by_token for token in tokens] == [token == kept for token in tokens]  # the other was revoked


def test_two_pages_that_poll_at_once_start_each_deploy_once(acme: Company) -> None:
    acme.edit("switches.deploy_seconds", 0.2)
    ada = next(row for row in acme.records("User") if row["Name"] == "Ada Admin")
    body = {"username": ada["Username"], "scopes": ["api", "openid", "id"]}
    token = acme.far_side.control("POST", f"/orgs/{acme.org.salesforce_id}/tokens", body)["accessToken"]
    with org_scope(acme.org.pk):
        org = Org.objects.select_related("salesforce").get(pk=acme.org.pk)
        run = installation.begin(org, who="Ada Admin", token=token, undo=False)
    clients = [signed_in(acme.org), signed_in(acme.org)]

    def poll(client: Any) -> set[int]:
        statuses = set()
        for _ in range(200):
            statuses.add(client.get(f"/e/{org.handle}/setup/byoc", headers={"HX-Request": "true"}).status_code)
            with every_org():
                if Installation.objects.get(pk=run.pk).state != Installation.State.RUNNING:
                    return statuses
            time.sleep(0.02)
        raise AssertionError("the run does not end")

    assert at_once(*[lambda c=c: poll(c) for c in clients]) == [{200}, {200}]
    with every_org():
        done = Installation.objects.get(pk=run.pk)
    assert done.state == Installation.State.SUCCEEDED, done.steps
    entries = acme.far_side.control("GET", f"/journal?org={acme.org.salesforce_id}")["entries"]
    started = [
        each
        for each in entries
        if each["kind"] == "rest" and each["text"].startswith("POST") and "deployRequest" in each["text"]
    ]
    assert len(started) == 3  # the check, and two parts
