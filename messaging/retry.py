"""The rules of repetition: which result is tried again, how soon, how long; and when a message is given up.

| result | what follows |
|---|---|
| sent, or refused for good | the message is done, the lane goes on |
| refused for now, or in doubt | the same message again, after a pause that doubles up to 20 s, never sooner than asked |
| in doubt towards WhatsApp | likewise, after at least 10 s: a report may tell what became of it |
| fails while others of that endpoint pass | given up after eight such tries, or fifteen minutes of them |
| the endpoint fails for all | waits; a message of any age is given up after 72 hours only |
| a rep's free text whose 24-hour window has closed | given up: WhatsApp would refuse it |
| never called (stopping, no time left) | not a try: it is due again at once |

Ages are measured by the database's clock, which stamped the times that they are measured from.
"""

import random
from dataclasses import dataclass

from messaging.models import Direction, Outcome

FIRST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 20.0  # what waits is under way again within half a minute of the cause going away
REPORT_SECONDS = 10.0  # how long a report may take that tells what became of a send in doubt
MOST_OWN_FAILURES = 8
LONGEST_OWN_FAILING_SECONDS = 15 * 60.0
LONGEST_WAIT_SECONDS = 72 * 3600.0  # as long as Salesforce keeps its events


TOO_OLD = f"it could not be delivered for {LONGEST_WAIT_SECONDS / 3600:.0f} hours"


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a message that has just been tried in vain, this try included."""

    age_seconds: float  # since it was accepted
    own_failures: int  # tries in vain while others of its endpoint passed
    own_failing_seconds: float
    window_closed: bool  # it is a rep's free text, and may not be sent any more


def why_given_up(history: History) -> str:
    """Say in words for a rep why a message is not tried again; empty where it is."""
    if history.age_seconds > LONGEST_WAIT_SECONDS:
        return TOO_OLD
    if history.window_closed:
        return "the 24-hour window closed while it waited; send a template"
    if history.own_failures >= MOST_OWN_FAILURES or history.own_failing_seconds > LONGEST_OWN_FAILING_SECONDS:
        return "it kept failing while other messages passed"
    return ""


def pause_seconds(direction: Direction, outcome: Outcome, *, failures: int, retry_after: float | None) -> float:
    """Say how long a lane pauses before the same message is tried again.

    :param failures: tries in a row before this one that had to be repeated
    """
    seconds = backoff_seconds(failures, retry_after)
    if outcome is Outcome.IN_DOUBT and direction is Direction.OUTBOUND:
        return max(seconds, REPORT_SECONDS)
    return seconds


def backoff_seconds(failures: int, retry_after: float | None) -> float:
    """Double the pause with each failure in a row, with jitter, and wait at least as long as the upstream asks."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10))
    return max(retry_after or 0.0, random.uniform(longest / 2, longest))
