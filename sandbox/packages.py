"""The zip of a metadata deploy: what it holds, and what does not fit its package.xml."""

import io
import re
import zipfile
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from sandbox.components import KINDS, Component
from sandbox.elements import NAMESPACE, Problem, Xml

DESTRUCTIVE = ("destructiveChangesPre.xml", "destructiveChanges.xml", "destructiveChangesPost.xml")
AURA_FILES = (".cmp", ".design", ".cmp-meta.xml")
AURA_WRAPPER = '<all xmlns:aura="aura" xmlns:design="design" xmlns:force="force" xmlns:lightning="lightning">{}</all>'


@dataclass
class Message:
    """What became of one component."""

    kind: str
    name: str
    problem: str | None = None
    warning: bool = False
    deleted: bool = False

    def describe(self) -> dict[str, Any]:
        """Return it as the status shows it."""
        path = "package.xml" if not self.kind else f"{KINDS[self.kind].folder}/{self.name}"
        error = self.problem is not None and not self.warning
        return {
            "componentType": self.kind,
            "fullName": self.name,
            "fileName": path,
            "success": not error,
            "changed": not error,
            "created": not error and not self.deleted,
            "deleted": not error and self.deleted,
            "problem": self.problem,
            "problemType": None if self.problem is None else "Warning" if self.warning else "Error",
            "lineNumber": 1 if error else None,
            "columnNumber": 1 if error else None,
        }


def count_components(archive: bytes) -> int:
    """Return how many components a zip names, as far as it can be read."""
    try:
        components, removed, _ = unpack(archive)
    except Problem:
        return 0
    return len(components) + len(removed)


def unpack(archive: bytes) -> tuple[list[Component], list[tuple[str, str]], list[Message]]:
    """Return the components of a zip, what it removes, and what does not fit its package.xml.

    :raises Problem: if it is no zip with a package.xml at its root
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as package:
            files = {name: package.read(name) for name in package.namelist() if not name.endswith("/")}
    except (zipfile.BadZipFile, zipfile.LargeZipFile) as exc:
        raise Problem("The zip file cannot be read") from exc
    if "package.xml" not in files:
        raise Problem("No package.xml found")
    version, named = read_members(files["package.xml"])
    removed = [member for name in DESTRUCTIVE if name in files for member in read_members(files[name])[1]]
    found: dict[tuple[str, str], Component] = {}
    problems = []
    for path, content in files.items():
        if path == "package.xml" or path in DESTRUCTIVE:
            continue
        key = component_of(path)
        if key is None:
            problems.append(Message("", path, f"Unexpected file in the zip: {path}"))
        else:
            found.setdefault(key, Component(*key, version)).files[path] = content
    for kind, name in found:
        if (kind, name) not in named:
            problems.append(Message(kind, name, f"{name} is in the zip but not named in package.xml"))
    for kind, name in named:
        if kind not in KINDS:
            problems.append(Message("", name, f"Unknown type name '{kind}' specified in package.xml"))
        elif (kind, name) not in found:
            words = f"An object '{name}' of type {kind} was named in package.xml, but was not found in zipped directory"
            problems.append(Message(kind, name, words))
    return [each for key, each in found.items() if key in named], removed, problems


def read_members(content: bytes) -> tuple[str, list[tuple[str, str]]]:
    """Return the API version of a manifest, and the types and names that it lists.

    :raises Problem: if it is none
    """
    xml = parse(content, "Package")
    version = xml.needed("version")
    if not re.fullmatch(r"\d\d\.\d", version):
        raise Problem("package.xml names no API version")
    members = [
        (types.needed("name"), (m.element.text or "").strip()) for types in xml.all("types") for m in types.all("members")
    ]
    return version, members


def component_of(path: str) -> tuple[str, str] | None:
    """Return the type and the name that a file in a zip belongs to."""
    folder, _, rest = path.partition("/")
    for kind, known in KINDS.items():
        if known.folder != folder:
            continue
        if kind == "AuraDefinitionBundle":
            bundle, _, name = rest.partition("/")
            return (kind, bundle) if name and name in {bundle + suffix for suffix in AURA_FILES} else None
        name, dot, suffix = rest.rpartition(".")
        return (kind, name) if dot and "/" not in rest and suffix == known.suffix else None
    return None


def parse(content: bytes, root: str) -> Xml:
    """Return a file's root element.

    :raises Problem: if it is not well-formed, or another element
    """
    try:
        element = ElementTree.fromstring(content)
    except ElementTree.ParseError as exc:
        raise Problem(f"Error parsing file: {exc}") from exc
    if element.tag != NAMESPACE + root:
        raise Problem(f"Element {element.tag} is not {root} of http://soap.sforce.com/2006/04/metadata")
    return Xml(element)


def read_component(component: Component) -> Xml:
    """Return the metadata of a component, all of whose elements are known.

    :raises Problem: if a file is missing or not right
    """
    kind, files = KINDS[component.kind], component.files
    if component.kind == "AuraDefinitionBundle":
        path = f"aura/{component.name}/{component.name}"
        if f"{path}.cmp" not in files or f"{path}.cmp-meta.xml" not in files:
            raise Problem(f"{component.name}: a bundle needs a .cmp and a .cmp-meta.xml")
        for markup in (content for name, content in files.items() if not name.endswith("-meta.xml")):
            try:
                ElementTree.fromstring(AURA_WRAPPER.format(markup.decode()))
            except (ElementTree.ParseError, UnicodeDecodeError) as exc:
                raise Problem(f"Error parsing markup: {exc}") from exc
        xml = parse(files[f"{path}.cmp-meta.xml"], kind.root)
    else:
        root = f"{component.name}Settings" if component.kind == "Settings" else kind.root
        xml = parse(next(iter(files.values())), root)
    for name in xml.names():
        if name not in kind.elements:
            raise Problem(f"Property '{name}' not valid in version {component.version}")
    return xml
