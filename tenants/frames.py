"""Where our pages may be shown in a frame: on the hosts of the org that they belong to.

https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Content-Security-Policy/frame-ancestors
"""

from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

MY_DOMAIN = ".my.salesforce.com"
# Lightning with its console apps, Salesforce Classic, and Setup, in which the App Builder shows its preview:
# https://help.salesforce.com/s/articleView?id=xcloud.domain_name_app_url_changes.htm
PAGE_HOSTS = (".lightning.force.com", MY_DOMAIN, ".my.salesforce-setup.com")
VISUALFORCE = ".vf.force.com"
THIS_MACHINE = ("http://localhost:*", "http://127.0.0.1:*")  # a stand-in for Salesforce has no My Domain to go by


def allow_frames(request: HttpRequest, base_url: str | None) -> None:
    """Let the hosts of one org frame the page; None: those of any org, for a page that belongs to nobody yet.

    Such a page shows nothing of anybody, and leads to an org's own page only by loading it anew.
    """
    hosts = any_frame_hosts() if base_url is None else frame_hosts(base_url)
    request.frame_hosts = hosts  # type: ignore[attr-defined]


def frame_hosts(base_url: str) -> list[str]:
    """Name the hosts of an org that may show our pages in a frame, from the address of its My Domain.

    Each exactly, since every org's Visualforce pages live under ``vf.force.com``. Those that came with no package, as a
    customer's own, stand in package c: ``acme--c.vf.force.com``, of a sandbox ``acme--uat--c.sandbox.vf.force.com``.
    https://developer.salesforce.com/docs/atlas.en-us.apexref.meta/apexref/apex_class_System_DomainCreator.htm
    """
    if not base_url.endswith(MY_DOMAIN):
        return [*THIS_MACHINE] if settings.ALLOW_LOCAL_UPSTREAMS else []
    org = base_url.removesuffix(MY_DOMAIN)
    name, dot, partition = org.removeprefix("https://").partition(".")
    return [*(f"{org}{suffix}" for suffix in PAGE_HOSTS), f"https://{name}--c{dot}{partition}{VISUALFORCE}"]


def any_frame_hosts() -> list[str]:
    """Name the hosts of all orgs."""
    return [*(f"https://*{suffix}" for suffix in (*PAGE_HOSTS, VISUALFORCE)), *frame_hosts("")]


def in_foreign_document(request: HttpRequest, handle: str) -> bool:
    """Tell whether htmx would put an org's page into a document that was loaded from elsewhere.

    Browsers ask ``frame-ancestors`` when they load a document, not when a script fetches: what any org may frame would
    become an org's own page, inside somebody else's frame and with the session's cookie. A token that a page brings along
    was given to that very document.
    """
    if "HX-Request" not in request.headers or "Authorization" in request.headers:
        return False
    return not urlsplit(request.headers.get("HX-Current-URL", "")).path.startswith(reverse("wizard", args=[handle]))
