"""Reading multipart bodies."""

import re


class Part:
    """One part of a multipart body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        headers = dict(line.split(":", 1) for line in head.decode("utf-8", "replace").split("\r\n") if ":" in line)
        self.headers = {name.strip().lower(): value.strip() for name, value in headers.items()}
        self.body = body
        disposition = self.headers.get("content-disposition", "")
        self.name = _parameter(disposition, "name") if disposition.startswith("form-data") else None
        self.file_name = _parameter(disposition, "filename")
        self.content_type = self.headers.get("content-type", "").split(";")[0].strip().lower()


def _parameter(header: str, name: str) -> str | None:
    found = re.search(rf';\s*{name}="([^"]*)"', header) or re.search(rf";\s*{name}=([^;\s]+)", header)
    return found[1] if found else None


def read_multipart(content_type: str, body: bytes) -> list[Part]:
    """Split a multipart body: https://www.rfc-editor.org/rfc/rfc7578

    :raises ValueError: if it is none
    """
    if not content_type.lower().startswith("multipart/form-data"):
        raise ValueError("Content type is not multipart/form-data")
    boundary = _parameter(content_type, "boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + (boundary or "").encode())
    if not boundary or len(pieces) < 3 or pieces[-1].strip() != b"--":
        raise ValueError("The body does not fit the boundary")
    parts = []
    for piece in pieces[1:-1]:
        head, separator, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not separator:
            raise ValueError("A part has no headers")
        parts.append(Part(head, content))
    return parts
