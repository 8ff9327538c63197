"""One login at a time per org, over a real Redis; the logins themselves are counted by a stand-in."""

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from pytest_django import Settings

from connector.http import ApiError, AuthenticationFailed
from connector.salesforce.auth import AccessToken
from tenants import broker, tokens
from tenants.tokens import Credentials, OrgTokens


class Salesforce:
    """Counts logins, and is as slow as a login may be."""

    def __init__(self) -> None:
        self.logins, self.numbers = 0, count(1)
        self.refuses: ApiError | None = None

    def login(self, *, base_url: str, **_: object) -> AccessToken:
        self.logins += 1
        time.sleep(0.1)
        if self.refuses:
            raise self.refuses
        return AccessToken(f"token {next(self.numbers)}", base_url)


@pytest.fixture
def salesforce(monkeypatch: pytest.MonkeyPatch) -> Iterator[Salesforce]:
    stand_in = Salesforce()
    monkeypatch.setattr(tokens, "login", stand_in.login)
    yield stand_in
    broker.remember(lambda redis: [redis.delete(key) for key in redis.scan_iter("connector:token:*")], otherwise=[])


def source(username: str = "byoc@acme.example") -> OrgTokens:
    return OrgTokens(Credentials(1, "https://acme.my.salesforce.com", "3MVG9", username, "key"))


def as_another_process() -> None:
    tokens.forget_all()


def test_many_threads_share_one_login(salesforce: Salesforce) -> None:
    mine = source()
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(mine.current().value)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert salesforce.logins == 1 and set(got) == {"token 1"}


def test_another_process_finds_the_token_in_redis_as_ciphertext(salesforce: Salesforce) -> None:
    first = source().current()
    stored = broker.remember(lambda redis: redis.get(source().key), otherwise="")
    assert stored and "token" not in stored
    as_another_process()
    assert source().current() == first
    assert salesforce.logins == 1


def test_a_refused_token_is_replaced_once_for_all_who_were_refused_it(salesforce: Salesforce) -> None:
    mine = source()
    old = mine.current()
    assert mine.renew(old).value == "token 2"
    assert mine.renew(old).value == "token 2"
    as_another_process()
    assert source().renew(old).value == "token 2"
    assert salesforce.logins == 2


def test_changed_credentials_have_another_token(salesforce: Salesforce) -> None:
    assert source().current() != source("other@acme.example").current()


def test_a_refusal_is_not_asked_for_again_and_again(salesforce: Salesforce) -> None:
    salesforce.refuses = AuthenticationFailed("Salesforce", "login refused")
    mine = source()
    for _ in range(5):
        with pytest.raises(AuthenticationFailed):
            mine.current()
    assert salesforce.logins == 1


def test_without_redis_each_process_keeps_its_own(
    salesforce: Salesforce, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(broker, "_memory", broker._Memory())
    mine = source()
    began = time.monotonic()
    assert mine.current().value == mine.current().value == "token 1"
    assert time.monotonic() - began < 1
    as_another_process()
    assert source().current().value == "token 2"
