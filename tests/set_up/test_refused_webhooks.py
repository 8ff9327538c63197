"""Of each reason for which webhooks are turned away, a company reads what it means, and whether to do something."""

import re
from pathlib import Path

import pytest

from tenants import cache
from tenants.doctor import Finding, State
from tenants.doctor.refusals import REFUSALS
from tenants.tenancy import every_org
from tests.conftest import whatsapp_text
from tests.set_up.conftest import Company
from tests.set_up.pages import signed_in
from tests.support.happenings import receive_webhook

pytestmark = pytest.mark.django_db

CODE = Path(__file__).parents[2] / "messaging"
COUNTED = re.compile(r'Refused\(\s*\d{3}, "([^"]+)"|count_refusal\([^"\n]*"([^"]+)"')
OURS = (
    "not stored",
    "account not found out",
    "too many bodies at once",
    "wrong report address",
    "report on another message",
)


def finding(company: Company, title: str) -> Finding:
    return company.findings()[f"Webhooks of main today: {title}"]


def test_every_reason_that_is_counted_has_its_words() -> None:
    found = {name for path in CODE.glob("*.py") for names in COUNTED.findall(path.read_text()) for name in names if name}
    assert found == set(REFUSALS)
    for each in REFUSALS.values():
        assert all(words.endswith(".") for words in (each.happened, each.then, each.remedy))


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_a_reason_says_what_happened_and_only_what_is_not_ours_is_a_warning(acme: Company, reason: str) -> None:
    cache.count_refusal(acme.account.pk, reason, 3)
    found = finding(acme, reason)
    assert found.state is (State.NOTE if reason in OURS else State.WARNING)
    assert found.found == f"3. {REFUSALS[reason].happened}" and found.why == REFUSALS[reason].then
    assert ("nothing that you need to do" in found.remedy) == (reason in OURS)


def test_a_message_to_a_number_that_is_no_sender_names_the_number_and_does_not_promise_that_it_comes_again(
    acme: Company,
) -> None:
    with every_org():
        receive_webhook(acme.account, [whatsapp_text("Hello?", to="447700900042", message_id="wamid.1")])
    found = finding(acme, "unknown sender, number ending in 0042")
    assert found.state is State.WARNING
    assert found.remedy.startswith("Select the number ending in 0042 under “Select senders”")
    assert "does not send them again" not in found.remedy and "Infobip does not send them again" in found.why
    assert "secret" not in found.remedy


def test_what_was_our_own_trouble_is_a_note_under_a_page_that_says_all_is_well(acme: Company) -> None:
    cache.count_refusal(acme.account.pk, "not stored")
    page = signed_in(acme.org).get(f"/e/{acme.org.handle}/doctor").content.decode()
    assert "Nothing needs you" in page and "Note:" in page and "Warning:" not in page
    assert "Our database did not answer for a while." in page


def test_a_reason_that_a_newer_version_counted_does_not_stop_the_check(acme: Company) -> None:
    cache.count_refusal(acme.account.pk, "a reason of tomorrow")
    assert finding(acme, "a reason of tomorrow").state is State.WARNING


def test_a_braced_name_of_an_account_is_shown_as_it_is(acme: Company) -> None:
    acme.keep(acme.account, name="{main}")
    cache.count_refusal(acme.account.pk, "no signature")
    assert acme.findings()["Webhooks of {main} today: no signature"].state is State.WARNING
