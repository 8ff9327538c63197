"""Signing in from a frame: who may come in, and who may not, whatever they hold."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from tenants import connecting, sign_in
from tenants.models import AuditEntry, Draft, Membership, Org, PendingSignIn, Role, SalesforceConnection, WebSession
from tenants.sign_in import Begun, Finished, SignInRefused
from tenants.tenancy import every_org
from tests.conftest import World
from tests.set_up.pages import at_once
from tests.tenants.salesforce import OURS, Person, admin_of, begin, code_of, rep_of, salesforce, signed_in

pytestmark = pytest.mark.django_db


def wizard(world: World, client: Client, **headers: Any) -> Any:
    return client.get(f"/e/{world.org.handle}/", follow=True, **headers)


def test_an_administrator_comes_in_and_their_browser_is_known_again(acme: World) -> None:
    client, _ = signed_in(acme)
    page = wizard(acme, client)
    assert page.status_code == 200 and "Ada Admin" in page.content.decode()
    with every_org():
        member = Membership.objects.get()
        assert (member.name, member.role, member.org_id) == ("Ada Admin", Role.ADMIN, acme.org.pk)
        assert AuditEntry.objects.get().what == "signed in"


def test_the_cookie_lives_in_frames_of_this_site_only_and_is_read_by_nobody(acme: World) -> None:
    client, token = signed_in(acme)
    cookie = client.cookies[f"__Host-sid-{acme.org.handle}"]
    assert cookie.value == token
    for attribute in ("secure", "httponly", "partitioned"):
        assert cookie[attribute] is True
    assert (cookie["samesite"], cookie["path"], cookie["domain"]) == ("None", "/", "")
    assert "; Partitioned" in cookie.OutputString()


def test_only_a_hash_of_the_token_is_kept(acme: World) -> None:
    _, token = signed_in(acme)
    with every_org():
        assert token not in str(WebSession.objects.values().get())


def test_where_cookies_are_blocked_the_page_sends_the_token_itself(acme: World) -> None:
    _, token = signed_in(acme)
    assert wizard(acme, Client(), HTTP_AUTHORIZATION=f"Bearer {token}").status_code == 200
    assert wizard(acme, Client(), HTTP_AUTHORIZATION="Bearer wrong").status_code == 401


def test_without_a_session_there_is_only_the_button(acme: World) -> None:
    page = wizard(acme, Client())
    assert page.status_code == 401
    assert "Sign in with Salesforce" in page.content.decode()
    assert acme.account.base_url not in page.content.decode() and acme.sender.number not in page.content.decode()


def test_a_popup_that_was_not_started_here_is_refused(acme: World) -> None:
    """Who steals the address of a popup that is on its way has not its cookie."""
    sign_in = begin(acme)
    sign_in.start()
    stolen = sign_in.come_back(admin_of(acme), popup=Client())
    assert stolen.status_code == 403
    assert "does not belong to a sign-in that is under way" in stolen.content.decode()


def test_a_sign_in_is_started_once(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    assert Client().get(sign_in.begun["start"]).status_code == 403


def test_a_code_is_good_once(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    code = code_of(sign_in.come_back(admin_of(acme)))
    assert sign_in.finish(code).status_code == 200
    again = sign_in.finish(code)
    assert again.status_code == 403 and "over" in again.json()["error"]


def test_what_salesforce_sent_back_is_good_once(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    assert sign_in.come_back(admin_of(acme)).status_code == 200
    assert sign_in.come_back(admin_of(acme)).status_code == 403


def test_a_code_is_worth_nothing_without_the_secret_of_the_page_that_began(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    code = code_of(sign_in.come_back(admin_of(acme)))
    assert sign_in.finish(code, secret="another").status_code == 403
    assert sign_in.finish(code).status_code == 200


def test_who_lets_a_victim_confirm_does_not_come_in_without_the_victims_code(acme: World) -> None:
    """The attacker holds the frame's secret, the victim's popup holds the code; it may be guessed five times."""
    sign_in = begin(acme)
    sign_in.start()
    code = code_of(sign_in.come_back(admin_of(acme)))
    for _ in range(5):
        assert sign_in.finish("AAAAAA").status_code == 403
    assert sign_in.finish(code).status_code == 403
    with every_org():
        assert not WebSession.objects.exists()


def test_a_user_of_another_org_is_refused(acme: World, rival: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    page = sign_in.come_back(admin_of(rival))
    assert page.status_code == 403 and "another Salesforce org" in page.content.decode()
    assert rival.org.name not in page.content.decode()


def test_a_token_for_another_sign_in_is_refused(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    sign_in.nonce = "of another sign-in"
    assert sign_in.come_back(admin_of(acme)).status_code == 403


def test_somebody_who_is_not_active_is_refused(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    somebody = Person(acme.org.salesforce_id, active=False, customizes=True)
    assert "not active" in sign_in.come_back(somebody).content.decode()


def test_somebody_without_a_permission_set_is_told_which_one_they_need(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    page = sign_in.come_back(Person(acme.org.salesforce_id))
    assert page.status_code == 403 and "Infobip_Agent" in page.content.decode()


def test_a_rep_does_not_come_to_an_administrators_page(acme: World) -> None:
    client, _ = signed_in(acme, rep_of(acme))
    page = wizard(acme, client)
    assert page.status_code == 403 and "for administrators" in page.content.decode()


def test_the_permission_set_of_administrators_opens_the_set_up(acme: World) -> None:
    client, _ = signed_in(acme, Person(acme.org.salesforce_id, permission_sets=["Infobip_Admin"]))
    assert wizard(acme, client).status_code == 200


def test_a_session_of_one_org_opens_no_page_of_another(acme: World, rival: World) -> None:
    client, token = signed_in(acme)
    client.cookies[f"__Host-sid-{rival.org.handle}"] = token
    assert wizard(rival, client).status_code == 401
    assert wizard(rival, Client(), HTTP_AUTHORIZATION=f"Bearer {token}").status_code == 401


@pytest.mark.parametrize(
    ("column", "age"), [("seen_at", timedelta(minutes=61)), ("created_at", timedelta(hours=10, minutes=1))]
)
def test_a_session_ends_when_it_is_left_alone_and_when_the_day_is_over(acme: World, column: str, age: timedelta) -> None:
    client, _ = signed_in(acme)
    with every_org():
        WebSession.objects.update(**{column: timezone.now() - age})
    assert wizard(acme, client).status_code == 401


def test_a_sign_in_that_took_too_long_is_over(acme: World) -> None:
    sign_in = begin(acme)
    sign_in.start()
    code = code_of(sign_in.come_back(admin_of(acme)))
    with every_org():
        PendingSignIn.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    assert sign_in.finish(code).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_ORIGIN": "https://evil.example", "HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_ORIGIN": "http://testserver", "HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_ORIGIN": "null"},
        {},
    ],
    ids=["another site", "a neighbour", "a sandboxed frame", "no browser"],
)
def test_what_changes_something_must_come_from_our_own_page(acme: World, headers: dict[str, Any]) -> None:
    client, _ = signed_in(acme)
    step = f"/e/{acme.org.handle}/setup/connect"
    for path in (step, f"/e/{acme.org.handle}/sign-in", f"/e/{acme.org.handle}/sign-out", "/sf/finish"):
        assert client.post(path, {"action": "disconnect"}, **headers).status_code == 403, path
    with every_org():
        acme.org.refresh_from_db()
    assert acme.org.disconnected_at is None


def test_signing_out_ends_the_session_everywhere(acme: World) -> None:
    client, token = signed_in(acme)
    client.post(f"/e/{acme.org.handle}/sign-out", **OURS)
    assert wizard(acme, Client(), HTTP_AUTHORIZATION=f"Bearer {token}").status_code == 401


def test_only_the_orgs_own_hosts_may_frame_its_pages(acme: World) -> None:
    policy = wizard(acme, Client())["Content-Security-Policy"]
    ancestors = policy.split("frame-ancestors ")[1].split()
    assert "https://acme.lightning.force.com" in ancestors
    assert not any("rival" in host or host == "*" for host in ancestors)
    assert "X-Frame-Options" not in wizard(acme, Client())


@pytest.mark.parametrize("path", ["/readyz", "/sf/start", "/sf/callback", "/admin/login/", "/e/nobodys/", "/e/%00/"])
def test_nobody_may_frame_anything_else(db: None, path: str) -> None:
    assert "frame-ancestors 'none'" in Client().get(path)["Content-Security-Policy"]


def test_scripts_come_from_us_or_carry_the_nonce_of_this_answer(acme: World) -> None:
    one, other = wizard(acme, Client()), wizard(acme, Client())
    assert "unsafe-inline" not in one["Content-Security-Policy"]
    assert one["Content-Security-Policy"] != other["Content-Security-Policy"]


# two at once


NEW_ORG = "00D5g00000NewOrEAA"


def draft_of(private_key: str, key: str = "3MVG9New") -> Draft:
    """Begin a set-up whose test login has worked."""
    draft = connecting.begin_draft("https://new.my.salesforce.com", sign_in.digest(sign_in.new_token()))
    with every_org():
        Draft.objects.filter(pk=draft.pk).update(consumer_key=key, username="byoc@new.example", private_key=private_key)
        draft.refresh_from_db()
    return draft


def prove(begun: Begun, way: Any, person: Person) -> Callable[[], Finished | str]:
    """Sign in at Salesforce; gives the last step, by which the page that began comes in."""
    started = sign_in.start(begun.uuid)
    query = parse_qs(urlsplit(started.url).query)
    with salesforce(way.base_url, way.consumer_key, person, query["nonce"][0]):
        code = sign_in.complete(state=query["state"][0], code="aPrx", browser=started.browser)

    def finish() -> Finished | str:
        try:
            return sign_in.finish(begun.uuid, secret=begun.secret, code=code)
        except SignInRefused as exc:
            return str(exc)

    return finish


@pytest.mark.django_db(transaction=True)
def test_of_two_sign_ins_of_one_set_up_one_comes_in_and_the_other_is_told_that_it_is_done(
    private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = draft_of(private_key)
    people = [Person(NEW_ORG, customizes=True), Person(NEW_ORG, "0055g00000BobBo001", "Bob Boss", customizes=True)]
    steps = [prove(sign_in.begin(draft=draft), draft, each) for each in people]
    promote = connecting.promote_draft

    def promote_slowly(*given: Any, **named: Any) -> Org:
        time.sleep(0.3)  # so that both are in the middle of it
        return promote(*given, **named)

    monkeypatch.setattr(connecting, "promote_draft", promote_slowly)
    results = at_once(*steps)
    came, refused = sorted(results, key=lambda each: isinstance(each, str))
    assert isinstance(came, Finished) and "is connected now" in refused
    with every_org():
        assert Org.objects.get() == came.org and SalesforceConnection.objects.get().org == came.org
        assert Membership.objects.get() == came.member and WebSession.objects.count() == 1
        assert not Draft.objects.exists() and not PendingSignIn.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_code_that_is_handed_in_twice_at_once_is_good_once(private_key: str) -> None:
    draft = draft_of(private_key)
    step = prove(sign_in.begin(draft=draft), draft, Person(NEW_ORG, customizes=True))
    results = at_once(*[step] * 4)
    refused = [each for each in results if isinstance(each, str)]
    assert len(refused) == 3 and not any("wrong" in each for each in refused)
    with every_org():
        assert Org.objects.count() == WebSession.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_set_ups_that_prove_the_same_org_at_once_make_one(private_key: str) -> None:
    drafts = [draft_of(private_key, key) for key in ("3MVG9One", "3MVG9Two")]
    steps = [prove(sign_in.begin(draft=each), each, Person(NEW_ORG, customizes=True)) for each in drafts]
    came = at_once(*steps)
    assert all(isinstance(each, Finished) for each in came)
    with every_org():
        assert Org.objects.get().salesforce_id == NEW_ORG and Membership.objects.count() == 1
        assert SalesforceConnection.objects.get().consumer_key in ("3MVG9One", "3MVG9Two")
        assert WebSession.objects.count() == 2 and not Draft.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_who_signs_in_while_they_connect_their_org_again_does_both(
    private_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Person(NEW_ORG, customizes=True)
    first = draft_of(private_key)
    came = prove(sign_in.begin(draft=first), first, person)()
    assert isinstance(came, Finished)
    again = draft_of(private_key, "3MVG9Again")
    steps = [prove(sign_in.begin(org=came.org), first, person), prove(sign_in.begin(draft=again), again, person)]
    make = sign_in.new_token

    def make_slowly() -> str:
        time.sleep(0.5)  # with the membership held, before the session is written
        return make()

    def connect() -> Finished | str:
        time.sleep(0.2)
        return steps[1]()

    monkeypatch.setattr(sign_in, "new_token", make_slowly)
    assert all(isinstance(each, Finished) for each in at_once(steps[0], connect))
    with every_org():
        assert SalesforceConnection.objects.get().consumer_key == "3MVG9Again" and WebSession.objects.count() == 3
