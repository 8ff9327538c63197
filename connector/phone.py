"""One reading of a phone number, whoever wrote it: people, Infobip, Salesforce, a customer's own systems.

A number is kept as the digits of its international form, without a plus. WhatsApp and the phone networks disagree on some
countries' mobile numbers, so one person is known under several spellings: those are aliases, never different people.

https://en.wikipedia.org/wiki/E.164 and https://github.com/google/libphonenumber
"""

import re
import unicodedata

import phonenumbers

from connector.events import clean
from connector.pasted import pasted

LEAST_DIGITS, MOST_DIGITS = 5, 15

_PLAIN = re.compile(rf"[1-9][0-9]{{{LEAST_DIGITS - 1},{MOST_DIGITS - 1}}}")
# what a spreadsheet makes of a number: the digits behind the dot are not its own
_FORMULA = re.compile(r"\+?\d{6,}\.(\d{1,2}|0+)")
_BETWEEN = {"(", ")", ".", "/", "\u00b7", "\u2022"}
_PLUS = re.compile(r"[\s(]*\+")
_FOREIGN = "00"  # how most countries dial abroad
# https://faq.whatsapp.com/1294841057948784
_BRAZIL = re.compile(r"55([1-9]\d)(9?)([6-9]\d{7})")
_MEXICO = re.compile(r"52(1?)([1-9]\d{9})")
_ARGENTINA = re.compile(r"54(9?)([1-9]\d{9})")


class NotANumber(ValueError):
    """What was given is no phone number; the text says why, for the person who gave it."""


def digits_of(value: object) -> str:
    """Read a number as it may be written: spaces, dashes, dots, brackets, direction marks, a plus or 00 in front.

    :param value: a text, or a whole number
    :return: digits; empty where it is no number
    """
    try:
        return read(value)
    except NotANumber:
        return ""


def parse(value: object) -> str:
    """Read a number that a person or a program gives us to write to.

    :return: digits of the international form
    :raises NotANumber: also where no country has such a number
    """
    digits = read(value)
    try:
        number = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        raise NotANumber("It does not begin with the code of a country. Write it in the international form.") from None
    if not phonenumbers.is_possible_number(number):
        raise NotANumber("It is too long or too short for its country. Write it in the international form.")
    return digits


def read(value: object) -> str:
    """Read a number as it may be written.

    :return: digits of the international form
    :raises NotANumber: saying what is wrong
    """
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value  # as both platforms write it in every message
    if type(value) is int and 0 < value < 10**MOST_DIGITS:
        value = str(value)
    if not isinstance(value, str):
        raise NotANumber("It is not a text of digits.")
    text = pasted(unicodedata.normalize("NFKC", value[:200]))
    if _FORMULA.fullmatch("".join(text.split())):
        raise NotANumber("It ends in a decimal point and digits, as a spreadsheet writes numbers. Leave them out.")
    if plus := _PLUS.match(text):  # also within the brackets of the country's code
        text = text[plus.end() :]
    digits = ""
    for each in text:
        digit = unicodedata.digit(each, None)
        if digit is not None:
            digits += str(digit)
        elif not _is_between(each):
            raise NotANumber("It holds something else than digits, spaces, dashes, dots and brackets.")
    if not plus:
        digits = digits.removeprefix(_FOREIGN)
    if digits.startswith("0"):
        raise NotANumber("It has no code of a country. Write it in the international form.")
    if not LEAST_DIGITS <= len(digits) <= MOST_DIGITS:
        raise NotANumber(f"It has {len(digits)} digits; a phone number has {LEAST_DIGITS} to {MOST_DIGITS}.")
    return digits


def _is_between(character: str) -> bool:
    return character.isspace() or character in _BETWEEN or unicodedata.category(character) == "Pd" or character == "\u2212"


def address_of(value: object) -> str:
    """Read where an end user is found: a number, as digits, or an id such as ``HR.1234567890``; empty for all else."""
    if digits := digits_of(value):
        return digits
    text = pasted(clean(value[:200])) if isinstance(value, str) else ""
    is_id = any(each.isalpha() for each in text) or (text.isdecimal() and len(text) > MOST_DIGITS)
    return text if is_id else ""


def spellings_of(address: str) -> tuple[str, ...]:
    """Name an address, and its other spellings."""
    return (address, *aliases_of(address))


def aliases_of(address: str) -> tuple[str, ...]:
    """Name the other spellings of an end user's address; none for most."""
    if match := _BRAZIL.fullmatch(address):
        area, nine, rest = match.groups()
        return (f"55{area}{'' if nine else '9'}{rest}",)
    if match := _MEXICO.fullmatch(address):
        one, rest = match.groups()
        return (f"52{'' if one else '1'}{rest}",)
    if match := _ARGENTINA.fullmatch(address):
        nine, rest = match.groups()
        return (f"54{'' if nine else '9'}{rest}",)
    return ()


def shown(address: str) -> str:
    """Write an address for people: a number with its country and in groups, anything else as it is."""
    if not (address.isascii() and address.isdigit()):
        return address
    try:
        return phonenumbers.format_number(phonenumbers.parse(f"+{address}"), phonenumbers.PhoneNumberFormat.INTERNATIONAL)
    except phonenumbers.NumberParseException:
        return f"+{address}"
