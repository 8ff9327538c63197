"""The pages of set-up as an administrator's browser sees them: signed in, and read as HTML."""

import threading
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

from django.db import connections
from django.test import Client
from django.utils import timezone

from tenants import sign_in
from tenants.models import Membership, Org, Role, WebSession
from tenants.tenancy import every_org
from tests.tenants.salesforce import OURS

STEPS = ("connect", "byoc", "channel", "texts", "accounts", "senders", "summary")


def signed_in(org: Org, role: Role = Role.ADMIN, name: str = "Ada Admin") -> Client:
    """Give the browser of somebody who signed in."""
    token = sign_in.new_token()
    with every_org():
        member = Membership.objects.create(
            org=org, user_id=uuid4().hex[:18], username="x@y.example", name=name, role=role, signed_in_at=timezone.now()
        )
        WebSession.objects.create(org=org, member=member, token_hash=sign_in.digest(token))
    return Client(headers={"Authorization": f"Bearer {token}"})


def look(client: Client, org: Org, step: str, query: str = "") -> str:
    """Read a step's page."""
    answer = client.get(f"/e/{org.handle}/setup/{step}{query}")
    assert answer.status_code == 200, answer.content.decode()
    return answer.content.decode()


def press(client: Client, org: Org, step: str, **fields: Any) -> Any:
    """Send a step's form as a browser without scripts does."""
    return client.post(f"/e/{org.handle}/setup/{step}", fields, **OURS)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Do several things at the same time, each with a connection of its own; gives what each one gave."""
    given: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(number: int) -> None:
        try:
            start.wait(10)
            given[number] = works[number]()
        except Exception as exc:
            given[number] = exc
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for each in given:
        if isinstance(each, Exception):
            raise each
    return given


class _Fields(HTMLParser):
    """Finds the fields that are marked as wrong, and what is said in an alert at them."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts: dict[str, str] = {}
        self.ids: list[str] = []
        self.described: list[str] = []
        self._field = ""  # the one that we are in, once its name is known
        self._alert = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.append(given["id"])
        self.described += given.get("aria-describedby", "").split()
        if tag == "div" and given.get("class", "").startswith("field"):
            self._field = ""
        if tag in ("input", "textarea", "select") and given.get("type") != "hidden":
            self._field = given.get("name", "")
        if tag == "div" and "page" in given.get("class", ""):
            return  # the place for what scripts say
        if given.get("role") == "alert":
            self._alert = True
            if "notice" in given.get("class", ""):
                self._field = ""

    def handle_data(self, data: str) -> None:
        if self._alert and data.strip():
            self.alerts[self._field] = f"{self.alerts.get(self._field, '')} {data.strip()}".strip()

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._alert = False


def read(page: str) -> _Fields:
    """Read what a page says is wrong, by field (none: above the form), and its ids."""
    found = _Fields()
    found.feed(page)
    return found


def alerts(page: str) -> dict[str, str]:
    """Give what a page says is wrong."""
    return read(page).alerts
