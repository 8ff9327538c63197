"""What an org's records say of its messaging sessions.

https://developer.salesforce.com/docs/atlas.en-us.object_reference.meta/object_reference/sforce_api_objects_messagingsession.htm
"""

import re
from collections.abc import Sequence

from connector.salesforce.rest import RestClient, soql_text

MOST_AT_ONCE = 200  # ids of one query, which keeps its address far below the 16,384 bytes that Salesforce takes

_ID = re.compile(r"[a-zA-Z0-9]{15}([a-zA-Z0-9]{3})?", re.ASCII)


def is_id(text: str) -> bool:
    """Tell whether a text may be a record's id; a query that names anything else as one is refused as a whole."""
    return _ID.fullmatch(text) is not None


def find_ended(client: RestClient, sessions: Sequence[str]) -> list[str]:
    """Ask which of some sessions have ended, in one call for at most ``MOST_AT_ONCE``.

    :raises ApiError: the member of the family says whether to ask again
    """
    ids = ", ".join(soql_text(each) for each in sessions)
    found = client.query(f"SELECT Id, Status FROM MessagingSession WHERE Id IN ({ids}) AND Status = 'Ended'")
    return [str(record.get("Id")) for record in found]
