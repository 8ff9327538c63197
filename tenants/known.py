"""Which credentials this process accepted lately: pages' threads are kept for who shows one of them (config/pages.py).

No right follows from being known. Who signs out, or whose token is revoked, is refused at once by what checks it, and is
merely not taken for a stranger for some minutes more.
"""

import hashlib
import secrets
import threading
import time

KNOWN_SECONDS = 600.0  # from when it was last accepted
MOST_KNOWN = 10_000  # credentials, some 150 bytes each

_KEY = secrets.token_bytes(32)  # a short token of somebody's own choice is not to be guessed from what is kept
_lock = threading.Lock()
_until: dict[bytes, float] = {}  # of the monotonic clock; what was accepted longest ago first


def note(credential: str) -> None:
    """Note a credential that has just been accepted; it is kept as a hash."""
    hashed = _hashed(credential)
    with _lock:
        _until.pop(hashed, None)
        _until[hashed] = time.monotonic() + KNOWN_SECONDS
        if len(_until) > MOST_KNOWN:
            del _until[next(iter(_until))]


def is_known(credential: str) -> bool:
    """Tell whether a credential was accepted in this process within the last minutes."""
    return _until.get(_hashed(credential), 0.0) > time.monotonic()


def _hashed(credential: str) -> bytes:
    return hashlib.blake2b(credential.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=16).digest()
