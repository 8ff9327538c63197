"""The neutral words: texts are cut and cleaned."""

import time

import pytest

from connector.events import clean, split_text, strip_mark

FAMILY = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"  # one character to a reader, five code points


@pytest.mark.parametrize(
    ("text", "limit", "parts"),
    [
        ("", 10, []),
        ("short", 10, ["short"]),
        ("exactly te", 10, ["exactly te"]),
        ("one two three", 10, ["one two", "three"]),
        ("one two\nthree four", 10, ["one two", "three four"]),
        ("0123456789 tail", 10, ["0123456789", "tail"]),  # the space stands just behind the limit
        ("0123456789tail", 10, ["0123456789", "tail"]),
        ("ab 0123456789", 10, ["ab 0123456", "789"]),  # a space in the first half is left alone
        ("x" * 25, 10, ["x" * 10, "x" * 10, "x" * 5]),
        (FAMILY * 3, 12, [FAMILY * 2, FAMILY]),
        ("e\u0301" * 4, 5, ["e\u0301" * 2, "e\u0301" * 2]),
        ("\N{REGIONAL INDICATOR SYMBOL LETTER H}\N{REGIONAL INDICATOR SYMBOL LETTER R}" * 3, 3, None),
    ],
)
def test_a_text_is_cut_at_white_space_or_between_characters(text: str, limit: int, parts: list[str] | None) -> None:
    cut = list(split_text(text, limit))
    assert cut == (parts if parts is not None else [text[:2]] * 3)


@pytest.mark.parametrize(
    "text", ["word " * 3000 + "end", "x" * 12_345, FAMILY * 2000, "line\n" * 2500 + "end", "e\u0301" * 5000]
)
@pytest.mark.parametrize("limit", [4000, 4096, 100, 7])
def test_no_part_is_too_long_and_nothing_is_lost(text: str, limit: int) -> None:
    parts = list(split_text(text, limit))
    assert all(len(part) <= limit for part in parts)
    bare = text.replace(" ", "").replace("\n", "")
    assert "".join(parts).replace(" ", "").replace("\n", "") == bare


def test_a_character_longer_than_the_limit_is_cut_all_the_same() -> None:
    parts = list(split_text("e" + "\u0301" * 50, 10))
    assert all(len(part) <= 10 for part in parts)
    assert "".join(parts) == "e" + "\u0301" * 50


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("a\x00b", "ab"),
        ("a\ud83d", "a"),
        ("\udc00\ud800", ""),
        ("👋 Grüße\n\t\u200f", "👋 Grüße\n\t\u200f"),
    ],
)
def test_only_what_cannot_be_stored_is_dropped(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    cleaned.encode()


def test_what_looks_like_our_mark_is_taken_out() -> None:
    assert strip_mark("▸ a ▶ b ► c ‣ d ⏵ e > f") == "> a > b > c > d > e > f"


@pytest.mark.parametrize("text", ["x" * 4096 + "\n", "x" * 4096 + " " * 5000 + "y", "x" * 4096 + "\n" * 9000])
def test_no_part_is_empty_or_white(text: str) -> None:
    assert all(part.strip() for part in split_text(text, 4096))


def test_what_a_reader_sees_as_one_character_stays_whole() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"  # one family of seven code points
    parts = list(split_text(family * 1000, 4096))
    assert "".join(parts) == family * 1000
    assert all(len(part) % len(family) == 0 for part in parts)


@pytest.mark.parametrize("text", ["x", "x ", "\U0001f468\u200d\U0001f469", "\n"])
def test_a_text_of_megabytes_is_cut_in_the_time_that_its_length_takes(text: str) -> None:
    def seconds(length: int) -> float:
        whole = text * (length // len(text))
        began = time.process_time()
        assert all(len(part) <= 4096 for part in split_text(whole, 4096))
        return time.process_time() - began

    assert seconds(16 << 20) < 12 * min(seconds(2 << 20) for _ in range(3)) + 0.1
