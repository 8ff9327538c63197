"""Installing in an empty org, step by step, against the sandbox: all of it, once, with a token that is revoked."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from devstack.documents import empty_document
from messaging import retention
from tenants import connecting, installation
from tenants.models import Installation, Org, PendingSignIn, SalesforceConnection
from tenants.tenancy import every_org
from tests.set_up.conftest import FarSide

numbers = itertools.count(500)


@dataclass
class Fresh:
    """An org in which nothing of ours is, and the rows of a connection to it."""

    far_side: FarSide
    org: Org

    def edit(self, path: str, value: object) -> None:
        self.far_side.control("PATCH", f"/orgs/{self.org.salesforce_id}/setup", {"path": path, "value": value})

    def holds(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, Any] = self.far_side.control("GET", f"/orgs/{self.org.salesforce_id}/setup")["records"]
        return found

    def token(self, username: str = "ada@fresh.example") -> str:
        body = {"username": username, "scopes": ["api", "openid", "id"]}
        return str(self.far_side.control("POST", f"/orgs/{self.org.salesforce_id}/tokens", body)["accessToken"])

    def begin(self, *, undo: bool = False, token: str = "") -> Installation:
        return installation.begin(self.org, who="Ada Admin", token=token or self.token(), undo=undo)

    def install(self, *, undo: bool = False, token: str = "") -> Installation:
        """Go through a run as the page does that polls it."""
        run = self.begin(undo=undo, token=token)
        for _ in range(400):
            run = installation.advance(run)
            if run.state != Installation.State.RUNNING:
                return run
        raise AssertionError(f"the run does not end: {run.steps}")

    def problems(self, run: Installation) -> str:
        return " | ".join(f"{each['what']}: {each['why']}" for step in run.steps for each in step["problems"])

    def is_dead(self, token: str) -> bool:
        """Tell whether a token opens nothing any more."""
        way = self.org.salesforce
        run = Installation(org=self.org, token=token)
        with pytest.raises(Exception, match="INVALID_SESSION_ID"):
            installation._admin_client(run).query("SELECT Id FROM Organization")
        return bool(way)


@pytest.fixture
def fresh(far_side: FarSide, db: None, settings: Settings, private_key: str) -> Any:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    document = empty_document(far_side.ports["salesforce"], far_side.ports["infobip"])
    document["org"] |= {"name": "Fresh", "orgId": f"00D5g0000{next(numbers):06d}EAA"}
    document["infobipAccounts"][0]["apiKey"] = str(uuid4())
    far_side.control("POST", "/orgs", {"document": document, "empty": True})
    with every_org():
        org = Org.objects.create(name="Fresh", salesforce_id=document["org"]["orgId"])
        SalesforceConnection.objects.create(
            org=org,
            base_url=document["org"]["baseUrl"],
            scrt_url=document["org"]["scrtUrl"],
            consumer_key="3MVG9fresh",
            username="byoc@fresh.example",
            private_key=private_key,
            certificate=connecting.certificate_for(private_key),
        )
        fresh = Fresh(far_side, org)
        fresh.edit("switches.deploy_seconds", 0.05)
        fresh.edit("ExternalClientApp", {"Name": "Infobip_BYOC", "Label": "Infobip BYOC"})  # who signs in came through it
        yield fresh


def names(rows: list[dict[str, Any]], field: str = "DeveloperName") -> set[str]:
    return {row[field] for row in rows}


def test_everything_is_there_afterwards(fresh: Fresh) -> None:
    run = fresh.install()
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    holds = fresh.holds()
    assert names(holds["ConversationVendorInfo"]) == {"Infobip"}
    assert names(holds["ConversationChannelDefinition"]) == {"Infobip_WhatsApp"}
    assert "Infobip_Event__e" in names(holds["EntityDefinition"], "QualifiedApiName")
    assert "Infobip_Messaging" in names([row for row in holds["Group"] if row["Type"] == "Queue"])
    (flow,) = holds["FlowDefinitionView"]
    assert flow["ActiveVersionId"]
    scrt = next(row for row in holds["PermissionSet"] if row["Name"] == "sfdc_scrt2")
    access = next(row for row in holds["ObjectPermissions"] if row["ParentId"] == scrt["Id"])
    assert access["PermissionsRead"] and access["PermissionsCreate"]
    user = next(row for row in holds["User"] if row["Username"] == "byoc@fresh.example")
    ada = next(row for row in holds["User"] if row["Username"] == "ada@fresh.example")
    sets = {row["Id"]: row["Name"] for row in holds["PermissionSet"]}
    has = {(row["AssigneeId"], sets[row["PermissionSetId"]]) for row in holds["PermissionSetAssignment"]}
    assert {(user["Id"], "Infobip_Connector"), (ada["Id"], "Infobip_Admin"), (ada["Id"], "Infobip_Configuration")} <= has
    assert user["UserPermissionsSupportUser"]
    assert len([row for row in holds["PermissionSetLicenseAssign"] if row["AssigneeId"] == user["Id"]]) == 4


def test_a_second_installation_doubles_nothing(fresh: Fresh) -> None:
    fresh.install()
    before = {kind: len(rows) for kind, rows in fresh.holds().items()}
    run = fresh.install()
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    assert {kind: len(rows) for kind, rows in fresh.holds().items()} == before


def test_what_would_fail_is_known_before_anything_is_changed(fresh: Fresh) -> None:
    fresh.edit("switches.omni_channel", False)
    fresh.edit("ServiceChannel", None)
    run = fresh.install()
    assert run.state == Installation.State.FAILED
    assert run.steps[0]["key"] == "check" and run.steps[0]["state"] == "failed"
    assert "Omni-Channel" in fresh.problems(run) or "Messaging" in fresh.problems(run)
    assert not [row for row in fresh.holds()["EntityDefinition"] if row["QualifiedApiName"] == "Infobip_Event__e"]


@pytest.mark.parametrize(
    ("spoil", "mend", "told"),
    [
        (
            lambda org: org.edit("switches.digital_engagement", False),
            lambda org: org.edit("switches.digital_engagement", True),
            "Digital Engagement",
        ),
        (
            lambda org: org.edit("User[Username=byoc@fresh.example].Username", "somebody@fresh.example"),
            lambda org: org.edit("User[Username=somebody@fresh.example].Username", "byoc@fresh.example"),
            "integration user was not found",
        ),
    ],
    ids=["no licence for the channel definition", "no integration user"],
)
def test_a_failure_says_what_to_do_and_going_on_finishes(
    fresh: Fresh, spoil: Callable[[Fresh], None], mend: Callable[[Fresh], None], told: str
) -> None:
    spoil(fresh)
    run = fresh.install()
    assert run.state == Installation.State.FAILED
    assert told in fresh.problems(run)
    mend(fresh)
    again = fresh.install()
    assert again.state == Installation.State.SUCCEEDED, fresh.problems(again)


def test_an_org_that_takes_no_vendor_beside_its_own_app_gets_the_other_form(fresh: Fresh) -> None:
    fresh.edit("switches.vendor_with_customer_refused", True)
    run = fresh.install()
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    (definition,) = fresh.holds()["ConversationChannelDefinition"]
    assert not definition["ConversationVendorInfoId"]


def test_somebody_without_the_right_is_told_so(fresh: Fresh) -> None:
    run = fresh.install(token=fresh.token("marko.babic@fresh.example"))
    assert run.state == Installation.State.FAILED
    assert "system administrator" in fresh.problems(run)


def test_the_token_is_given_back_when_the_run_ends(fresh: Fresh) -> None:
    for spoiled in (True, False):
        fresh.edit("switches.digital_engagement", not spoiled)
        token = fresh.token()
        run = fresh.install(token=token)
        assert run.state == (Installation.State.FAILED if spoiled else Installation.State.SUCCEEDED)
        assert fresh.is_dead(token)
        assert Installation.objects.get(pk=run.pk).token == ""


def test_the_token_is_never_kept_in_clear(fresh: Fresh) -> None:
    run = fresh.begin()
    with connection.cursor() as cursor:
        cursor.execute("SELECT token FROM tenants_installation WHERE id = %s", [run.pk])
        stored = cursor.fetchone()[0]
    assert stored and run.token not in stored


def test_a_token_that_was_left_is_given_back_after_fifteen_minutes(fresh: Fresh) -> None:
    token = fresh.token()
    run = installation.advance(fresh.begin(token=token))
    assert installation.revoke_leftover_tokens() == 0
    Installation.objects.filter(pk=run.pk).update(created_at=timezone.now() - timedelta(minutes=16))
    assert installation.revoke_leftover_tokens() == 1
    assert fresh.is_dead(token)
    run = installation.advance(run)
    assert run.state == Installation.State.FAILED and "fifteen minutes" in fresh.problems(run)


def test_the_token_of_a_sign_in_that_nobody_ended_is_given_back_too(fresh: Fresh) -> None:
    token = fresh.token()
    PendingSignIn.objects.create(org=fresh.org, for_install=True, frame_hash="x", token=token)
    PendingSignIn.objects.update(created_at=timezone.now() - timedelta(minutes=16))
    retention.purge()  # which leaves alone what holds a token
    assert PendingSignIn.objects.count() == 1
    installation.revoke_leftover_tokens()
    assert fresh.is_dead(token)
    retention.purge()
    assert PendingSignIn.objects.count() == 0


def test_who_comes_back_in_time_goes_on_where_salesforce_is(fresh: Fresh) -> None:
    run = fresh.begin()
    for _ in range(3):
        run = installation.advance(run)
    again = fresh.begin()
    assert again.pk == run.pk


def test_two_pages_that_watch_do_one_thing_at_a_time(fresh: Fresh) -> None:
    run = fresh.begin()
    Installation.objects.filter(pk=run.pk).update(lease_id=uuid4(), leased_until=timezone.now() + timedelta(seconds=20))
    assert installation.advance(run).deployment == ""  # the other one is at it
    Installation.objects.filter(pk=run.pk).update(leased_until=timezone.now() - timedelta(seconds=1))
    assert installation.advance(run).deployment != ""  # it died


def test_taking_it_back_leaves_nothing_of_ours(fresh: Fresh) -> None:
    fresh.install()
    run = fresh.install(undo=True)
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    holds = fresh.holds()
    assert not holds["ConversationChannelDefinition"] and not holds["ConversationVendorInfo"]
    assert not holds["FlowDefinitionView"]
    assert not [row for row in holds["PermissionSet"] if row["Name"].startswith("Infobip_")]
    assert not [row for row in holds["EntityDefinition"] if row["QualifiedApiName"] == "Infobip_Event__e"]
    assert not installation.succeeded(fresh.org)


def test_what_is_in_use_cannot_be_taken_back_and_is_named(fresh: Fresh) -> None:
    fresh.install()
    (definition,) = fresh.holds()["ConversationChannelDefinition"]
    channel = {
        "DeveloperName": "Infobip_WhatsApp",
        "MasterLabel": "Infobip WhatsApp",
        "ChannelAddressIdentifier": str(uuid4()),
        "MessagingPlatformKey": str(uuid4()),
        "ChannelDefinitionId": definition["Id"],
    }
    fresh.edit("MessagingChannel", channel)
    run = fresh.install(undo=True)
    assert run.state == Installation.State.FAILED
    assert "Infobip_WhatsApp" in fresh.problems(run)
