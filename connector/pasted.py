"""What comes along when a value is copied from a page, a mail or a chat, and never belongs to it."""

import unicodedata


def pasted(text: str) -> str:
    """Take out of an address, an id or a number what nobody sees: zero-width and direction marks, blanks around it."""
    return "".join(each for each in text if unicodedata.category(each) not in ("Cf", "Mn")).strip()


def can_be_sent(text: str) -> bool:
    """Tell whether a header can hold a text as it is, byte for byte, over both transports."""
    return text.isascii() and text.isprintable() and not text.startswith(" ")
