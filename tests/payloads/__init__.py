"""Recorded payloads of both platforms, one file per kind of event; values are those of the platforms' own examples."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def names(folder: str) -> list[str]:
    """Name the recordings in a folder, such as ``infobip/whatsapp``."""
    return sorted(path.stem for path in (FOLDER / folder).glob("*.json"))


def load(name: str) -> Any:
    """Read a recording, such as ``infobip/whatsapp/text``."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def record(name: str) -> dict[str, Any]:
    """Read a platform event as it is decoded from Avro: its payload is a text, which the recording spells out."""
    event: dict[str, Any] = load(f"salesforce/events/{name}")
    return {**event, "Payload__c": json.dumps(event["Payload__c"])}
