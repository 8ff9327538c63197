"""Takes what Infobip posts at once apart, so that a result which cannot be read costs its neighbours nothing."""

import re
from dataclasses import dataclass
from itertools import islice

from connector.events import UnexpectedPayload
from connector.infobip.webhooks import MOST_RESULTS, results_of
from connector.payload import parse_json

MOST_TOKENS = 500_000  # in which results are looked for; the door takes no delivery of more values
# what the structure of JSON hangs on; a text that is not ended goes on to the end
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+(?:"|\Z)|[][{},]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Unread:
    """What of a delivery cannot be read as JSON, as it came."""

    raw: bytes
    problem: str


def take_apart(body: bytes) -> list[object]:
    """Give the results of a delivery, each as the value that it is, or ``Unread``.

    As a rule the whole is read at once. Where that fails, for a byte that is not UTF-8, a number of thousands of digits or
    lists nested too deep, the results are cut apart and read one by one.
    """
    try:
        return results_of(parse_json(body, "the delivery"))
    except UnexpectedPayload as exc:
        whole = Unread(body, str(exc))
    pieces = _pieces(body)
    return [_read(piece) for piece in pieces] if 0 < len(pieces) <= MOST_RESULTS else [whole]


def _read(piece: bytes) -> object:
    try:
        return parse_json(piece.decode(errors="replace"), "the result")
    except UnexpectedPayload as exc:
        return Unread(piece, str(exc))


def _pieces(body: bytes) -> list[bytes]:
    """Cut out the results, up to one more than there may be; what follows where their list does not end is one more."""
    pieces: list[bytes] = []
    depth, begin, name, inside = 0, 0, b"", False
    for found in islice(_TOKEN.finditer(body), MOST_TOKENS):
        token = found.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth == 2 and token == b"[" and name == b'"results"':
                begin, inside = found.end(), True
        elif token in (b"]", b"}"):
            depth -= 1
            if inside and depth < 2:
                pieces.append(body[begin : found.start()])
                inside = False
                break
        elif token == b"," and inside and depth == 2:
            pieces.append(body[begin : found.start()])
            begin = found.end()
            if len(pieces) > MOST_RESULTS:
                return pieces
        elif depth == 1 and token != b",":
            name = token
    if inside:
        pieces.append(body[begin:])
    return [piece for piece in pieces if piece.strip()]
