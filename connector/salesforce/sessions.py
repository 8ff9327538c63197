"""What an org's records say of its messaging sessions.

https://developer.salesforce.com/docs/atlas.en-us.object_reference.meta/object_reference/sforce_api_objects_messagingsession.htm
"""

import re
from collections.abc import Sequence

from connector.http import Call
from connector.salesforce.rest import RestClient, soql_text

MOST_AT_ONCE = 200  # ids of one query, which keeps its address far below the 16,384 bytes that Salesforce takes

_ID = re.compile(r"[a-zA-Z0-9]{15}([a-zA-Z0-9]{3})?", re.ASCII)


def is_id(text: str) -> bool:
    """Tell whether a text may be a record's id; a query that names anything else as one is refused as a whole."""
    return _ID.fullmatch(text) is not None


def find_states(client: RestClient, sessions: Sequence[str]) -> dict[str, bool]:
    """Ask which of some sessions have ended, in one call for at most ``MOST_AT_ONCE``.

    :return: by id whether it has; what there is no record of, or none that we may see, is left out
    :raises ApiError: the member of the family says whether to ask again
    """
    ids = ", ".join(soql_text(each) for each in sessions)
    found = client.query(f"SELECT Id, Status FROM MessagingSession WHERE Id IN ({ids})")
    # the last three characters only say which of the others are capitals
    ended = {str(record.get("Id"))[:15]: record.get("Status") == "Ended" for record in found}
    return {each: ended[each[:15]] for each in sessions if each[:15] in ended}


def shows_any(client: RestClient) -> bool:
    """Ask whether we may see any session at all: where we may not, one that is not found says nothing.

    :raises ApiError: the member of the family says whether to ask again
    """
    return bool(client.query("SELECT Id FROM MessagingSession LIMIT 1"))


def has_ended_call(client: RestClient, session: str) -> Call[bool]:
    """Build the question whether a session has ended; of one that is not found it is said that it has not."""
    soql = f"SELECT Id FROM MessagingSession WHERE Id = {soql_text(session)} AND Status = 'Ended'"
    return client.query_call(soql, bool)
