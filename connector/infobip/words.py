"""Finds what somebody wrote wherever it stands in a content, so that no word is lost for the place where it came.

Platforms add fields without notice, and most of those hold no words. So there are places that hold words whatever they
say, places that never do, and of all others what has the look of a phrase.
"""

import re
from typing import Any, NamedTuple

from connector.events import clean, strip_mark

MOST_SEEN = 1_000  # values that are looked at; a content has some ten
MOST_HITS = 20  # of a short text in what is shown, that are looked at
MOST_SHOWN = 100_000  # characters of what is shown, in which a text is looked for
SHORT = 200  # characters; a longer text does not stand in another one by chance
PLACES_OF_WORDS = {
    *("text", "caption", "title", "subtitle", "subTitle", "description", "body", "comment", "message", "note", "reply"),
    *("answer", "question", "emoji", "label", "value", "values", "footer", "header", "response", "contacts", "selections"),
}
# of the platforms, or repeating what stands elsewhere, whatever they hold
OTHER_PLACES = {"context", "referral", "socialContext", "identity", "price", "error", "malware"}
# ids, addresses of files, names of things, what a bot's designer put behind a button; in them may stand more
NO_WORDS = {
    *("type", "id", "url", "payload", "postbackData", "cleanText", "keyword", "action", "format", "formatType", "language"),
    *("waId", "countryCode", "firstName", "lastName", "middleName", "first_name", "last_name", "middle_name"),
    *("catalogId", "currency", "productRetailerId", "flow_token", "pageIdentifier", "mimeType", "mime_type", "sha256"),
    *("authCode", "templateName", "createdAt", "updatedAt"),
}
_PHRASE = re.compile(r"[^\W\d_]\S*\s+\S*[^\W\d_]")  # two words: neither an id, nor a time, nor an address
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://\S+\s*\Z", re.IGNORECASE)


class Unread(NamedTuple):
    """What of a content is not shown; ``more`` says that there is, or may be, more of it."""

    words: list[str]
    more: bool


def unread(content: dict[str, Any], shown: str, *, most: int, of_any_kind: bool) -> Unread:
    """Find what somebody wrote and the text that is shown does not hold, each once.

    :param shown: as it will be shown, cleaned
    :param of_any_kind: nothing is known of this kind of content, so each place may hold words
    """
    found: dict[str, None] = {}
    seen = set[str]()
    shown = shown[:MOST_SHOWN]
    waiting: list[tuple[object, bool]] = [(content, of_any_kind)]  # with whether it stands in a place of words
    for _ in range(MOST_SEEN):
        if not waiting:
            return Unread(list(found), more=False)
        value, of_words = waiting.pop()
        if isinstance(value, dict):
            waiting += [
                (each, of_words or place in PLACES_OF_WORDS)
                for place, each in reversed(value.items())
                if place not in OTHER_PLACES and not (place in NO_WORDS and isinstance(each, str))
            ]
        elif isinstance(value, list):
            waiting += [(each, of_words) for each in reversed(value)]
        elif isinstance(value, str) and (of_words or _is_phrase(value)):
            if value in seen:
                continue
            seen.add(value)
            text = strip_mark(clean(value)).strip()
            if text and text not in found and not _holds(shown, text):
                if len(found) == most:
                    return Unread(list(found), more=True)
                found[text] = None
    return Unread(list(found), more=bool(waiting))


def _is_phrase(value: str) -> bool:
    return _PHRASE.search(value[:SHORT]) is not None and not _ADDRESS.match(value)


def _holds(shown: str, text: str) -> bool:
    """Tell whether a text holds another one, as words of its own. Each message is asked, so nothing is compiled for it.

    Where it is the beginning of many words it counts as missing: what is shown twice harms less than endless looking.
    """
    at = shown.find(text)
    for _ in range(MOST_HITS):
        if at < 0:
            return False
        before, after = shown[at - 1 : at] if at else "", shown[at + len(text) : at + len(text) + 1]
        if len(text) > SHORT or not (before.isalnum() or after.isalnum()):
            return True
        at = shown.find(text, at + 1)
    return False
