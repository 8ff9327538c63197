"""A company whose sender a chatbot has first, and Infobip's answers."""

from collections.abc import Iterator

import pytest
import responses

from tests.conftest import World
from tests.messaging.handing_over import TOKEN


@pytest.fixture
def chatbot(acme: World) -> World:
    acme.sender.chatbot_first = True
    acme.sender.save()
    acme.account.handover_token = TOKEN
    acme.account.save()
    return acme


@pytest.fixture
def infobip() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock
