"""Payloads of the Messages API form also load in the models of Infobip's own Python package."""

from typing import Any

import pytest

from tests.contracts.published import MESSAGES_API, load
from tests.payloads import load as recorded
from tests.payloads import names

MODELS = {
    "MO": "MessagesApiIncomingMessage",
    "DELIVERY": "MessagesApiDeliveryReport",
    "SEEN": "MessagesApiSeenReport",
    "TYPING_STARTED": "MessagesApiIncomingMessage",
    "TYPING_STOPPED": "MessagesApiIncomingMessage",
}


def _loaded(body: Any) -> Any:
    # not above: its 700 classes take two seconds to build, in each process that collects tests
    models = pytest.importorskip("infobip_api_client.models", reason="infobip-api-python-client is not installed")
    return getattr(models, MODELS[body["results"][0]["event"]]).from_dict(body)


@pytest.mark.parametrize(
    "name",
    [
        *(f"messages_api/{name}" for name in names("infobip/messages_api")),
        *(f"reports/{name}" for name in names("infobip/reports") if name.startswith("messages_api_")),
    ],
)
def test_a_recorded_payload_loads_in_the_models_of_infobip(name: str) -> None:
    body = recorded(f"infobip/{name}")
    (result,), (model,) = body["results"], _loaded(body).results
    assert (model.message_id, model.sender) == (result["messageId"], result["sender"])
    if "content" in result:
        assert [content.type for content in model.content] == [content["type"] for content in result["content"]]


@pytest.mark.parametrize(
    "operation",
    [
        "receive-messages-api-incoming-messages",
        "receive-messages-api-delivery-reports",
        "receive-messages-api-seen-reports",
    ],
)
def test_the_published_examples_load_in_the_models_of_infobip(operation: str) -> None:
    for name, body in load(MESSAGES_API).examples(operation).items():
        (model,) = _loaded(body).results
        assert model.message_id == body["results"][0]["messageId"], name
