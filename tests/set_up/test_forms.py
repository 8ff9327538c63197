"""Nothing that somebody filled in is dropped without a word: each form knows where it goes, and entrances take none."""

import re

import pytest
from django.conf import settings
from django.forms import Form
from django.test import Client

from tenants.forms import AccountForm, ChannelForm, MyDomainForm, SettingsForm
from tenants.models import Draft
from tenants.onboarding import UNSENDABLE_KEY
from tenants.tenancy import every_org
from tests.set_up.conftest import Company
from tests.set_up.pages import STEPS, alerts, look, press, signed_in
from tests.tenants.salesforce import OURS

TEMPLATES = [
    path
    for app in ("tenants", "templates_ui", "messaging")
    for path in sorted((settings.BASE_DIR / app / "templates" / app).rglob("*.html"))
]
FORM = re.compile(r"<form\b[^>]*>")
OF_ITS_OWN = re.compile(r'action="(/[^"]+)"')


def test_each_form_of_each_template_says_where_it_goes() -> None:
    """A page may stand at another's address: after signing in at an entrance, or put there by a script."""
    forms = [(path.name, form) for path in TEMPLATES for form in FORM.findall(path.read_text())]
    assert len(forms) >= 25
    assert [each for each in forms if ' action="{' not in each[1] or ' method="post"' not in each[1]] == []


@pytest.mark.django_db
@pytest.mark.parametrize("step", STEPS)
def test_no_form_of_a_step_goes_to_an_entrance(acme: Company, step: str) -> None:
    ada = signed_in(acme.org)
    acme.keep(acme.sender, chatbot_first=True)
    entrances = {"/", "/new/", f"/e/{acme.org.handle}/", f"/e/{acme.org.handle}/setup/byoc"}
    targets = [OF_ITS_OWN.search(form) for form in FORM.findall(look(ada, acme.org, step))]
    assert targets and all(each and each[1] not in entrances for each in targets)


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["", "setup/byoc", "setup/summary"])
def test_a_page_without_a_form_says_that_it_saved_nothing(acme: Company, path: str) -> None:
    answer = signed_in(acme.org).post(f"/e/{acme.org.handle}/{path}", {"consumer_key": "typed"}, **OURS)
    assert answer.status_code == 405 and answer["Allow"] == "GET, HEAD"
    assert "Nothing was saved" in answer.content.decode()


@pytest.mark.django_db
def test_who_is_no_longer_signed_in_or_known_is_told_that_nothing_was_saved(acme: Company) -> None:
    answer = press(Client(), acme.org, "connect", consumer_key="typed")
    assert answer.status_code == 401 and "nothing was changed" in answer.content.decode()
    assert "nothing was changed" not in Client().get(f"/e/{acme.org.handle}/").content.decode()
    answer = Client().post("/new/", {"consumer_key": "typed", "username": "x@y.example"}, **OURS)
    assert answer.status_code == 404 and "nothing was saved" in answer.content.decode()


@pytest.mark.django_db
def test_a_number_says_that_it_was_saved_or_why_not_with_what_was_chosen_still_there(acme: Company) -> None:
    ada = signed_in(acme.org)
    fields = {"account": str(acme.account.uuid), "number": acme.sender.number, "first": "chatbot"}
    saved = ada.get(press(ada, acme.org, "senders", channel=acme.channel.pk, **fields)["Location"]).content.decode()
    assert saved.count("✓ Saved") == 1 and "✓ Saved" not in look(ada, acme.org, "senders")
    refused = press(ada, acme.org, "senders", channel="gone", **fields | {"first": "rep"}).content.decode()
    assert "Not saved. This channel is no longer there." in refused and "✓ Saved" not in refused
    assert '<option value="chatbot" selected>' not in refused


@pytest.mark.django_db
def test_a_key_whose_login_works_can_still_be_changed() -> None:
    client = Client()
    client.post("/", {"my_domain": "https://newcomer.my.salesforce.com"}, **OURS)
    with every_org():
        Draft.objects.update(consumer_key="3MVG9kept", username="byoc@newcomer.example")
    page = client.get("/new/").content.decode()
    assert "The test login works." in page and 'href="/new/?change=yes"' in page
    page = client.get("/new/?change=yes").content.decode()
    assert "Test the login" in page and 'value="3MVG9kept"' in page


COPIED = "\u2066\ufeff{}\u200b\u202c\u00a0"  # as out of a page or a chat


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (MyDomainForm, {"my_domain"}),
        (SettingsForm, {"consumer_key", "username", "scrt_url"}),
        (ChannelForm, {"pasted", "context"}),
        (AccountForm, {"base_url"}),
    ],
)
def test_what_nobody_sees_is_taken_out_of_what_was_copied(form: type[Form], names: set[str]) -> None:
    filled = form({name: COPIED.format("a\u200bc.me") for name in names})
    filled.is_valid()
    assert {name: filled.cleaned_data[name] for name in names} == dict.fromkeys(names, "ac.me")


@pytest.mark.django_db
def test_an_api_key_that_cannot_be_sent_is_refused_as_it_is_entered_and_blames_no_address(acme: Company) -> None:
    ada = signed_in(acme.org)
    given = acme.document["infobipAccounts"][0]
    for key in (f"{given['apiKey']}\u200b", f"\ufeff{given['apiKey']}", "schlüssel"):
        fields = {"name": "second", "base_url": given["baseUrl"], "api_key": key}
        assert alerts(press(ada, acme.org, "accounts", **fields).content.decode()) == {"api_key": UNSENDABLE_KEY}
    acme.keep(acme.account, api_key="kept\u200bbefore")
    fields = {"name": "main", "base_url": given["baseUrl"], "account": str(acme.account.uuid), "action": "change"}
    assert alerts(press(ada, acme.org, "accounts", **fields).content.decode()) == {"api_key": UNSENDABLE_KEY}
