"""One life of a process that holds lanes: a number, and an advisory lock on a connection of its own that stands for it.

PostgreSQL lets the lock go as soon as it notices the end of the connection: at once when the process is killed, by
keep-alives when its host is lost, and by ``idle_session_timeout`` when it is frozen. Then others take its lanes. Nobody
renews leases. The same connection listens for notifications.

https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import structlog
from django.db import connections

from messaging.claims import HOLDER_LOCKS
from messaging.wake import INBOX_CHANNEL, LANES_CHANNEL
from tenants.database import note_trouble

log = structlog.get_logger(__name__)

PING_SECONDS = 3.0
LISTEN_SECONDS = 0.25  # at a time; so soon it notices that it is to stop
FROZEN_SECONDS = 15  # a process whose dispatcher stands still so long loses its lanes
PAUSE_SECONDS = 0.3
GRACE_SECONDS = 3.0  # after a restart of the database each process takes its lock again before anybody takes its lanes


class Holder:
    """Keeps the lock until it is stopped.

    :param heard: called with channel and payload of each notification that is not our own, in the holder's thread
    :param goes_on: tells whether the process still does its work; the lock is released where it does not
    """

    def __init__(self, heard: Callable[[str, str], None], goes_on: Callable[[], bool]) -> None:
        self.heard, self.goes_on = heard, goes_on
        self.number = 0  # 0: none yet
        self.held = threading.Event()
        self.stopping = threading.Event()
        self.patient_until = 0.0
        self.thread = threading.Thread(target=self._run, name="holder", daemon=True)

    def start(self) -> None:
        """Begin to take the lock."""
        self.thread.start()

    def stop(self) -> None:
        """Let the lock go; lanes that are still held are free from now on."""
        self.stopping.set()
        self.thread.join(PING_SECONDS + 1)

    def may_judge(self) -> bool:
        """Tell whether other holders may be found dead: not in the moment in which all take their locks again."""
        return self.held.is_set() and time.monotonic() >= self.patient_until

    def _run(self) -> None:
        while not self.stopping.is_set():
            try:
                with _connect() as connection:
                    self._hold(connection)
            except Exception as exc:  # a wait on a connection that breaks off raises more than psycopg's own errors
                note_trouble("database trouble", exc)
            finally:
                self.held.clear()
            self.stopping.wait(PAUSE_SECONDS)

    def _hold(self, connection: psycopg.Connection[Any]) -> None:
        again = self.number != 0
        connection.execute(f"SET idle_session_timeout = '{FROZEN_SECONDS}s'")
        young = connection.execute(
            "SELECT EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())::float8"
        ).fetchone()
        assert young is not None
        # a first life begins with patience too where the database has only just been started
        self.patient_until = time.monotonic() + (GRACE_SECONDS if again else max(0.0, GRACE_SECONDS - young[0]))
        if not self.number:
            number = connection.execute("SELECT nextval('messaging_holder')").fetchone()
            assert number is not None
            self.number = int(number[0])
        while not self._locked(connection):
            if self.stopping.wait(PAUSE_SECONDS):
                return
        connection.execute(f"LISTEN {INBOX_CHANNEL}")
        connection.execute(f"LISTEN {LANES_CHANNEL}")
        self.held.set()
        log.info("holds lanes", holder=self.number)
        pinged_at = time.monotonic()
        while not self.stopping.is_set():
            for notification in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                if notification.payload != str(self.number):
                    self.heard(notification.channel, notification.payload)
            if time.monotonic() - pinged_at >= PING_SECONDS and self.goes_on():
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
                if row is not None and row[0]:  # it answers as before, but the lanes are kept elsewhere now
                    raise psycopg.OperationalError("the server has become a replica")
                pinged_at = time.monotonic()

    def _locked(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute("SELECT pg_try_advisory_lock(%s::int, %s::int)", [HOLDER_LOCKS, self.number]).fetchone()
        return row is not None and bool(row[0])


def _connect() -> psycopg.Connection[Any]:
    """Open a connection beside Django's, with the same settings, that nobody else uses."""
    wrapper = connections.create_connection("default")
    with suppress(KeyError):
        wrapper.settings_dict["OPTIONS"] = {**wrapper.settings_dict["OPTIONS"]}
        wrapper.settings_dict["OPTIONS"].pop("pool", None)
    parameters = wrapper.get_connection_params()
    return psycopg.connect(**{**parameters, "autocommit": True, "cursor_factory": psycopg.Cursor})
