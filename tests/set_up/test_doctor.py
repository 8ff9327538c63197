"""What the doctor does besides finding: it mends, it goes on where it cannot look, and it keeps to itself."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from config.celery import app
from connector.http import ApiClient
from messaging import tasks
from tenants import connecting, doctor
from tenants.doctor import State, report
from tenants.models import Checkup, InfobipAccount, Role
from tenants.onboarding import SetupProblem
from tenants.tenancy import every_org, org_scope
from tests.set_up.conftest import Company
from tests.set_up.pages import alerts, signed_in
from tests.set_up.test_faults import mute_reports, unsign
from tests.tenants.salesforce import OURS

DEAD = "http://127.0.0.1:9"  # nobody listens


def fix(company: Company, name: str, about: str = "") -> None:
    with org_scope(company.org.pk):
        doctor.fix(company.org, name, about, who="Ada")


def notes(company: Company) -> list[str]:
    with every_org():
        return list(company.org.audit_entries.filter(what="let the doctor fix").values_list("detail", flat=True))


def test_a_good_org_raises_no_alarm(acme: Company) -> None:
    findings = acme.findings()
    assert [title for title, each in findings.items() if each.state is not State.OK] == []
    assert len(findings) >= 25
    assert all(each.found and each.expected and each.why and not each.remedy and not each.fix for each in findings.values())
    with every_org():
        kept = Checkup.objects.get(org=acme.org)
    assert [each["title"] for each in kept.findings] == list(findings)
    assert timezone.now() - kept.at < timedelta(minutes=1)


def spoil_subscription(company: Company) -> None:
    company.at_infobip(removeSubscriptions=["provisioned"])


def spoil_signature(company: Company) -> None:
    unsign(company.far_side.sandbox.world.find_org(company.document["org"]["orgId"]).accounts["main"].setup)


def spoil_reports(company: Company) -> None:
    mute_reports(company.far_side.sandbox.world.find_org(company.document["org"]["orgId"]).accounts["main"].setup)


@pytest.mark.parametrize("spoil", [spoil_subscription, spoil_signature, spoil_reports])
def test_the_subscription_is_mended(acme: Company, spoil: Any) -> None:
    spoil(acme)
    (trouble,) = acme.troubles().values()
    assert trouble.fix == "subscribe"
    fix(acme, trouble.fix, trouble.about)
    assert acme.troubles() == {}
    assert notes(acme) == ["subscribe"]


def test_chatbot_conversations_are_subscribed_to(acme: Company) -> None:
    acme.keep(acme.sender, chatbot_first=True)
    (trouble,) = acme.troubles().values()
    fix(acme, trouble.fix, trouble.about)
    assert acme.troubles() == {}


def let_user_administer(company: Company) -> None:
    """Give the integration user's profile what mending in Salesforce takes."""
    user = next(row for row in company.records("User") if row["Username"] == company.document["org"]["username"])
    for right in ("CustomizeApplication", "ManageUsers", "ModifyMetadata", "ViewSetup"):
        company.edit(f"Profile[Id={user['ProfileId']}].Permissions{right}", True)


IN_SALESFORCE = [
    ("User.UserPermissionsSupportUser", False, "service user"),
    ("CustomMsgChannel", None, "join"),
    ("CustomMsgChannel.HasInboundReceipts", False, "receipts"),
]


@pytest.mark.parametrize(("path", "value", "name"), IN_SALESFORCE)
def test_what_is_wrong_in_salesforce_is_mended(acme: Company, path: str, value: object, name: str) -> None:
    let_user_administer(acme)
    acme.edit(path, value)
    (trouble,) = acme.troubles().values()
    assert trouble.fix == name
    fix(acme, trouble.fix, trouble.about)
    assert acme.troubles() == {}
    assert notes(acme) == [name]


@pytest.mark.parametrize(("path", "value", "name"), IN_SALESFORCE)
def test_where_the_user_may_not_mend_the_admin_is_told(acme: Company, path: str, value: object, name: str) -> None:
    acme.edit(path, value)
    (trouble,) = acme.troubles().values()
    with pytest.raises(SetupProblem) as raised:
        fix(acme, trouble.fix, trouble.about)
    assert "does not allow the integration user to do this" in raised.value.problems[""]
    assert list(acme.troubles().values()) == [trouble]
    assert notes(acme) == []


def test_what_has_gone_meanwhile_is_not_mended(acme: Company) -> None:
    with pytest.raises(SetupProblem, match="no longer exists"):
        fix(acme, "receipts", "an address of before")


def test_a_button_that_is_not_there_or_not_ones_own_does_nothing(acme: Company, rival: Company) -> None:
    spoil_subscription(rival)
    for name, about in (
        ("nothing", ""),
        ("subscribe", str(rival.account.uuid)),
        ("subscribe", str(uuid4())),
        ("subscribe", "x"),
    ):
        fix(acme, name, about)
    assert rival.at_infobip()["subscriptions"] == {}
    assert (notes(acme), notes(rival)) == ([], [])


def test_infobip_being_down_hides_nothing_of_salesforce(acme: Company) -> None:
    acme.keep(acme.account, base_url=DEAD)
    acme.edit("MessagingChannel.IsActive", False)
    findings = acme.findings()
    assert findings["WhatsApp is active"].state is State.FAILED
    unknown = {each.title for each in findings.values() if each.state is State.UNKNOWN}
    assert unknown == {
        f"{title}: main"
        for title in (
            "Infobip API key",
            "Expiry of the Infobip API key",
            "Allowed IP addresses of the Infobip API key",
            "Subscription to WhatsApp events",
            "Forwarding of the senders",
            "WhatsApp status of the senders",
        )
    }
    assert all(findings[title].found.startswith("not checked: ") for title in unknown)


def test_a_key_that_lists_all_our_addresses_raises_no_alarm(acme: Company, settings: Settings) -> None:
    settings.OUTBOUND_ADDRESSES = ["127.0.0.1", "203.0.113.7"]
    acme.at_infobip(allowedIPs=["not an address", "127.0.0.1", "203.0.113.0/24"])
    assert acme.troubles() == {}


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9", "evil.example:7443"])
def test_a_pubsub_api_that_cannot_be_asked_is_not_said_to_refuse(acme: Company, endpoint: str) -> None:
    acme.keep(acme.org.salesforce, pubsub_endpoint=endpoint)
    (trouble,) = acme.troubles().values()
    assert (trouble.title, trouble.state) == ("Access to the event stream", State.UNKNOWN)


def test_an_account_that_does_not_answer_hides_no_other_account(acme: Company) -> None:
    with every_org():
        InfobipAccount.objects.create(org=acme.org, name="a dead one", base_url=DEAD, api_key="k", webhook_secret="s")
    findings = acme.findings()
    assert findings["Subscription of main"].state is State.OK
    assert findings["Subscription to WhatsApp events: a dead one"].state is State.UNKNOWN


@pytest.mark.parametrize("what", ["refused", "down"])
def test_salesforce_not_letting_us_in_hides_nothing_of_infobip(acme: Company, what: str) -> None:
    if what == "refused":
        acme.edit("ExternalClientApp.ConsumerKey", "3MVG9other")
    else:
        acme.far_side.control(
            "POST", "/faults", {"where": "login", "what": "status", "status": 503, "org": acme.org.salesforce_id}
        )
    spoil_subscription(acme)
    findings = acme.findings()
    assert findings["Login to Salesforce"].state is State.FAILED
    assert findings["Subscription of main"].state is State.FAILED
    assert findings["Routing flow"].state is State.UNKNOWN
    assert findings["Routing flow"].found.startswith("not checked: ")


def test_a_mistake_in_one_check_hides_no_other(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(org: doctor.OrgSnapshot) -> list[doctor.Finding]:
        raise KeyError("Id")

    monkeypatch.setitem(doctor.checks, "Routing flow", fail)
    (trouble,) = acme.troubles().values()
    assert (trouble.title, trouble.state) == ("Routing flow", State.UNKNOWN)


def checked_at(company: Company) -> datetime | None:
    with every_org():
        return Checkup.objects.filter(org=company.org).values_list("at", flat=True).first()


def set_checked(company: Company, hours: int) -> datetime:
    at = timezone.now() - timedelta(hours=hours)
    with every_org():
        Checkup.objects.update_or_create(org=company.org, defaults={"at": at, "findings": []})
    return at


threads_see_rows = pytest.mark.django_db(transaction=True)


@threads_see_rows
def test_once_a_day_is_enough_and_an_org_that_is_disconnected_is_left_alone(acme: Company, rival: Company) -> None:
    assert doctor.run_due_checks() == 2  # neither ever was
    assert checked_at(acme) and checked_at(rival)
    recent, old = set_checked(acme, 23), set_checked(rival, 25)
    assert doctor.run_due_checks() == 1
    assert checked_at(acme) == recent and checked_at(rival) != old
    old = set_checked(rival, 25)
    acme.keep(rival.org, disconnected_at=timezone.now())
    assert doctor.run_due_checks() == 0
    assert checked_at(rival) == old


@threads_see_rows
def test_an_org_whose_credentials_cannot_be_read_costs_no_other(acme: Company, rival: Company) -> None:
    with every_org(), connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_salesforceconnection SET private_key = 'x' WHERE org_id = %s", [acme.org.pk])
    assert doctor.run_due_checks() == 2
    with every_org():
        failed = {
            company.org.pk: [
                each["title"] for each in Checkup.objects.get(org=company.org).findings if each["state"] == "failed"
            ]
            for company in (acme, rival)
        }
    assert failed == {acme.org.pk: ["Stored credentials"], rival.org.pk: []}


@threads_see_rows
def test_a_run_that_raises_costs_no_other(acme: Company, rival: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    read_rows = doctor.OrgSnapshot.read_rows

    def read(snapshot: doctor.OrgSnapshot) -> None:
        if snapshot.org == acme.org:
            raise RuntimeError("whatever is wrong")
        read_rows(snapshot)

    monkeypatch.setattr(doctor.OrgSnapshot, "read_rows", read)
    assert doctor.run_due_checks() == 2
    assert checked_at(acme) is None and checked_at(rival) is not None


@threads_see_rows
def test_an_org_that_does_not_answer_holds_up_no_other_and_not_for_long(
    acme: Company, rival: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LONGEST_SECONDS", 8.0)

    def run_and_let_go() -> None:
        try:
            doctor.run_due_checks()
        finally:
            connection.close()

    slow = {"where": "login", "what": "timeout_before", "seconds": 30, "org": acme.org.salesforce_id}
    acme.far_side.control("POST", "/faults", slow)
    with ThreadPoolExecutor(1) as thread:
        begun = time.monotonic()
        running = thread.submit(run_and_let_go)
        while checked_at(rival) is None:
            assert time.monotonic() - begun < 7, "the neighbour waits"
            time.sleep(0.05)
        assert not running.done()
        running.result()
    assert time.monotonic() - begun < 14
    with every_org():
        kept = {each["title"]: each for each in Checkup.objects.get(org=acme.org).findings}
    assert kept["Login to Salesforce"]["state"] == "failed" and kept["Routing flow"]["state"] == "unknown"


def test_no_connection_to_the_database_is_held_while_a_platform_is_asked(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers' few connections are those of the lanes, too."""
    asked: list[int] = []
    real = ApiClient.request

    def request(self: ApiClient, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(statements))
        return real(self, *args, **kwargs)

    def note(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    statements: list[str] = []
    monkeypatch.setattr(ApiClient, "request", request)
    given: list[int] = []
    with connection.execute_wrapper(note):
        doctor.run_checks(acme.org, between=lambda: given.append(len(statements)))
    assert asked and set(asked) <= set(given), "a statement ran after the connection was given back, and then a call"


@threads_see_rows
def test_beat_lets_the_doctor_look(acme: Company) -> None:
    acme.edit("MessagingChannel.IsActive", False)
    tasks.run_doctor()
    with every_org():
        kept = Checkup.objects.get(org=acme.org)
    assert [each["title"] for each in kept.findings if each["state"] == "failed"] == ["WhatsApp is active"]
    assert tasks.run_doctor.name in {each["task"] for each in app.conf.beat_schedule.values()}


# what is shown of it


def page_of_doctor(company: Company, client: Client, **fields: str) -> str:
    path = f"/e/{company.org.handle}/doctor"
    answer = client.post(path, fields, **OURS) if fields else client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_says_that_all_is_well_or_what_is_not_and_how_to_mend_it(acme: Company) -> None:
    ada = signed_in(acme.org)
    page = page_of_doctor(acme, ada)
    assert "checks passed." in page and "Fix it" not in page and 'class="dot bad"' not in page
    acme.edit("MessagingChannel.IsActive", False)
    spoil_subscription(acme)
    page = page_of_doctor(acme, ada)
    assert page.count('class="dot bad"') == 2
    assert "Failed: </span><strong>WhatsApp is active</strong>: not active" in page and "Open in Setup" in page
    assert page.index("WhatsApp is active") < page.index("checks passed")
    assert page.count("Fix it") == 1


def test_the_pages_button_mends_and_the_page_shows_what_is_left(acme: Company, rival: Company) -> None:
    ada = signed_in(acme.org)
    spoil_subscription(acme)
    spoil_subscription(rival)
    page = page_of_doctor(acme, ada, fix="subscribe", about=str(rival.account.uuid))
    assert page.count("Fix it") == 1 and rival.at_infobip()["subscriptions"] == {}
    assert "Fix it" not in page_of_doctor(acme, ada, fix="subscribe", about=str(acme.account.uuid))
    assert notes(acme) == ["subscribe"]


def test_the_page_says_why_something_could_not_be_mended(acme: Company) -> None:
    acme.edit("CustomMsgChannel", None)
    page = page_of_doctor(acme, signed_in(acme.org), fix="join", about=acme.channel.channel_address_identifier)
    assert "does not allow the integration user to do this" in alerts(page)[""] and "Fix it" in page


def test_the_page_is_for_administrators(acme: Company) -> None:
    spoil_subscription(acme)
    rep = signed_in(acme.org, Role.REP)
    fields = {"fix": "subscribe", "about": str(acme.account.uuid)}
    assert rep.get(f"/e/{acme.org.handle}/doctor").status_code == 403
    assert rep.post(f"/e/{acme.org.handle}/doctor", fields, **OURS).status_code == 403
    assert notes(acme) == []


def set_checked_row(company: Company) -> int:
    with every_org():
        return Checkup.objects.create(org=company.org, at=timezone.now(), findings=[]).pk


def test_operators_see_what_was_found_and_let_the_doctor_look_again(acme: Company, rival: Company) -> None:
    acme.edit("MessagingChannel.IsActive", False)
    acme.edit("GroupMember", None)
    acme.findings()
    operator = Client()
    operator.force_login(User.objects.create_superuser("operator"))
    with every_org():
        checkup = Checkup.objects.get(org=acme.org)
    listed = operator.get("/admin/tenants/checkup/").content.decode()
    assert "Acme" in listed and '<td class="field-failed">1</td><td class="field-warnings">1</td>' in listed
    report = operator.get(f"/admin/tenants/checkup/{checkup.pk}/change/").content.decode()
    assert "<b>failed</b> WhatsApp is active: not active<br>Open the channel" in report
    assert report.index("WhatsApp is active") < report.index("<b>ok</b>")
    acme.edit("MessagingChannel.IsActive", True)
    again = {"action": "run_checks_again", "_selected_action": str(checkup.pk)}
    assert operator.post("/admin/tenants/checkup/", again, follow=True).status_code == 200
    both = {**again, "_selected_action": [str(checkup.pk), str(set_checked_row(rival))]}
    assert "Choose one org at a time" in operator.post("/admin/tenants/checkup/", both, follow=True).content.decode()
    with every_org():
        checkup.refresh_from_db()
    assert [each["title"] for each in checkup.findings if each["state"] != "ok"] == ["Members of the queue"]


def test_the_command_says_what_is_wrong_and_ends_accordingly(acme: Company, rival: Company) -> None:
    out = StringIO()
    call_command("doctor", acme.document["org"]["orgId"][:15], stdout=out)
    assert "Acme (" in out.getvalue() and "Rival" not in out.getvalue() and "FAILED" not in out.getvalue()
    acme.edit("MessagingChannel.IsActive", False)
    out = StringIO()
    with pytest.raises(CommandError, match="1 check"):
        call_command("doctor", stdout=out)
    assert "FAILED   WhatsApp is active: not active" in out.getvalue()
    assert "Open the channel in Messaging Settings" in out.getvalue()
    assert "Rival (" in out.getvalue()
    for unknown in ("00D5g0000999999EAA", "00D", ""):
        with pytest.raises(CommandError, match="No org"):
            call_command("doctor", unknown, stdout=out)


def test_no_secret_and_nothing_of_another_org_is_said(acme: Company, rival: Company) -> None:
    with org_scope(acme.org.pk):
        connecting.change_webhook_secret(acme.account, who="Ada")
    acme.edit("ExternalClientApp.Certificate", None)
    acme.at_infobip(enabled=False)
    said = json.dumps(
        [each.found + each.expected + each.why + each.remedy + each.title for each in acme.findings().values()]
    )
    acme.at_infobip(enabled=True)
    said += json.dumps([str(each) for each in acme.findings().values()])
    with every_org():
        acme.account.refresh_from_db()
        kept = json.dumps(Checkup.objects.get(org=acme.org).findings)
    account, way = acme.account, acme.org.salesforce
    secret = [
        account.api_key,
        account.webhook_secret,
        account.previous_webhook_secret,
        account.handover_token,
        way.private_key,
    ]
    theirs = ["Rival", rival.org.salesforce_id, rival.sender.number, str(rival.account.uuid), rival.org.salesforce.username]
    assert all(secret)
    for each in [*secret, "PRIVATE KEY", *theirs]:
        assert each not in said + kept
