"""What the doctor does besides finding: it mends, it goes on where it cannot look, and it keeps to itself."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from tenants import connecting, doctor
from tenants.doctor import State
from tenants.models import Checkup, InfobipAccount
from tenants.onboarding import SetupProblem
from tenants.tenancy import every_org, org_scope
from tests.set_up.conftest import Company
from tests.set_up.test_faults import mute_reports, unsign

DEAD = "http://127.0.0.1:9"  # nobody listens


def fix(company: Company, name: str, about: str = "") -> None:
    with org_scope(company.org.pk):
        doctor.fix(company.org, name, about, who="Ada")


def notes(company: Company) -> list[str]:
    with every_org():
        return list(company.org.audit_entries.filter(what="let the doctor mend").values_list("detail", flat=True))


def test_a_good_org_raises_no_alarm(acme: Company) -> None:
    findings = acme.examine()
    assert [title for title, each in findings.items() if each.state is not State.GOOD] == []
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
    assert "does not let our integration user do it" in raised.value.problems[""]
    assert list(acme.troubles().values()) == [trouble]
    assert notes(acme) == []


def test_what_has_gone_meanwhile_is_not_mended(acme: Company) -> None:
    with pytest.raises(SetupProblem, match="no longer there"):
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
    findings = acme.examine()
    assert findings["WhatsApp is active"].state is State.BAD
    unknown = {each.title for each in findings.values() if each.state is State.UNKNOWN}
    assert unknown == {
        f"{title}: main"
        for title in (
            "API key of Infobip",
            "Life of Infobip's API key",
            "Subscription to WhatsApp events",
            "Forwarding of the senders",
            "State of the senders at WhatsApp",
        )
    }
    assert all(findings[title].found.startswith("not looked at: ") for title in unknown)


def test_an_account_that_does_not_answer_hides_no_other_account(acme: Company) -> None:
    with every_org():
        InfobipAccount.objects.create(org=acme.org, name="a dead one", base_url=DEAD, api_key="k", webhook_secret="s")
    findings = acme.examine()
    assert findings["Subscription of main"].state is State.GOOD
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
    findings = acme.examine()
    assert findings["Login to Salesforce"].state is State.BAD
    assert findings["Subscription of main"].state is State.BAD
    assert findings["Routing flow"].state is State.UNKNOWN
    assert findings["Routing flow"].found.startswith("not looked at: ")


def test_a_mistake_in_one_check_hides_no_other(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(facts: doctor.Facts) -> list[doctor.Finding]:
        raise KeyError("Id")

    monkeypatch.setitem(doctor.checks, "Routing flow", fail)
    (trouble,) = acme.troubles().values()
    assert (trouble.title, trouble.state) == ("Routing flow", State.UNKNOWN)


def test_once_a_day_is_enough_and_one_failure_costs_no_other(
    acme: Company, rival: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def examine(org: Any) -> list[doctor.Finding]:
        seen.append(org.pk)
        if org.pk == acme.org.pk:
            raise RuntimeError("whatever is wrong")
        return real(org)

    real = doctor.examine
    monkeypatch.setattr(doctor, "examine", examine)
    assert doctor.examine_due() == 2  # neither was ever examined
    assert sorted(seen) == sorted([acme.org.pk, rival.org.pk])
    seen.clear()
    assert doctor.examine_due() == 1
    assert seen == [acme.org.pk]
    with every_org():
        Checkup.objects.filter(org=rival.org).update(at=timezone.now() - timedelta(hours=25))
        Checkup.objects.create(org=acme.org, at=timezone.now() - timedelta(hours=23))
    seen.clear()
    doctor.examine_due()
    assert seen == [rival.org.pk]
    acme.keep(rival.org, disconnected_at=timezone.now())
    with every_org():
        Checkup.objects.all().delete()
    seen.clear()
    doctor.examine_due()
    assert seen == [acme.org.pk]


def test_the_command_says_what_is_wrong_and_ends_accordingly(acme: Company, rival: Company) -> None:
    out = StringIO()
    call_command("doctor", acme.document["org"]["orgId"][:15], stdout=out)
    assert "Acme (" in out.getvalue() and "Rival" not in out.getvalue() and "BAD" not in out.getvalue()
    acme.edit("MessagingChannel.IsActive", False)
    out = StringIO()
    with pytest.raises(CommandError, match="1 check"):
        call_command("doctor", stdout=out)
    assert "BAD      WhatsApp is active: not active" in out.getvalue()
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
        [each.found + each.expected + each.why + each.remedy + each.title for each in acme.examine().values()]
    )
    acme.at_infobip(enabled=True)
    said += json.dumps([str(each) for each in acme.examine().values()])
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
