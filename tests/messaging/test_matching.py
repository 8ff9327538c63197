"""Which of two the rep reads, a line of a transcript or the webhook that brought it too: by ids, words and order alone."""

from connector.events import MARK
from messaging.matching import Place, Said, Settlement, Written, likeness_of, settle

NEXT = iter(range(1, 10_000))


def said(text: str, channel_id: str = "", *, bot: bool = False, known: bool = False) -> Said:
    return Said(next(NEXT), channel_id, likeness_of(text), by_end_user=not bot, known=known)


def left(text: str, channel_id: str, *, due: bool = True, elsewhere: bool = False) -> Written:
    return Written(channel_id, likeness_of(text), Place.LEFT, due=due, elsewhere=elsewhere)


def live(text: str, channel_id: str) -> Written:
    return Written(channel_id, likeness_of(text), Place.LIVE)


def before(text: str, channel_id: str) -> Written:
    return Written(channel_id, likeness_of(text), Place.BEFORE)


def decide(lines: list[Said], written: list[Written], *, move: bool = True) -> Settlement:
    settlement = settle(lines, written, move=move)
    assert sorted([*settlement.shown, *settlement.left_out]) == [each.id for each in lines if not each.known]
    return settlement


def test_what_was_left_to_the_transcript_and_is_not_in_it_is_missing() -> None:
    lines = [said("Hi", "w1"), said("How can I help?", bot=True)]
    settlement = decide(lines, [left("Hi", "w1"), left("A person", "w2"), left("of long ago", "w0", due=False)])
    assert settlement.shown == [each.id for each in lines]
    assert (settlement.found, settlement.missing) == (["w1"], ["w2"])


def test_without_ids_a_line_is_known_by_what_it_says_and_each_counts_once() -> None:
    lines = [said("yes"), said("yes")]
    settlement = decide(lines, [left("yes", "w1"), left("yes", "w2"), left("yes", "w3")])
    assert settlement.found == ["w2", "w3"] and settlement.missing == ["w1"]
    assert settlement.channel_ids == {lines[0].id: "w2", lines[1].id: "w3"}


def test_a_line_with_an_id_is_not_taken_for_another_that_says_the_same() -> None:
    lines = [said("yes", "w1"), said("yes")]
    settlement = decide(lines, [left("yes", "w1"), left("yes", "w2")])
    assert settlement.channel_ids == {lines[0].id: "w1", lines[1].id: "w2"} and settlement.missing == []


def test_what_an_older_conversation_left_is_not_taken_for_a_line_of_this_one() -> None:
    lines = [said("yes")]
    settlement = decide(lines, [left("yes", "w1"), left("yes", "w0", elsewhere=True, due=False)])
    assert settlement.found == ["w1"]


def test_a_picture_is_the_same_one_under_either_link() -> None:
    lines = [said(f"{MARK} Image: bill https://e.com/1"), said(f"{MARK} Voice message: https://e.com/2")]
    settlement = decide(lines, [left(f"{MARK} Image: bill", "w1"), left(f"{MARK} Voice message", "w2")])
    assert settlement.found == ["w1", "w2"]


def test_two_pictures_are_told_apart_by_what_was_written_under_them() -> None:
    lines = [said(f"{MARK} Image: my policy https://e.com/1")]
    settlement = decide(lines, [left(f"{MARK} Image: my policy", "w1"), left(f"{MARK} Image: my car", "w2")])
    assert (settlement.found, settlement.missing) == (["w1"], ["w2"])


def test_a_line_of_ours_beside_somebodys_words_makes_no_other_message_of_them() -> None:
    """A transcript tells neither that it was an ad's, nor that it was written in a group."""
    ad = left(f"hello\n{MARK} From an advertisement: https://e.com/ad", "w1")
    group = left(f"{MARK} Written in a WhatsApp group\nhi all", "w2")
    settlement = decide([said("hello"), said("hi all")], [ad, group])
    assert (settlement.found, settlement.missing) == (["w1", "w2"], [])


def test_what_waits_above_the_hold_stays_there() -> None:
    lines = [said("A person", "w1"), said("One moment", bot=True), said("hello?", "w2"), said("anybody?")]
    settlement = decide(lines, [left("A person", "w1"), live("hello?", "w2"), live("anybody?", "w3")])
    assert settlement.left_out == [lines[2].id, lines[3].id]


def test_what_waits_is_shown_in_the_transcript_where_something_that_only_stands_there_was_written_later() -> None:
    lines = [said("first", "w1"), said("second", "w2"), said("third", "w3")]
    written = [left("second", "w2"), live("first", "w1"), live("third", "w3")]
    assert decide(lines, written).shown == [lines[0].id, lines[1].id]
    assert decide(lines, written, move=False).shown == [lines[1].id]


def test_what_the_rep_read_in_an_earlier_session_and_what_lies_before_it_is_left_out() -> None:
    lines = [
        said("Hi", "w1", known=True),
        said("a bot beside the rep", bot=True),
        said("to the rep", "w2"),
        said("me again", "w3"),
        said("How can I help?", bot=True),
    ]
    settlement = decide(lines, [before("Hi", "w1"), before("to the rep", "w2"), left("me again", "w3")])
    assert settlement.shown == [lines[3].id, lines[4].id] and settlement.missing == []


def test_without_ids_what_was_relayed_in_an_earlier_session_is_known_by_what_it_says() -> None:
    lines = [said("Hi", known=True), said("yes"), said("thanks"), said("yes")]
    settlement = decide(lines, [before("yes", "w2"), before("thanks", "w3"), left("yes", "w4")])
    assert settlement.shown == [lines[3].id] and settlement.found == ["w4"]


def test_what_is_left_and_stands_before_what_the_rep_has_read_is_relayed_all_the_same() -> None:
    lines = [said("me again", "w3"), said("to the rep", "w2")]
    settlement = decide(lines, [before("to the rep", "w2"), left("me again", "w3")])
    assert settlement.shown == [] and settlement.missing == ["w3"]
