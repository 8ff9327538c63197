"""One number however it is written, one person however their country spells it, and never a stranger."""

import time

import pytest

from connector.phone import NotANumber, address_of, aliases_of, digits_of, parse, shown, spellings_of

ADA = "385991234567"


@pytest.mark.parametrize(
    "written",
    [
        "385991234567",
        "+385991234567",
        "00385991234567",
        "  +385 99 123 4567\n",
        "+385 (99) 123-4567",
        "(+385) 99/123-4567",
        "385.99.123.4567",
        "385/99/1234567",
        "385991.234567",  # more than a spreadsheet adds
        "385\u00b799\u00b7123\u20224567",
        "+385\u00a099\u2009123\u202f4567",  # spaces that are none to an eye
        "+385\u201099\u2011123\u20124567\u2013",  # every kind of dash
        "+385\u2212991234567",
        "\u202a+385 99 123 4567\u202c",  # as copied out of an address book
        "\u200e385\u200b991234567\ufeff\u2066\u2069",
        "385\ufe0f991234567\ufe0e",  # as a phone's keyboard of pictures leaves digits
        "\uff0b\uff13\uff18\uff15\uff19\uff19\uff11\uff12\uff13\uff14\uff15\uff16\uff17",  # full-width
        "\u0663\u0668\u0665\u0669\u0669\u0661\u0662\u0663\u0664\u0665\u0666\u0667",  # Arabic digits
        385991234567,
    ],
)
def test_a_number_is_the_same_however_it_is_written(written: object) -> None:
    assert digits_of(written) == parse(written) == address_of(written) == ADA


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("385991234567.0", "decimal point"),
        ("+385991234567.00", "decimal point"),
        ("+49 1512 3456789.0", "decimal point"),
        ("49151234567.000", "decimal point"),
        (385991234567.0, "not a text"),
        ("3.85991234567E+11", "something else"),
        ("385991234567 ext 3", "something else"),
        ("385 99 +1234567", "something else"),
        ("385991234567,385991234568", "something else"),
        ("0991234567", "no code of a country"),
        ("+0385991234567", "no code of a country"),
        ("+00385991234567", "no code of a country"),
        ("++385991234567", "something else"),
        ("385+991234567", "something else"),
        ("", "0 digits"),
        ("1234", "4 digits"),
        ("3859912345671234", "16 digits"),
        (True, "not a text"),
        (None, "not a text"),
        (["385991234567"], "not a text"),
        (-385991234567, "not a text"),
        pytest.param(10**5000, "not a text", id="enormous"),
    ],
)
def test_what_is_no_number_is_none_and_says_why(written: object, says: str) -> None:
    assert digits_of(written) == ""
    with pytest.raises(NotANumber, match=says):
        parse(written)


@pytest.mark.parametrize("written", ["3859912345670", "+999123456789", "1555000"])
def test_nobody_writes_to_a_number_that_no_country_has(written: str) -> None:
    """A digit too many, such as one that a spreadsheet added, reaches a stranger."""
    assert digits_of(written)  # who writes to us from it is read all the same
    with pytest.raises(NotANumber, match="international form"):
        parse(written)


@pytest.mark.parametrize(
    ("one", "other"),
    [("5511987654321", "551187654321"), ("5215512345678", "525512345678"), ("5491123456789", "541123456789")],
)
def test_brazil_mexico_and_argentina_spell_one_person_in_two_ways(one: str, other: str) -> None:
    assert aliases_of(one) == (other,) and aliases_of(other) == (one,)
    assert set(spellings_of(one)) == set(spellings_of(other)) == {one, other}


@pytest.mark.parametrize(
    "address",
    [
        *(ADA, "551133334444", "447700900123", "15550001111", "HR.1234567890", ""),
        *("5501987654321", "520123456789", "540123456789"),  # no area begins with a nought
    ],
)
def test_everybody_else_is_spelt_in_one_way(address: str) -> None:
    assert aliases_of(address) == ()


def test_an_id_that_is_no_number_stays_what_it_is() -> None:
    assert address_of(" HR.1234567890\u200b") == shown("HR.1234567890") == "HR.1234567890"
    assert address_of("24060905360217212") == "24060905360217212"  # of another channel
    assert address_of("0991234567") == address_of("1234") == ""  # a number, and none that can be written to
    assert address_of("...") == address_of("385991234567.0") == address_of(1.5) == address_of({}) == ""


def test_of_an_endless_text_the_beginning_is_looked_at() -> None:
    """Anybody who may send us a number may send megabytes of it."""
    began = time.process_time()
    assert digits_of("(" * 5_000_000) == "" and len(address_of("x" * 5_000_000)) == 200
    assert time.process_time() - began < 0.2


def test_a_number_is_shown_in_one_form() -> None:
    assert shown(ADA) == "+385 99 123 4567"
    assert shown("999123456789") == "+999123456789"
    assert shown("") == ""
