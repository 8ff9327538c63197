"""What a worker does besides carrying lanes: hand-overs, and sessions that are to be greeted, asked about or closed.

One thread looks for what is due; the calls to the platforms are made by a few others, which hold a database connection
only while they need it.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import structlog
from django.db import Error as DatabaseError
from django.db import InterfaceError, connection, transaction

from connector.http import ApiError
from messaging import handover, sessions
from tenants.encryption import CannotDecrypt
from tenants.models import SalesforceConnection
from tenants.tenancy import every_org

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
SOON_SECONDS = 0.1  # while something is under way, whose next step may be due soon
THREADS = 8
DRAIN_SECONDS = 10.0


class Errands:
    """Runs until it is stopped; start it once in a process.

    :param ring: tells the lanes of this process that they have work
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self.tell_lanes = ring
        self.bell = threading.Event()
        self.stopping = threading.Event()
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="errand")
        self.busy = 0
        self.busy_lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="errands", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self.thread.start()

    def ring(self) -> None:
        """Say that something may be due; from any thread."""
        self.bell.set()

    def stop(self) -> None:
        """Begin nothing more; what is under way is taken up by others when its lease runs out."""
        self.stopping.set()
        self.bell.set()
        self.thread.join(DRAIN_SECONDS)
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        active = False
        while not self.stopping.is_set():
            self.bell.wait(SOON_SECONDS if active or self.busy else LOOK_SECONDS)
            self.bell.clear()
            try:
                with every_org():
                    active = self._turn()
            except (DatabaseError, InterfaceError) as exc:
                log.warning("database trouble", error=type(exc).__name__)
                connection.close()
                active = False
            except Exception:  # this thread must outlive whatever it stumbles over
                log.exception("errands failed")
                connection.close()
                active = False
        connection.close()

    def _turn(self) -> bool:
        with transaction.atomic():
            to_ask, work = sessions.attend_to_due()
        if work:
            self.tell_lanes()
        for org_id, ids in to_ask.items():
            self._submit(lambda org_id=org_id, ids=ids: self._ask(org_id, ids))  # type: ignore[misc]
        free = THREADS - self.busy
        claims = handover.claim(free) if free > 0 else []
        for handover_id, lease_id in claims:
            self._submit(lambda h=handover_id, lease=lease_id: self._carry_on(h, lease))  # type: ignore[misc]
        return bool(claims) or bool(to_ask)

    def _submit(self, work: Callable[[], None]) -> None:
        with self.busy_lock:
            self.busy += 1
        self.pool.submit(self._guard, work)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            with every_org():
                work()
        except (DatabaseError, InterfaceError) as exc:
            log.warning("database trouble", error=type(exc).__name__)
        except Exception:
            log.exception("an errand failed")
        finally:
            connection.close()
            with self.busy_lock:
                self.busy -= 1
            self.bell.set()

    def _carry_on(self, handover_id: int, lease_id: UUID) -> None:
        if handover.carry_on(handover_id, lease_id):
            self.tell_lanes()

    def _ask(self, org_id: int, ids: Sequence[str]) -> None:
        try:
            ended = sessions.which_ended(SalesforceConnection.objects.select_related("org").get(org_id=org_id).rest(), ids)
        except (ApiError, CannotDecrypt, SalesforceConnection.DoesNotExist) as exc:
            log.warning("sessions not asked about", org=org_id, error=type(exc).__name__)
            return  # they are asked about again at their next time
        for session in ended:
            with transaction.atomic():
                sessions.end(org_id, session)


running: Errands | None = None  # this process's one, set when it starts
