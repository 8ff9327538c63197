"""What every request passes through."""

import secrets
from collections.abc import Callable

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.text import capfirst

from connector.http import time_limit
from tenants import budget, known, repeats
from tenants.access import cookie_name
from tenants.encryption import CannotDecrypt
from tenants.frames import allow_frames
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

NOBODY = "'none'"
RETRY_SECONDS = 3
# what is bounded elsewhere, or quick
NO_PAGES = ("/api/infobip/", "/api/v1/", "/media/", "/healthz", "/readyz", "/metrics")
GetResponse = Callable[[HttpRequest], HttpResponse]


def operators_see_every_org(get_response: GetResponse) -> GetResponse:
    """Widen the scope for signed-in staff inside the admin, and for nobody else."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith("/admin/") and request.user.is_active and request.user.is_staff:
            known.note(request.COOKIES.get(settings.SESSION_COOKIE_NAME, ""))
            with every_org():
                return get_response(request)
        return get_response(request)

    return middleware


def content_policy(get_response: GetResponse) -> GetResponse:
    """Say what a page may load and who may frame it: nobody, unless the view named hosts in ``request.frame_hosts``.

    https://developer.mozilla.org/en-US/docs/Web/HTTP/Guides/CSP
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        nonce = secrets.token_urlsafe(16)
        request.csp_nonce, request.frame_hosts = nonce, []  # type: ignore[attr-defined]
        response = get_response(request)
        framing: list[str] = request.frame_hosts  # type: ignore[attr-defined]
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Content-Security-Policy"] = "; ".join(
            [
                "default-src 'self'",
                f"script-src 'self' 'nonce-{nonce}'",
                "img-src 'self' data:",
                "form-action 'self'",
                "base-uri 'none'",
                "object-src 'none'",
                f"frame-ancestors {' '.join(framing) or NOBODY}",
            ]
        )
        if framing:
            response.xframe_options_exempt = True  # it would forbid what the policy allows
        return response

    return middleware


class BoundedPages:
    """Gives a page a place and a time for its calls, and says what became of it where it had none, or could not go on."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        owner = _owner(request)
        if not owner:
            return self.get_response(request)
        try:
            with budget.place(owner), time_limit(budget.CALL_SECONDS):
                return self.get_response(request)
        except budget.Busy:
            return _busy(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Turn what a view could not do into a page."""
        if isinstance(exception, budget.Busy):
            return _busy(request)
        if isinstance(exception, CannotDecrypt):
            org = getattr(request, "org", None)
            facts = {"path": request.path_info, "error": str(exception)}
            repeats.say(log.error, "a credential cannot be read", org and org.pk, **facts)
            context = {"problem": f"{capfirst(exception.message)}.", "doctor": org and reverse("doctor", args=[org.handle])}
            return render(request, "tenants/refused.html", context, status=503)
        return None


def _owner(request: HttpRequest) -> str:
    """Name whose place a page takes: that of the org of its address, or of where the request comes from; empty: nobody's.

    A browser without a session is shown the sign-in only. It takes no place of the org, or anybody could take them all.
    """
    path = request.path_info
    if path.startswith(NO_PAGES):
        return ""
    if path.startswith("/e/"):
        handle = path.split("/")[2]
        if "Authorization" in request.headers or cookie_name(handle) in request.COOKIES:
            return f"org {handle}"
    return f"client {budget.client_address(request)}"


def _busy(request: HttpRequest) -> HttpResponse:
    owner = _owner(request)  # which anybody can make up
    repeats.say(log.warning, "page refused: all places are taken", owner.partition(" ")[0], owner=owner)
    allow_frames(request, None)  # it shows nothing of anybody, and whose it would be takes a look into the database
    template = "tenants/_busy.html" if "HX-Request" in request.headers else "tenants/busy.html"
    response = render(request, template, status=503)
    response["Retry-After"] = str(RETRY_SECONDS)
    response["Cross-Origin-Opener-Policy"] = "unsafe-none"  # in the window of a sign-in the tie to its page must hold
    return response
