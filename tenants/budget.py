"""What pages may use up of this process: each has a thread while it waits for Salesforce or Infobip, and there are few.

One org whose Salesforce hangs would soon hold all of them. So each has some places, and so has each address
without a session; who finds them taken is asked at once to try again.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from django.http import HttpRequest

PAGES_AT_ONCE = 4  # of one org, or of one address without a session: a quarter of the threads that serve pages (Procfile)
SIGN_INS_AT_ONCE = 2  # to one org: whoever knows its address can begin one
# Of all calls of one page. Routers give up soon after: https://devcenter.heroku.com/articles/request-timeout
CALL_SECONDS = 25.0

_taken: Counter[str] = Counter()
_lock = threading.Lock()


class Busy(Exception):
    """All places are taken; nothing was done."""


@contextmanager
def place(of: str, most: int = PAGES_AT_ONCE) -> Iterator[None]:
    """Take one of the places that somebody has in this process.

    :raises Busy: if all are taken
    """
    with _lock:
        if _taken[of] >= most:
            raise Busy
        _taken[of] += 1
    try:
        yield
    finally:
        with _lock:
            _taken[of] -= 1
            if not _taken[of]:
                del _taken[of]


def client_address(request: HttpRequest) -> str:
    """Name where a request comes from, as far as the router in front of us says; of IPv6 the network of one customer.

    https://www.rfc-editor.org/rfc/rfc6177
    """
    said = str(request.headers.get("X-Forwarded-For") or request.META.get("REMOTE_ADDR", "")).split(",")[-1].strip()
    try:
        address = ipaddress.ip_address(said)
    except ValueError:
        return said
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else said
