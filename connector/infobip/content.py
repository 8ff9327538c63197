"""How the content of a message reads as text: the mark and the label are ours, and what follows is somebody else's."""

from collections.abc import Callable
from typing import Any

from connector.events import MARK, UnexpectedPayload, clean, text_of, unmarked

Kinds = dict[str, Callable[[dict[str, Any]], str]]


def _ours(label: str, *theirs: str) -> str:
    rest = " ".join(part for part in theirs if part)
    return f"{MARK} {label}: {rest}" if rest else f"{MARK} {label}"


def line_of(kind: str, content: dict[str, Any], kinds: Kinds) -> str:
    """Read a content as text, by the kinds of the form that it came in.

    :raises UnexpectedPayload: if a text that must be there is not
    """
    read = kinds.get(kind)
    return clean(read(content)).strip() if read else _ours(_words(kind), "this kind of message cannot be shown")


def _words(kind: str) -> str:
    return kind.replace("_", " ").strip().capitalize()


def _optional(source: dict[str, Any], field: str) -> str:
    value = source.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return unmarked(value.strip()) if isinstance(value, str) else ""


def _plain_text(content: dict[str, Any]) -> str:
    value = content.get("text")
    if not isinstance(value, str) or not clean(value).strip():
        raise UnexpectedPayload("text is missing or empty")
    return unmarked(value)


def _file(label: str) -> Callable[[dict[str, Any]], str]:
    def read(content: dict[str, Any]) -> str:
        return _ours(label, _optional(content, "caption") or _optional(content, "text"))

    return read


def _location(content: dict[str, Any]) -> str:
    place = ", ".join(filter(None, (_optional(content, "name"), _optional(content, "address"))))
    point = ", ".join(filter(None, (_optional(content, "latitude"), _optional(content, "longitude"))))
    return _ours("Location", place, f"({point})" if place and point else point, _optional(content, "url"))


def _contacts(content: dict[str, Any]) -> str:
    lines = []
    for contact in _objects(content, "contacts"):
        name = contact.get("name")
        shown = _optional(name, "formattedName") or _optional(name, "firstName") if isinstance(name, dict) else ""
        phones = [_optional(phone, "phone") for phone in _objects(contact, "phones")]
        emails = [_optional(email, "email") for email in _objects(contact, "emails")]
        lines.append(_ours("Contact", ", ".join(filter(None, [shown, *phones, *emails]))))
    return "\n".join(lines) or _ours("Contact")


def _order(content: dict[str, Any]) -> str:
    items = [
        f"{_optional(item, 'quantity')} of {_optional(item, 'productRetailerId')}"
        for item in _objects(content, "productItems")
    ]
    return _ours("Order", ", ".join(items), _optional(content, "text"))


def _reaction(content: dict[str, Any]) -> str:
    removed = content.get("action") == "REMOVED"
    return _ours("Reaction removed") if removed else _ours("Reaction", _optional(content, "emoji"))


def _list_reply(content: dict[str, Any]) -> str:
    return "\n".join(filter(None, (unmarked(text_of(content, "title")), _optional(content, "description"))))


def _flow_reply(content: dict[str, Any]) -> str:
    response = content.get("response")
    fields = response.items() if isinstance(response, dict) else ()
    shown = [unmarked(f"{name}: {value}") for name, value in fields if isinstance(value, str | int | float)]
    return "\n".join((_ours("Form", _optional(content, "text")), *shown))


def _objects(source: dict[str, Any], field: str) -> list[dict[str, Any]]:
    values = source.get(field)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _notice(text: str) -> Callable[[dict[str, Any]], str]:
    return lambda _content: _ours(text)


# https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-inbound-messages/receive-whatsapp-inbound-messages
WHATSAPP_KINDS: Kinds = {
    "TEXT": _plain_text,
    "BUTTON": _plain_text,
    "INTERACTIVE_BUTTON_REPLY": lambda content: unmarked(text_of(content, "title")),
    "INTERACTIVE_LIST_REPLY": _list_reply,
    "INTERACTIVE_FLOW_REPLY": _flow_reply,
    "IMAGE": _file("Image"),
    "VIDEO": _file("Video"),
    "DOCUMENT": _file("Document"),
    "AUDIO": _file("Audio"),
    "VOICE": _file("Voice message"),
    "STICKER": _file("Sticker"),
    "LOCATION": _location,
    "CONTACT": _contacts,
    "ORDER": _order,
    "REACTION": _reaction,
    "INFECTED_CONTENT": _notice("A file was withheld because it holds malware"),
    "UNSUPPORTED": _notice("A message of a kind that WhatsApp does not pass on"),
}
MESSAGES_API_KINDS: Kinds = {
    "TEXT": _plain_text,
    "SUBJECT": _plain_text,
    "BUTTON_REPLY": _plain_text,
    "LIST_REPLY": _plain_text,
    "IMAGE": _file("Image"),
    "VIDEO": _file("Video"),
    "AUDIO": _file("Audio"),
    "DOCUMENT": _file("Document"),
    "FILE": _file("File"),
    "URL": lambda content: _ours("Link", _optional(content, "url")),
    "LOCATION": _location,
    "REACTION": _reaction,
    "FLOW_RESPONSE": _flow_reply,
    "FORM_RESPONSE": _flow_reply,
}


# A conversation's messages, as the bot's designer and the end user wrote them. Nothing says what `content` of an inbound
# reply holds, and the list of kinds is open: what is not here reads by the first text that it has.
# https://www.infobip.com/docs/api/customer-engagement/conversations
SILENT = {"TYPING_INDICATOR", "EMPTY", "UNKNOWN", "CLOSE_CONVERSATION"}


def conversation_line(kind: str, content: dict[str, Any]) -> str:
    """Read a message of a conversation as text; empty for what nobody would see.

    :param kind: its ``contentType``; empty in conversation events, which do not tell it
    """
    if kind in SILENT:
        return ""
    read = _CONVERSATION_KINDS.get(kind or _guessed(content), _first_text)
    return clean(read(content)).strip() or _ours(_words(kind) or "Message", "this kind of message cannot be shown")


def _guessed(content: dict[str, Any]) -> str:
    if "interactive" in content:
        return "INTERACTIVE"
    if "latitude" in content:
        return "LOCATION"
    if "contacts" in content:
        return "CONTACT"
    return "FILE" if "url" in content and "text" not in content else ""


def _first_text(content: dict[str, Any]) -> str:
    for place in ("text", "caption", "title"):
        if text := _optional(content, place):
            return text
    body = content.get("body")
    return _optional(body, "text") if isinstance(body, dict) else ""


def _linked_file(label: str) -> Callable[[dict[str, Any]], str]:
    def read(content: dict[str, Any]) -> str:
        return _ours(label, _optional(content, "caption"), _optional(content, "url"))

    return read


def _conversation_location(content: dict[str, Any]) -> str:
    return _location({"name": content.get("locationName"), **content})


def _conversation_contacts(content: dict[str, Any]) -> str:
    """Read names in either of the two spellings."""
    contacts = []
    for contact in _objects(content, "contacts"):
        name = contact.get("name")
        name = name if isinstance(name, dict) else {}
        shown = name.get("formattedName") or name.get("formatted_name") or name.get("firstName") or name.get("first_name")
        contacts.append({**contact, "name": {"formattedName": shown}})
    return _contacts({"contacts": contacts})


def _interactive(content: dict[str, Any]) -> str:
    """Read a question with its choices, each on a line of its own."""
    inner = content.get("interactive")
    inner = inner if isinstance(inner, dict) else {}
    parts = [inner.get(place) for place in ("header", "body", "footer")]
    texts = [_optional(part, "text") for part in parts if isinstance(part, dict)]
    action = inner.get("action")
    action = action if isinstance(action, dict) else {}
    rows = [row for section in _objects(action, "sections") for row in _objects(section, "rows")]
    choices = [_optional(each, "title") for each in [*_objects(action, "buttons"), *rows]]
    link = " ".join(filter(None, (_optional(action, "displayText"), _optional(action, "url"))))
    return "\n".join([*filter(None, texts), *(f"• {choice}" for choice in [*choices, link] if choice)])


def _media_template(content: dict[str, Any]) -> str:
    body = content.get("body")
    values = body.get("placeholders") if isinstance(body, dict) else None
    shown = [unmarked(str(value)) for value in values] if isinstance(values, list) else []
    return _ours("Template", _optional(content, "templateName"), ", ".join(shown))


def _list_reply_or_first_text(content: dict[str, Any]) -> str:
    return "\n".join(filter(None, (_first_text(content), _optional(content, "description"))))


def _data_reply(content: dict[str, Any]) -> str:
    """Read a reply whose fields are not published."""
    return _first_text(content) or _flow_reply(content)


_CONVERSATION_KINDS: Kinds = {
    "IMAGE": _linked_file("Image"),
    "VIDEO": _linked_file("Video"),
    "DOCUMENT": _linked_file("Document"),
    "FILE": _linked_file("File"),
    "AUDIO": _linked_file("Audio"),
    "VOICE": _linked_file("Voice message"),
    "WHATSAPP_STICKER": _linked_file("Sticker"),
    "LOCATION": _conversation_location,
    "CONTACT": _conversation_contacts,
    "INTERACTIVE": _interactive,
    "INTERACTIVE_LIST_REPLY": _list_reply_or_first_text,
    "INTERACTIVE_FLOW_REPLY": _data_reply,
    "MEDIA_TEMPLATE": _media_template,
    "ORDER": _order,
}
