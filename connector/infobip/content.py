"""How the content of a message reads as text: the mark and the label are ours, and what follows is somebody else's.

Somebody wrote it, so every content reads as something: where what is needed is missing, the line says so, and what its kind
is not known to hold follows on lines of its own (words.py).
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

from connector.events import MARK, clean, strip_mark
from connector.infobip.words import unread
from connector.payload import objects_of, optional_object

Kinds = dict[str, Callable[[dict[str, Any]], str]]

MOST_PARTS = 100  # of one message; end users send some ten
LONGEST_TEXT = 200_000  # characters of a message; WhatsApp's own texts have 4,096
MOST_FIELDS = 200  # of one form; a name with its path is shown up to so many characters:
LONGEST_NAME = 100
MOST_FURTHER = 20  # lines of what a kind is not known to hold
_GROUP_FIELDS = ("groupId", "group_id", "groupName", "group")


def _ours(label: str, *theirs: str) -> str:
    rest = " ".join(part for part in theirs if part)
    return f"{MARK} {label}: {rest}" if rest else f"{MARK} {label}"


MORE = _ours("More was sent than can be shown here")


def line_of(content: object, kinds: Kinds) -> str:
    """Read a content as text, by the kinds of the form that it came in; what an unknown kind holds is read all the same."""
    if isinstance(content, str):
        return _shown("", strip_mark(content))
    if isinstance(content, list) and content:
        return lines_of(content, kinds)
    if not isinstance(content, dict):
        return _shown("", "")
    kind = _optional(content, "type")
    read = kinds.get(kind.upper())
    of_any_kind = bool(kind) and read is None and kind.upper() not in DATA_KINDS
    text = _with_further((read(content) if read else "") or _words(content), content, of_any_kind=of_any_kind)
    if kind and read is None and text:
        text = _ours(_name(kind), text)
    return _shown(kind, "\n".join(filter(None, [text, _referral(content)])))


def lines_of(contents: list[Any], kinds: Kinds) -> str:
    """Read the parts of one message, each on lines of its own; of more than anybody sends the rest is only mentioned."""
    lines = [line_of(content, kinds) for content in contents[:MOST_PARTS]]
    return "\n".join([*lines, *([MORE] if len(contents) > MOST_PARTS else [])])


def bounded(text: str) -> str:
    """Cut a message that is longer than anybody writes: each of the parts that it would become costs those behind it."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}\n{MORE}"


def group_line(*sources: object) -> str:
    """Say that a message was written in a group, and whom an answer reaches; empty for one that was not.

    What a group's messages look like is not published, but for the ``groupId`` of what they answer to.
    """
    holders = [source for source in sources if isinstance(source, dict)]
    holders += [inner for source in holders if isinstance(inner := source.get("context"), dict)]
    in_group = any(source.get(field) for source in holders for field in _GROUP_FIELDS)
    return _ours("Written in a WhatsApp group. Your answer goes to this person alone, not to the group") if in_group else ""


def _with_further(text: str, content: dict[str, Any], *, of_any_kind: bool = False) -> str:
    """Add what somebody wrote where the kind of message has no place for it."""
    further, more = unread(content, clean(text), most=MOST_FURTHER, of_any_kind=of_any_kind)
    lines = [text, *(_ours("Also", each) for each in further)] if text else further
    return "\n".join([*lines, *([MORE] if more else [])])


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
    """Read contact cards; their names come in two spellings."""
    lines = []
    for contact in objects_of(content, "contacts"):
        name, company = optional_object(contact, "name"), optional_object(contact, "org")
        whole = _optional(name, "formattedName") or _optional(name, "formatted_name")
        parts = (("firstName", "first_name"), ("middleName", "middle_name"), ("lastName", "last_name"))
        shown = [whole or " ".join(filter(None, (_optional(name, a) or _optional(name, b) for a, b in parts)))]
        shown += [_optional(phone, "phone") for phone in objects_of(contact, "phones")]
        shown += [_optional(email, "email") for email in objects_of(contact, "emails")]
        shown += [_optional(company, each) for each in ("company", "department", "title")]
        for address in objects_of(contact, "addresses"):
            shown += [_optional(address, each) for each in ("street", "city", "state", "zip", "country")]
        shown += [_optional(link, "url") for link in objects_of(contact, "urls")]
        shown.append(_optional(contact, "birthday"))
        lines.append(_ours("Contact", ", ".join(filter(None, shown))))
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
    return "\n".join((_ours("Form", _optional(content, "text")), *_fields("", content.get("response"))))


def _fields(name: str, value: object) -> list[str]:
    """Read the fields of a form, each on a line: several choices are one field, and a nested field is named by its path.

    Of more fields than a form has the rest is only mentioned, and of a longer name the end is left out, so that what is
    read is never much longer than what came.
    """
    lines: list[str] = []
    waiting: list[tuple[str, object]] = [(name, value)]
    while waiting and len(lines) < MOST_FIELDS:
        name, value = waiting.pop()
        if isinstance(value, dict):
            inner = list(islice(value.items(), MOST_FIELDS + 1))
            waiting += [((f"{name}.{each}" if name else each)[:LONGEST_NAME], held) for each, held in reversed(inner)]
        elif isinstance(value, list):
            parts = value[: MOST_FIELDS + 1]
            waiting += [(name, each) for each in reversed(parts) if isinstance(each, dict | list)]
            choices = ", ".join(str(each) for each in parts if isinstance(each, str | int | float))
            lines += _field(name, choices)
        elif isinstance(value, str | int | float):
            lines += _field(name, str(value))
    return [*lines, MORE] if waiting else lines


def _field(name: str, said: str) -> list[str]:
    return [strip_mark(f"{name}: {said}" if name else said)] if said else []


def _form(content: dict[str, Any]) -> str:
    """Read the pages of a form: each one's question, and what was chosen or typed."""
    lines = [_ours("Form", _optional(content, "text"))]
    for page in objects_of(content, "selections"):
        lines.append(_optional(page, "text"))
        for item in objects_of(page, "items"):
            lines.append(": ".join(filter(None, (_optional(item, "title"), _optional(item, "value")))))
    return "\n".join([*filter(None, lines), *_fields("", content.get("response"))])


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
    "FORM_RESPONSE": _form,
}
# what an end user's phone answers, in which nobody wrote anything
DATA_KINDS = {
    *("INTERACTIVE_PAYMENT_CONFIRMATION", "INTERACTIVE_PAYMENT_ACKNOWLEDGEMENT", "INTERACTIVE_CALL_PERMISSION_REPLY"),
    *("INTERACTIVE_IN_THREAD_AUTHENTICATION_REPLY", "AUTHENTICATION_RESPONSE", "PAYMENT_RESPONSE"),
}

# A conversation's messages, as the bot's designer and the end user wrote them. Nothing says what `content` of an inbound
# reply holds, and the list of kinds is open: what is not here reads by the first text that it has.
# https://www.infobip.com/docs/api/customer-engagement/conversations
SILENT = {"EMPTY", "UNKNOWN", "CLOSE_CONVERSATION"}  # unless somebody's words are in it
TYPING = "TYPING_INDICATOR"


def conversation_line(kind: str, content: object) -> str:
    """Read a message of a conversation as text; empty for what nobody would see.

    :param kind: its ``contentType``; empty in conversation events, which do not tell it
    """
    if kind == TYPING:
        return ""
    if not isinstance(content, dict):
        return line_of(content, {}) if content or kind not in SILENT else ""
    if kind in SILENT:
        return clean(_with_further(_first_text(content), content)).strip()
    read = _CONVERSATION_KINDS.get(kind or _guessed(content), _first_text)
    text = _with_further(read(content) or _words(content), content)
    return _shown(kind, "\n".join(filter(None, [text, _referral(content)])))


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
        return _ours(label, _optional(content, "caption") or _optional(content, "text"), _optional(content, "url"))

    return read


def _conversation_location(content: dict[str, Any]) -> str:
    return _location({"name": content.get("locationName"), **content})


def _interactive(content: dict[str, Any]) -> str:
    """Read a question with its choices, each on a line of its own."""
    inner = optional_object(content, "interactive")
    texts = [_optional(optional_object(inner, place), "text") for place in ("header", "body", "footer")]
    action = optional_object(inner, "action")
    rows = [row for section in objects_of(action, "sections") for row in objects_of(section, "rows")]
    choices = [_list_reply(each).replace("\n", ": ") for each in [*objects_of(action, "buttons"), *rows]]
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
    return "\n".join(filter(None, (_first_text(content), *_fields("", content.get("response"))))) or _ours("Form")


_CONVERSATION_KINDS: Kinds = {
    "IMAGE": _linked_file("Image"),
    "VIDEO": _linked_file("Video"),
    "DOCUMENT": _linked_file("Document"),
    "FILE": _linked_file("File"),
    "AUDIO": _linked_file("Audio"),
    "VOICE": _linked_file("Voice message"),
    "WHATSAPP_STICKER": _linked_file("Sticker"),
    "LOCATION": _conversation_location,
    "CONTACT": _contacts,
    "INTERACTIVE": _interactive,
    "INTERACTIVE_LIST_REPLY": _list_reply_or_first_text,
    "INTERACTIVE_FLOW_REPLY": _data_reply,
    "MEDIA_TEMPLATE": _media_template,
    "ORDER": _order,
}
