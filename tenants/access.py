"""Who may open a page, by what their browser shows.

A page lives in a frame inside Salesforce. Its address names an org and proves nothing; the session does, which a cookie or,
where frames have no cookies, the page itself brings along.
"""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from http.cookies import Morsel
from typing import Concatenate, ParamSpec
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django_htmx.http import HttpResponseClientRedirect

from tenants import known
from tenants.frames import allow_frames, in_foreign_document
from tenants.models import Membership, Org, Role, WebSession
from tenants.sign_in import digest
from tenants.tenancy import every_org, org_scope

# Python 3.11 does not know the attribute yet, and Django 5.2 sets it nowhere:
# https://developer.mozilla.org/en-US/docs/Web/Privacy/Guides/Privacy_sandbox/Partitioned_cookies
Morsel._reserved.setdefault("partitioned", "Partitioned")  # type: ignore[attr-defined]
Morsel._flags.add("partitioned")  # type: ignore[attr-defined]

SEEN_STEP = timedelta(minutes=1)  # how exactly the last use of a session is known


class PageRequest(HttpRequest):
    """A request of somebody who is signed in; the org is that of the address, and theirs."""

    org: Org
    member: Membership
    csp_nonce: str
    frame_hosts: list[str]


def cookie_name(handle: str) -> str:
    """Name the session cookie of an org: all orgs' frames share one cookie jar, that of force.com."""
    return f"__Host-sid-{handle}"


def set_cookie(response: HttpResponse, name: str, value: str) -> None:
    """Set a cookie that lives inside other sites' frames, in a jar of each such site."""
    response.set_cookie(name, value, secure=True, httponly=True, samesite="None", path="/")
    response.cookies[name]["partitioned"] = True


def delete_cookie(response: HttpResponse, name: str) -> None:
    """Take a cookie back; its jar is named by the same attributes."""
    set_cookie(response, name, "")
    response.cookies[name]["max-age"] = 0


def token_of(request: HttpRequest, cookie: str) -> str:
    """Read the token that a page sent: by header, where it keeps it itself, else by cookie."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else request.COOKIES.get(cookie, "")


def find_session(request: HttpRequest, org: Org) -> WebSession | None:
    """Find the session by which a request comes to an org's page, if there is one that counts."""
    token = token_of(request, cookie_name(org.handle))
    if not token:
        return None
    session = org.web_sessions.select_related("member").filter(token_hash=digest(token)).first()
    if session is None or session.over:
        return None
    known.note(token)
    if timezone.now() - session.seen_at > SEEN_STEP:
        org.web_sessions.filter(pk=session.pk).update(seen_at=timezone.now())
    return session


def comes_from_our_page(request: HttpRequest) -> bool:
    """Tell whether a request that changes something was made by a page of ours.

    Browsers say so themselves: https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Sec-Fetch-Site. A page
    in a sandboxed frame sends ``Origin: null``, and is refused.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return True
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin", "")
    parts = urlsplit(origin)
    return site in (None, "same-origin") and parts.netloc == request.get_host() and bool(parts.netloc)


Parameters = ParamSpec("Parameters")
View = Callable[Concatenate[PageRequest, Parameters], HttpResponse]


def signed_in(role: Role) -> Callable[[View[Parameters]], Callable[..., HttpResponse]]:
    """Show a page of an org to who is signed in with that role (administrators may all that reps may); else a way in."""

    def decorate(view: View[Parameters]) -> Callable[..., HttpResponse]:
        @csrf_exempt  # checked below, without a second cookie
        @wraps(view)
        def guarded(request: PageRequest, handle: str, *args: Parameters.args, **kwargs: Parameters.kwargs) -> HttpResponse:
            if not comes_from_our_page(request):
                return render(
                    request, "tenants/refused.html", {"problem": "The request came from another page."}, status=403
                )
            with every_org():
                org = Org.objects.select_related("salesforce").filter(handle=handle).first()
            if org is None:
                return render(request, "tenants/refused.html", {"problem": "This address is not known."}, status=404)
            if in_foreign_document(request, org.handle):
                return HttpResponseClientRedirect(request.get_full_path())
            allow_frames(request, org.salesforce.base_url if hasattr(org, "salesforce") else "")
            with org_scope(org.pk):
                session = find_session(request, org)
                if session is None:
                    context = {"org": org, "for_admins": role is Role.ADMIN}
                    return render(request, "tenants/sign_in.html", context, status=401)
                if role is Role.ADMIN and session.member.role != Role.ADMIN:
                    return render(
                        request, "tenants/refused.html", {"problem": "This page is for administrators."}, status=403
                    )
                request.org, request.member = org, session.member
                return view(request, *args, **kwargs)

        return guarded

    return decorate
