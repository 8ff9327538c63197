"""Reading metadata files, and putting what they say into an org's set-up."""

from typing import Any
from xml.etree import ElementTree

from sandbox.records import Record
from sandbox.setup_org import Setup

NAMESPACE = "{http://soap.sforce.com/2006/04/metadata}"


class Problem(Exception):
    """Why a component cannot be deployed."""


class Xml:
    """An element whose children are asked for by name."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.element = element

    def all(self, name: str) -> list["Xml"]:
        """Return the children of a name."""
        return [Xml(each) for each in self.element.findall(NAMESPACE + name)]

    def text(self, name: str, default: str | None = None) -> str | None:
        """Return the text of a child."""
        found = self.element.find(NAMESPACE + name)
        return (found.text or "").strip() if found is not None else default

    def needed(self, name: str) -> str:
        """Return the text of a child that must be there.

        :raises Problem: if it is not
        """
        if not (text := self.text(name)):
            raise Problem(f"Required field is missing: {name}")
        return text

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean child.

        :raises Problem: if it is something else
        """
        text = self.text(name)
        if text not in (None, "true", "false"):
            raise Problem(f"'{text}' is not a valid value for the type xsd:boolean")
        return default if text is None else text == "true"

    def names(self) -> list[str]:
        """Return the names of all children."""
        return [each.tag.removeprefix(NAMESPACE) for each in self.element if isinstance(each.tag, str)]


def reference(found: Any, where: str, kind: str, name: str) -> Any:
    """Return what was found under a name.

    :raises Problem: if nothing was
    """
    if found is None:
        raise Problem(f"In field: {where} - no {kind} named {name} found")
    return found


def put(setup: Setup, record: Record) -> None:
    """Add a record, or let it take the place of the one that it agrees with."""
    rows = setup.tables[type(record).__name__]
    twin = setup.twin(record)
    if twin is None:
        setup.add(record)
    else:
        record.id = twin.id
        rows[rows.index(twin)] = record
