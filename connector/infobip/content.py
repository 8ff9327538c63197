"""How the content of a message reads as text: the mark and the label are ours, and what follows is somebody else's.

Somebody wrote it, so every content reads as something: where what is needed is missing, the line says so.
"""

from collections.abc import Callable
from typing import Any

from connector.events import MARK, clean, strip_mark
from connector.payload import objects_of, optional_object

Kinds = dict[str, Callable[[dict[str, Any]], str]]


def _ours(label: str, *theirs: str) -> str:
    rest = " ".join(part for part in theirs if part)
    return f"{MARK} {label}: {rest}" if rest else f"{MARK} {label}"


def line_of(content: object, kinds: Kinds) -> str:
    """Read a content as text, by the kinds of the form that it came in; what an unknown kind holds is read all the same."""
    if isinstance(content, str):
        return _shown("", strip_mark(content))
    if not isinstance(content, dict):
        return _shown("", "")
    kind = _optional(content, "type")
    read = kinds.get(kind.upper())
    text = (read(content) if read else "") or _words(content)
    if kind and read is None and text:
        text = _ours(_name(kind), text)
    return _shown(kind, "\n".join(filter(None, [text, _referral(content)])))


def _shown(kind: str, text: str) -> str:
    return clean(text).strip() or _ours(_name(kind) or "Message", "this kind of message cannot be shown")


def _name(kind: str) -> str:
    return clean(kind[:100]).replace("_", " ").strip().capitalize()


def _words(content: dict[str, Any]) -> str:
    """Find what somebody wrote or tapped, wherever it stands: a button's payload where it has no text."""
    places = ("title", "name", "description", "payload", "postbackData", "id")
    return _first_text(content) or next(filter(None, (_optional(content, place) for place in places)), "")


def _referral(content: dict[str, Any]) -> str:
    """Say by which advertisement somebody came, who may have written nothing beside.

    https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-inbound-messages/receive-whatsapp-inbound-messages
    """
    referral = optional_object(content, "referral")
    said = [_optional(referral, place) for place in ("headline", "body", "sourceUrl")]
    return _ours("From an advertisement", *said) if referral else ""


def _optional(source: dict[str, Any], field: str) -> str:
    value = source.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return strip_mark(value.strip()) if isinstance(value, str) else ""


def _only(field: str) -> Callable[[dict[str, Any]], str]:
    return lambda content: _optional(content, field)


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
    for contact in objects_of(content, "contacts"):
        name = optional_object(contact, "name")
        shown = _optional(name, "formattedName") or _optional(name, "firstName")
        phones = [_optional(phone, "phone") for phone in objects_of(contact, "phones")]
        emails = [_optional(email, "email") for email in objects_of(contact, "emails")]
        lines.append(_ours("Contact", ", ".join(filter(None, [shown, *phones, *emails]))))
    return "\n".join(lines) or _ours("Contact")


def _order(content: dict[str, Any]) -> str:
    items = [
        f"{_optional(item, 'quantity')} of {_optional(item, 'productRetailerId')}"
        for item in objects_of(content, "productItems")
    ]
    return _ours("Order", ", ".join(items), _optional(content, "text"))


def _reaction(content: dict[str, Any]) -> str:
    removed = content.get("action") == "REMOVED"
    return _ours("Reaction removed") if removed else _ours("Reaction", _optional(content, "emoji"))


def _list_reply(content: dict[str, Any]) -> str:
    return "\n".join(filter(None, (_optional(content, "title"), _optional(content, "description"))))


def _flow_reply(content: dict[str, Any]) -> str:
    fields = optional_object(content, "response").items()
    shown = [strip_mark(f"{name}: {value}") for name, value in fields if isinstance(value, str | int | float)]
    return "\n".join((_ours("Form", _optional(content, "text")), *shown))


def _notice(text: str) -> Callable[[dict[str, Any]], str]:
    return lambda _content: _ours(text)


# https://www.infobip.com/docs/api/channels/whatsapp/whatsapp-inbound-messages/receive-whatsapp-inbound-messages
WHATSAPP_KINDS: Kinds = {
    "TEXT": _only("text"),
    "BUTTON": _only("text"),
    "INTERACTIVE_BUTTON_REPLY": _only("title"),
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
    "TEXT": _only("text"),
    "SUBJECT": _only("text"),
    "BUTTON_REPLY": _only("text"),
    "LIST_REPLY": _only("text"),
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
    return _shown(kind, read(content))


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
    return _optional(optional_object(content, "body"), "text")


def _linked_file(label: str) -> Callable[[dict[str, Any]], str]:
    def read(content: dict[str, Any]) -> str:
        return _ours(label, _optional(content, "caption"), _optional(content, "url"))

    return read


def _conversation_location(content: dict[str, Any]) -> str:
    return _location({"name": content.get("locationName"), **content})


def _conversation_contacts(content: dict[str, Any]) -> str:
    """Read names in either of the two spellings."""
    contacts = []
    for contact in objects_of(content, "contacts"):
        name = optional_object(contact, "name")
        shown = name.get("formattedName") or name.get("formatted_name") or name.get("firstName") or name.get("first_name")
        contacts.append({**contact, "name": {"formattedName": shown}})
    return _contacts({"contacts": contacts})


def _interactive(content: dict[str, Any]) -> str:
    """Read a question with its choices, each on a line of its own."""
    inner = optional_object(content, "interactive")
    texts = [_optional(optional_object(inner, place), "text") for place in ("header", "body", "footer")]
    action = optional_object(inner, "action")
    rows = [row for section in objects_of(action, "sections") for row in objects_of(section, "rows")]
    choices = [_optional(each, "title") for each in [*objects_of(action, "buttons"), *rows]]
    link = " ".join(filter(None, (_optional(action, "displayText"), _optional(action, "url"))))
    return "\n".join([*filter(None, texts), *(f"• {choice}" for choice in [*choices, link] if choice)])


def _media_template(content: dict[str, Any]) -> str:
    values = optional_object(content, "body").get("placeholders")
    listed = values if isinstance(values, list) else []
    shown = [strip_mark(str(each)) for each in listed if isinstance(each, str | int | float)]
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
