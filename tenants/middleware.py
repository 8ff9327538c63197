"""What every request passes through."""

import secrets
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from tenants.tenancy import every_org

NOBODY = "'none'"
GetResponse = Callable[[HttpRequest], HttpResponse]


def operators_see_every_org(get_response: GetResponse) -> GetResponse:
    """Widen the scope for signed-in staff inside the admin, and for nobody else."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith("/admin/") and request.user.is_active and request.user.is_staff:
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
