"""What a check is, and the register of all of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import structlog

from connector.events import UnexpectedPayload
from connector.http import ApiError, AuthenticationFailed
from tenants.database import facts_of
from tenants.doctor.snapshot import OrgSnapshot
from tenants.encryption import CannotDecrypt
from tenants.models import InfobipAccount

log = structlog.get_logger(__name__)


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # works, but not for long or not all of it
    FAILED = "failed"
    NOTE = "note"  # happened, and is over or ends by itself: nothing to do
    UNKNOWN = "unknown"  # could not be checked


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; ``fix`` names what a button can do about it, ``about`` the row that it is done to."""

    title: str
    state: State
    found: str
    expected: str = ""
    why: str = ""
    remedy: str = ""
    link: str = ""
    fix: str = ""
    about: str = ""


Look = Callable[[OrgSnapshot], Iterable[Finding]]
checks: dict[str, Look] = {}


def register(title: str) -> Callable[[Look], Look]:
    """Add a check; its title stands where it cannot look."""

    def add(look: Look) -> Look:
        checks[title] = look
        return look

    return add


def state(ok: bool, otherwise: State = State.FAILED) -> State:
    """Turn a yes into OK."""
    return State.OK if ok else otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a check saw of one thing. What is left out is as the check says; what to do is said only where not all is ok."""

    ok: bool
    found: str
    of: str = ""  # the channel, account or sender, for the title
    title: str = ""
    otherwise: State | None = None
    expected: str = ""
    why: str = ""
    remedy: str = ""
    page: str = ""
    fix: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class _Check:
    title: str  # ``{of}`` stands for what was looked at
    expected: str
    why: str
    remedy: str
    page: str
    otherwise: State

    def finding(self, org: OrgSnapshot, seen: Seen) -> Finding:
        title, expected = (seen.title or self.title).format(of=seen.of), seen.expected or self.expected
        found = state(seen.ok, seen.otherwise or self.otherwise)
        if seen.ok:
            return Finding(title, found, seen.found, expected, seen.why or self.why)
        page = seen.page or self.page
        return Finding(
            title,
            found,
            seen.found,
            expected,
            seen.why or self.why,
            seen.remedy or self.remedy,
            org.setup_page(page) if page else "",
            seen.fix,
            seen.about,
        )


OrgLook = Callable[[OrgSnapshot], Iterable[Seen]]
AccountLook = Callable[[OrgSnapshot, InfobipAccount], Iterable[Seen]]


def check(
    name: str,
    *,
    title: str = "",
    expected: str = "",
    why: str = "",
    remedy: str = "",
    page: str = "",
    otherwise: State = State.FAILED,
) -> Callable[[OrgLook], OrgLook]:
    """Add a check of the org, or of several things in it.

    :param name: stands where it cannot look
    :param title: of each finding, with ``{of}`` for what was looked at; the name, where there is one thing only
    :param expected: what must be; ``why``: what happens otherwise; ``remedy``: what to do then
    :param page: of Setup, where it is done
    :param otherwise: how bad it is
    """
    declared = _Check(title or name, expected, why, remedy, page, otherwise)

    def add(look: OrgLook) -> OrgLook:
        @register(name)
        def look_at_org(org: OrgSnapshot) -> Iterator[Finding]:
            for seen in look(org):
                yield declared.finding(org, seen)

        return look

    return add


def account_check(
    name: str,
    *,
    title: str,
    expected: str = "",
    why: str = "",
    remedy: str = "",
    otherwise: State = State.FAILED,
) -> Callable[[AccountLook], AccountLook]:
    """Add a check that looks at each Infobip account by itself: one that does not answer hides no other."""
    declared = _Check(title, expected, why, remedy, "", otherwise)

    def add(look: AccountLook) -> AccountLook:
        def look_at(account: InfobipAccount) -> Look:
            return lambda org: [declared.finding(org, seen) for seen in look(org, account)]

        @register(name)
        def look_at_all(org: OrgSnapshot) -> Iterator[Finding]:
            for account in org.accounts:
                yield from guarded(f"{name}: {account.name}", look_at(account), org)

        return look

    return add


def guarded(title: str, look: Look, org: OrgSnapshot) -> Iterator[Finding]:
    """Make a check; where it cannot look, that is its finding."""
    try:
        yield from look(org)
    except CannotDecrypt:
        yield Finding(title, State.UNKNOWN, "not checked: a credential that it needs cannot be read")
    except ApiError as exc:
        why = "It cannot be checked until the credentials are accepted." if isinstance(exc, AuthenticationFailed) else ""
        yield Finding(title, State.UNKNOWN, f"not checked: {exc.message}", why=why)
    except UnexpectedPayload as exc:
        yield Finding(title, State.UNKNOWN, f"not checked: the answer cannot be read ({exc})")
    except Exception as exc:  # a mistake of ours in one check must not hide what the others find
        log.error("check failed", org=org.org.pk, check=title, **facts_of(exc))
        yield Finding(title, State.UNKNOWN, "not checked: the check itself failed; the operator's log says why")
