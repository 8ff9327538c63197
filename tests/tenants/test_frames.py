"""Which hosts may show our pages in a frame."""

import pytest
from django.test import Client
from pytest_django import Settings

from tenants.frames import any_frame_hosts, frame_hosts
from tenants.models import SalesforceConnection
from tenants.tenancy import every_org
from tests.conftest import World
from tests.tenants.salesforce import OURS, signed_in


@pytest.fixture(autouse=True)
def as_in_production(settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = False


def ancestors(answer: object) -> list[str]:
    """Read whom a page lets frame it."""
    policy = answer["Content-Security-Policy"]  # type: ignore[index]
    return str(policy).split("frame-ancestors ")[1].split()


@pytest.mark.parametrize(
    ("base_url", "hosts"),
    [
        (
            "https://acme.my.salesforce.com",
            [
                "https://acme.lightning.force.com",
                "https://acme.my.salesforce.com",
                "https://acme.my.salesforce-setup.com",
                "https://acme--c.vf.force.com",
            ],
        ),
        (
            "https://acme--uat.sandbox.my.salesforce.com",
            [
                "https://acme--uat.sandbox.lightning.force.com",
                "https://acme--uat.sandbox.my.salesforce.com",
                "https://acme--uat.sandbox.my.salesforce-setup.com",
                "https://acme--uat--c.sandbox.vf.force.com",
            ],
        ),
        (
            "https://acme-dev-ed.develop.my.salesforce.com",
            [
                "https://acme-dev-ed.develop.lightning.force.com",
                "https://acme-dev-ed.develop.my.salesforce.com",
                "https://acme-dev-ed.develop.my.salesforce-setup.com",
                "https://acme-dev-ed--c.develop.vf.force.com",
            ],
        ),
    ],
    ids=["production", "sandbox", "Developer Edition"],
)
def test_an_org_shows_pages_on_its_own_hosts_each_named_exactly(base_url: str, hosts: list[str]) -> None:
    assert frame_hosts(base_url) == hosts


@pytest.mark.parametrize("base_url", ["", "http://127.0.0.1:8080", "https://acme.example", "https://my.salesforce.com"])
def test_what_is_no_org_of_salesforce_frames_nothing(base_url: str) -> None:
    assert frame_hosts(base_url) == []


def test_only_for_a_stand_in_this_machine_may_frame(settings: Settings) -> None:
    settings.ALLOW_LOCAL_UPSTREAMS = True
    assert frame_hosts("http://127.0.0.1:8080") == ["http://localhost:*", "http://127.0.0.1:*"]
    assert not any("localhost" in host for host in frame_hosts("https://acme.my.salesforce.com"))


@pytest.mark.django_db
def test_every_page_of_an_org_names_its_hosts_whoever_asks(acme: World) -> None:
    client, _ = signed_in(acme)
    for browser in (client, Client()):
        for path in ("setup/summary", "setup/accounts", "api-access", "doctor", "templates", "test-message"):
            answer = browser.get(f"/e/{acme.org.handle}/{path}")
            assert ancestors(answer) == frame_hosts("https://acme.my.salesforce.com"), path
            assert "X-Frame-Options" not in answer


@pytest.mark.django_db
def test_an_org_without_a_connection_is_framed_by_nobody(acme: World) -> None:
    with every_org():
        SalesforceConnection.objects.all().delete()
    assert ancestors(Client().get(f"/e/{acme.org.handle}/setup/connect")) == ["'none'"]


@pytest.mark.django_db
def test_a_page_that_is_nobodys_yet_may_be_framed_by_any_org_and_a_set_up_by_its_own() -> None:
    client = Client()
    assert ancestors(client.get("/")) == ancestors(client.get("/templates")) == any_frame_hosts()
    begun = client.post("/", {"my_domain": "acme--uat.sandbox"}, **OURS)
    assert begun.status_code == 200
    assert ancestors(client.get("/new/")) == frame_hosts("https://acme--uat.sandbox.my.salesforce.com")


@pytest.mark.django_db
@pytest.mark.parametrize("document", ["/", "/templates?id=", "/e/another/setup/summary", "/e/", ""])
def test_an_orgs_page_is_not_swapped_into_a_document_that_others_may_frame(acme: World, document: str) -> None:
    """The browser asks for leave to frame when it loads a document, so it is made to load one."""
    client, _ = signed_in(acme)
    path = f"/e/{acme.org.handle}/setup/summary?a=b"
    headers = {"HX-Request": "true", "HX-Current-URL": document and f"https://testserver{document}"}
    for browser in (client, Client()):
        answer = browser.get(path, headers=headers)
        assert answer.content == b"" and answer["HX-Redirect"] == path
    own = client.get(path, headers=headers | {"HX-Current-URL": f"https://testserver/e/{acme.org.handle}/doctor"})
    assert own.status_code == 200 and "HX-Redirect" not in own


@pytest.mark.django_db
def test_a_page_that_keeps_its_token_itself_goes_on_in_the_document_that_was_given_it(acme: World) -> None:
    """A browser without cookies would lose the token by loading anew, and nobody else's document has it."""
    _, token = signed_in(acme)
    headers = {"HX-Request": "true", "HX-Current-URL": "https://testserver/new/", "Authorization": f"Bearer {token}"}
    answer = Client().get(f"/e/{acme.org.handle}/setup/summary", headers=headers)
    assert answer.status_code == 200 and "HX-Redirect" not in answer
