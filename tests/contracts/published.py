"""The published OpenAPI documents, and how JSON is checked against them."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / os.environ.get("CONTRACTS_DIR", "../shared/contracts")

WHATSAPP = "infobip/whatsapp.json"
MESSAGES_API = "infobip/messages-api.json"
COMMON_ASSETS = "infobip/common-assets.json"
CONVERSATIONS = "infobip/conversations.json"
SETUP = [
    f"infobip/{name}.json"
    for name in (
        "account-management",
        "numbers",
        "resources",
        "whatsapp",
        "conversations",
        "messages-api",
        "subscriptions-api",
    )
]
INTERACTIONS = "salesforce/inbound-interaction-api.yaml"
EVENTS = "salesforce/outbound-custom-event-payload.yaml"


class Contract:
    """One published document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def request(self, path: str, *, method: str = "post") -> Any:
        """Give the schema of what is sent to a path."""
        return _schema_of(self.document["paths"][path][method]["requestBody"])

    def answer(self, path: str, status: int, *, method: str = "post") -> Any:
        """Give the schema of the answer with a status, or of the answer that stands for all that are not named.

        It is None where an answer without a body is described.
        """
        answers = {str(key): value for key, value in self.document["paths"][path][method]["responses"].items()}
        found = self.resolve(answers.get(str(status)) or answers["default"])
        return _schema_of(found) if "content" in found else None

    def path_of(self, method: str, path: str) -> str | None:
        """Give the described path that an address stands for, the plainest where several fit."""
        fitting = [
            template
            for template, operations in self.document["paths"].items()
            if method in operations and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path)
        ]
        return min(fitting, key=lambda template: template.count("{"), default=None)

    def query_problems(self, path: str, method: str, url: str) -> list[str]:
        """Say what of a query does not fit what is described of an operation."""
        described = {each["name"]: each for each in self.document["paths"][path][method].get("parameters", [])}
        given = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        required = {name for name, each in described.items() if each["in"] == "query" and each.get("required")}
        found = [f"{name}: missing" for name in sorted(required - given.keys())]
        for name, value in given.items():
            if described.get(name, {}).get("in") != "query":
                found.append(f"{name}: declared nowhere")
                continue
            schema = self.resolve(described[name]["schema"])
            read: Any = int(value) if schema["type"] == "integer" else value
            found += [
                f"{name}: {each}" for each in self.problems(schema, read.split(",") if schema["type"] == "array" else read)
            ]
        return found

    def named(self, ending: str) -> Any:
        """Give the schema whose name ends so, behind the hash that some of them carry."""
        (name,) = [name for name in self.document["components"]["schemas"] if name.rsplit(".", 1)[-1] == ending]
        return self.schema(name)

    def webhook(self, operation: str) -> Any:
        """Give the schema of what is posted to us."""
        return _schema_of(self._webhook(operation)["requestBody"])

    def examples(self, operation: str) -> dict[str, Any]:
        """Give the published examples of what is posted to us."""
        examples = self._webhook(operation)["requestBody"]["content"]["application/json"]["examples"]
        return {name: example["value"] for name, example in examples.items()}

    def webhooks(self) -> set[str]:
        """Name everything that is posted to us."""
        return {webhook["post"]["operationId"] for webhook in self.document["webhooks"].values()}

    def _webhook(self, operation: str) -> Any:
        webhooks = (webhook["post"] for webhook in self.document["webhooks"].values())
        return next(webhook for webhook in webhooks if webhook["operationId"] == operation)

    def schema(self, name: str) -> Any:
        """Give a schema by its name."""
        return {"$ref": f"#/components/schemas/{name}"}

    def resolve(self, source: Any) -> Any:
        """Follow a reference within the document."""
        while "$ref" in source:
            target = self.document
            for step in source["$ref"].removeprefix("#/").split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")]
            source = target
        return source

    def problems(self, schema: Any, body: Any) -> list[str]:
        """Say what of a body does not fit its schema, fields that are declared nowhere included."""
        seen = _Seen(self.document["components"]["schemas"])
        # the validator resolves references within the schema that it is given, so that one holds all the others
        root = {"components": self.document["components"], "allOf": [schema]}
        errors = [f"{_place(error.absolute_path)}: {error.message}" for error in seen.validator(root).iter_errors(body)]
        return errors or list(seen.undeclared(body))


def load(name: str) -> Contract:
    """Read a published document; without it the test is skipped, or fails in CI, where the documents must be present."""
    path = FOLDER / name
    if not path.is_file():
        missing = f"the published contracts are not in {FOLDER}; CONTRACTS_DIR says where they are"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return _read(path)


@cache
def _read(path: Path) -> Contract:
    text = path.read_text(encoding="utf-8")
    return Contract(json.loads(text) if path.suffix == ".json" else yaml.load(text, yaml.CSafeLoader))


def _schema_of(message: Any) -> Any:
    ((_, content),) = [
        (kind, each)
        for kind, each in message["content"].items()
        if kind in ("application/json", "multipart/form-data", "*/*")
    ]
    return content["schema"]


def _place(path: Any) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".") or "body"


class _Seen:
    """One validation, with what OpenAPI adds to JSON Schema; it notes which fields any schema declares.

    A field that no schema declares is allowed by most schemas, and a misspelt optional field would pass unnoticed.
    """

    def __init__(self, schemas: dict[str, Any]) -> None:
        self.schemas = schemas
        self.declared: dict[int, set[str]] = {}  # by the identity of an object in the body
        self.open: set[tuple[int, str]] = set()
        # two documents write the names of formats or of other languages as types
        types = Draft202012Validator.TYPE_CHECKER.redefine_many(
            {
                "int": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
                "float": lambda _, value: isinstance(value, int | float) and not isinstance(value, bool),
                "double": lambda _, value: isinstance(value, int | float) and not isinstance(value, bool),
            }
        )
        keywords = {
            "type": self._type,
            "enum": self._enum,
            "properties": self._properties,
            "additionalProperties": self._additional_properties,
            "discriminator": self._discriminator,
        }
        make: Any = extend  # untyped
        self.validator: Any = make(Draft202012Validator, keywords, type_checker=types)

    def _type(self, validator: Any, types: Any, body: Any, schema: Any) -> Iterator[ValidationError]:
        if body is None and schema.get("nullable"):  # OpenAPI 3.0
            return iter(())
        found: Iterator[ValidationError] = Draft202012Validator.VALIDATORS["type"](validator, types, body, schema)
        return found or iter(())

    def _enum(self, validator: Any, values: Any, body: Any, schema: Any) -> Iterator[ValidationError]:
        if body is None and schema.get("nullable"):
            return iter(())
        found: Iterator[ValidationError] = Draft202012Validator.VALIDATORS["enum"](validator, values, body, schema)
        return found or iter(())

    def _properties(self, validator: Any, properties: Any, body: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(body, dict):
            self.declared.setdefault(id(body), set()).update(properties)
        yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, body, schema)

    def _additional_properties(self, validator: Any, rest: Any, body: Any, schema: Any) -> Iterator[ValidationError]:
        # where others are allowed, all are declared; where the document forbids them, parts of one "allOf" do so for
        # fields that other parts declare, which nothing could fit; undeclared fields are found at the end anyway
        if isinstance(body, dict) and rest is not False:
            self.declared.setdefault(id(body), set()).update(body)
            yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, rest, body, schema)

    def _discriminator(self, validator: Any, rule: Any, body: Any, schema: Any) -> Iterator[ValidationError]:
        """Validate against the schema that the named field selects: by the mapping, else by the schema's name."""
        kind = body.get(rule["propertyName"]) if isinstance(body, dict) else None
        if not isinstance(kind, str):
            return  # "required" and "type" speak of it
        reference = rule.get("mapping", {}).get(kind)
        if reference is None and kind in self.schemas:
            reference = f"#/components/schemas/{kind}"
        if reference is None:
            yield ValidationError(f"there is no schema for {rule['propertyName']} {kind}")
        elif (id(body), reference) not in self.open:  # the selected schema includes the one that selects
            self.open.add((id(body), reference))
            yield from validator.descend(body, {"$ref": reference})
            self.open.discard((id(body), reference))

    def undeclared(self, body: Any, place: str = "") -> Iterator[str]:
        """Name the fields of objects with known fields that no schema declares."""
        if isinstance(body, dict):
            declared = self.declared.get(id(body)) or body.keys()  # an object without known fields is free
            for name, value in body.items():
                if name not in declared:
                    yield f"{place}.{name}".lstrip(".") + ": declared nowhere"
                yield from self.undeclared(value, f"{place}.{name}")
        elif isinstance(body, list):
            for number, value in enumerate(body):
                yield from self.undeclared(value, f"{place}[{number}]")


def without_nulls(body: Any) -> Any:
    """Leave out what is null: Salesforce writes it so for what is absent, though its schemas do not allow it."""
    if isinstance(body, dict):
        return {name: without_nulls(value) for name, value in body.items() if value is not None}
    return [without_nulls(value) for value in body] if isinstance(body, list) else body
