"""What the sandbox sends and answers fits the published contracts, so that a client tested on it fits them too."""

import asyncio
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import pytest
import yaml

from tests.sandbox.far_sides import ANA, SENDER, TOPIC, far_sides, text_interaction

CONTRACTS = Path(os.environ.get("CONTRACTS_DIR", "../shared/contracts"))
pytestmark = pytest.mark.skipif(not CONTRACTS.is_dir(), reason=f"the published contracts are not in {CONTRACTS}")


def load(name: str) -> Any:
    text = (CONTRACTS / name).read_text()
    text = re.sub(r'type: "?int"?$', "type: integer", text, flags=re.MULTILINE)  # a slip in one schema
    return json.loads(text) if name.endswith(".json") else yaml.safe_load(text)


def check(document: Any, schema: Any, body: Any) -> None:
    root = {"components": document["components"]}
    jsonschema.Draft202012Validator({**root, **schema}).validate(body)


def content(message: Any) -> Any:
    return message["content"]["application/json"]["schema"]


@pytest.mark.parametrize(
    ("form", "contract", "inbound"),
    [
        ("whatsapp", "whatsapp", "receive-inbound-whatsapp-messages"),
        ("messages-api", "messages-api", "receive-messages-api-incoming-messages"),
    ],
)
def test_webhooks_and_reports_fit_the_contract(form: str, contract: str, inbound: str) -> None:
    async def scenario() -> None:
        document = load(f"infobip/{contract}.json")
        async with far_sides() as sides:
            await sides.control("POST", "/control/reports", {"delivered": 0.01, "seen": 0.01, "form": form})
            body = {"from": ANA, "to": SENDER, "name": "Ana Horvat", "text": "hi", "form": form}
            await sides.control("POST", "/control/phone/messages", body)
            await sides.send({"from": SENDER, "to": ANA, "messageId": "m-1", "content": {"text": "Hello"}})
            await sides.until(lambda: len(sides.arrived) == 3)
            names = [inbound, f"receive-{contract}-delivery-reports", f"receive-{contract}-seen-reports"]
            for name, (_, raw) in zip(names, sides.arrived, strict=True):
                check(document, content(document["webhooks"][name]["post"]["requestBody"]), json.loads(raw))

    asyncio.run(scenario())


def test_answers_to_sends_fit_the_contract() -> None:
    async def scenario() -> None:
        document = load("infobip/whatsapp.json")
        answers = document["paths"]["/whatsapp/1/message/text"]["post"]["responses"]
        async with far_sides() as sides:
            for body in ({"from": SENDER, "to": ANA, "content": {"text": "Hello"}}, {"from": SENDER}):
                status, answer = await sides.send(body)
                published = answers[str(status)]
                if "$ref" in published:
                    published = document["components"]["responses"][published["$ref"].rsplit("/", 1)[1]]
                check(document, content(published), answer)

    asyncio.run(scenario())


def test_answers_of_the_interaction_service_and_events_fit_the_contract() -> None:
    async def scenario() -> None:
        inbound = load("salesforce/inbound-interaction-api.yaml")
        outbound = load("salesforce/outbound-custom-event-payload.yaml")
        schemas = "#/components/schemas/"
        async with far_sides() as sides:
            token, conversation, session = await sides.ana_and_the_rep()
            _, answer = await sides.interact(token, text_interaction("hi"))
            check(inbound, {"$ref": schemas + "PostInteractionResponse"}, answer)
            _, answer = await sides.interact(token, text_interaction("hi", to=""))
            check(inbound, {"$ref": schemas + "Error"}, answer)
            await sides.control("POST", "/control/console/replies", {"conversation": conversation, "text": "Hello Ana"})
            await sides.control("POST", "/control/console/end", {"session": session})
            topic = next(iter(sides.sandbox.world.orgs.values())).topics[TOPIC]
            for event in topic.read(topic.start, 10):
                schema = json.loads(topic.schema_json)
                record: Any = fastavro.schemaless_reader(io.BytesIO(event.payload), schema, None)
                payload = json.loads(record["Payload__c"])
                # OpenAPI's "nullable" is no JSON Schema: what is null there is left out here
                payload["payload"]["entryPayload"].pop("messageReason", None)
                check(outbound, {"$ref": schemas + "InteractionEvent"}, payload)

    asyncio.run(scenario())
