"""An installation to which something happens on its way: it says what to do, gives its token back, and can be repeated."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from sandbox import rest
from sandbox.definitions import SetupRefused
from tenants import installation
from tenants.models import Installation, Org, SalesforceConnection
from tests.set_up.test_installation import Fresh, names
from tests.set_up.test_installation import fresh as fresh

NOWHERE = "http://127.0.0.1:9"


def advance_until(fresh: Fresh, run: Installation, key: str) -> Installation:
    """Go on until a step is the next one."""
    for _ in range(400):
        if next(each["key"] for each in run.steps if each["state"] != "done") == key:
            return run
        run = installation.advance(run)
    raise AssertionError(f"never came to {key}: {run.steps}")


def finish(run: Installation) -> Installation:
    for _ in range(400):
        run = installation.advance(run)
        if run.state != Installation.State.RUNNING:
            return run
    raise AssertionError(f"the run does not end: {run.steps}")


def lives(fresh: Fresh, token: str) -> bool:
    return token in fresh.far_side.sandbox.world.by_token


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Switch an outage of Salesforce's REST API on and off."""
    well = rest.Rest.count

    def refuse(caller: Any) -> dict[str, str]:
        raise SetupRefused("SERVER_UNAVAILABLE", "The server is temporarily unavailable", status=503)

    return lambda on: monkeypatch.setattr(rest.Rest, "count", staticmethod(refuse if on else well))


@pytest.mark.parametrize("key", ["check", "event-and-permissions", "access", "user", "channel", "flow", "admin"])
def test_an_outage_in_the_middle_is_waited_for(fresh: Fresh, outage: Callable[[bool], None], key: str) -> None:
    token = fresh.token()
    run = advance_until(fresh, fresh.begin(token=token), key)
    outage(True)
    for _ in range(3):
        run = installation.advance(run)
        assert run.state == Installation.State.RUNNING
        assert any("trying again" in each["now"] for each in run.steps)
    outage(False)
    run = finish(run)
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    assert len([each for each in fresh.holds()["EntityDefinition"] if each["QualifiedApiName"] == "Infobip_Event__e"]) == 1
    assert not lives(fresh, token)


def test_an_event_that_somebody_removes_on_the_way_is_named_and_installed_the_next_time(fresh: Fresh) -> None:
    run = advance_until(fresh, fresh.begin(), "access")
    fresh.edit("EntityDefinition[QualifiedApiName=Infobip_Event__e]", None)
    run = finish(run)
    assert run.state == Installation.State.FAILED
    assert "Infobip_Event__e" in fresh.problems(run) or "platform event" in fresh.problems(run)
    again = fresh.install()
    assert again.state == Installation.State.SUCCEEDED, fresh.problems(again)


def test_a_session_that_an_administrator_ended_is_said_so(fresh: Fresh) -> None:
    token = fresh.token()
    run = advance_until(fresh, fresh.begin(token=token), "access")
    del fresh.far_side.sandbox.world.by_token[token]
    run = finish(run)
    assert run.state == Installation.State.FAILED and "Sign in again" in fresh.problems(run)


@pytest.mark.parametrize("right", ["ManageUsers", "ModifyMetadata", "CustomizeApplication"])
def test_a_right_that_is_missing_ends_the_run_at_once_with_what_it_takes(fresh: Fresh, right: str) -> None:
    fresh.edit(f"Profile[Name=System Administrator].Permissions{right}", False)
    token = fresh.token()
    run = fresh.install(token=token)
    assert run.state == Installation.State.FAILED and "system administrator" in fresh.problems(run)
    assert not lives(fresh, token)
    fresh.edit(f"Profile[Name=System Administrator].Permissions{right}", True)
    again = fresh.install()
    assert again.state == Installation.State.SUCCEEDED, fresh.problems(again)


def test_who_begins_again_on_the_way_leaves_no_token_behind(fresh: Fresh) -> None:
    first, second = fresh.token(), fresh.token()
    run = advance_until(fresh, fresh.begin(token=first), "access")
    again = fresh.begin(token=second)
    assert again.pk == run.pk and not lives(fresh, first) and lives(fresh, second)
    run = finish(run)
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    assert not lives(fresh, second)


def test_a_token_that_comes_while_a_page_is_at_work_is_not_lost(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that is at work read the old token; what it writes down in the end must not bring that back."""
    run = advance_until(fresh, fresh.begin(), "access")
    second = fresh.token()
    with monkeypatch.context() as patch:
        patch.setattr(installation, "_go_on", lambda run, step: Installation.objects.filter(pk=run.pk).update(token=second))
        installation.advance(run)
    assert Installation.objects.get(pk=run.pk).token == second


def test_a_run_that_was_left_for_too_long_is_not_gone_on_with(fresh: Fresh) -> None:
    """What it did may be undone since: the next one looks at everything again."""
    run = advance_until(fresh, fresh.begin(), "flow")
    Installation.objects.filter(pk=run.pk).update(created_at=timezone.now() - timedelta(minutes=16))
    fresh.edit("EntityDefinition[QualifiedApiName=Infobip_Event__e]", None)
    fresh.edit("ConversationChannelDefinition", None)
    again = fresh.install()
    assert again.pk != run.pk and again.state == Installation.State.SUCCEEDED, fresh.problems(again)
    assert "Infobip_Event__e" in names(fresh.holds()["EntityDefinition"], "QualifiedApiName")
    assert Installation.objects.get(pk=run.pk).state == Installation.State.FAILED


def test_taking_it_back_stops_an_installation_that_is_under_way(fresh: Fresh) -> None:
    token = fresh.token()
    run = advance_until(fresh, fresh.begin(token=token), "console-and-routing")
    undone = fresh.install(undo=True)
    assert undone.state == Installation.State.SUCCEEDED, fresh.problems(undone)
    assert installation.advance(run).state == Installation.State.FAILED
    assert not lives(fresh, token)
    again = fresh.install()
    assert again.state == Installation.State.SUCCEEDED, fresh.problems(again)


def test_taking_back_what_was_installed_twice_leaves_no_version_of_the_flow(fresh: Fresh) -> None:
    fresh.install()
    fresh.install()
    run = fresh.install(undo=True)
    assert run.state == Installation.State.SUCCEEDED, fresh.problems(run)
    assert not fresh.holds()["FlowDefinitionView"]


def test_a_token_that_cannot_be_given_back_holds_up_nobody_elses_and_is_tried_again(fresh: Fresh) -> None:
    lost, other = fresh.token(), fresh.token()
    stuck = Org.objects.create(name="Stuck", salesforce_id="00D5g0000777777EAA")
    way = SalesforceConnection.objects.create(
        org=stuck, base_url=NOWHERE, scrt_url=NOWHERE, consumer_key="k", username="u", private_key="p"
    )
    runs = [
        installation.begin(org, who="Ada", token=token, undo=False) for org, token in ((stuck, lost), (fresh.org, other))
    ]
    Installation.objects.update(created_at=timezone.now() - timedelta(minutes=16))
    assert installation.revoke_leftover_tokens() == 1
    assert not lives(fresh, other) and lives(fresh, lost)
    assert Installation.objects.get(pk=runs[0].pk).token == lost
    SalesforceConnection.objects.filter(pk=way.pk).update(base_url=fresh.org.salesforce.base_url)
    assert installation.revoke_leftover_tokens() == 1
    assert not lives(fresh, lost) and not Installation.objects.exclude(token="").exists()


def test_a_token_that_no_key_fits_holds_up_nobody_elses_and_is_forgotten(fresh: Fresh) -> None:
    unreadable, other = fresh.token(), fresh.token()
    stuck = Org.objects.create(name="Stuck", salesforce_id="00D5g0000777777EAA")
    runs = [
        installation.begin(org, who="Ada", token=token, undo=False)
        for org, token in ((stuck, unreadable), (fresh.org, other))
    ]
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_installation SET token = 'not ours' WHERE id = %s", [runs[0].pk])
    Installation.objects.update(created_at=timezone.now() - timedelta(minutes=16))
    assert installation.revoke_leftover_tokens() == 2
    assert not lives(fresh, other)
    assert not Installation.objects.exclude(token="").exists()


def test_a_token_whose_row_raises_holds_up_nobody_elses_and_is_forgotten_after_a_day(fresh: Fresh) -> None:
    stuck, token = Org.objects.create(name="Stuck", salesforce_id="00D5g0000777777EAA"), fresh.token()
    runs = [installation.begin(org, who="Ada", token=each, undo=False) for org, each in ((stuck, "x"), (fresh.org, token))]
    with connection.cursor() as cursor:  # PostgreSQL keeps years that Python has not
        cursor.execute("UPDATE tenants_installation SET leased_until = '12026-01-01' WHERE id = %s", [runs[0].pk])
    Installation.objects.update(created_at=timezone.now() - timedelta(minutes=16))
    assert installation.revoke_leftover_tokens() == 1
    assert not lives(fresh, token)
    Installation.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert installation.revoke_leftover_tokens() == 1
    assert not Installation.objects.exclude(token="").exists()


def test_a_token_that_can_never_be_given_back_is_forgotten_after_a_day(fresh: Fresh) -> None:
    run = fresh.begin()
    SalesforceConnection.objects.filter(org=fresh.org).update(base_url=NOWHERE)
    Installation.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert installation.revoke_leftover_tokens() == 1
    assert Installation.objects.get(pk=run.pk).token == ""


def test_a_run_that_ends_while_salesforce_cannot_be_reached_is_kept_as_ended(fresh: Fresh) -> None:
    run = fresh.begin()
    Installation.objects.filter(pk=run.pk).update(created_at=timezone.now() - timedelta(minutes=16))
    SalesforceConnection.objects.filter(org=fresh.org).update(base_url=NOWHERE)
    run = installation.advance(Installation.objects.get(pk=run.pk))
    assert run.state == Installation.State.FAILED and run.leased_until is None
    assert Installation.objects.get(pk=run.pk).token  # for the next try of giving it back
