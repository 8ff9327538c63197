"""The doctor: one check for each trap between Salesforce, Infobip and us: what was found, what must be, why, what to do.

A check says once, as data, what must be true and what to do where it is not; its function only looks, at the org or at
each channel, account or sender. What cannot be read makes its checks say so, and never hides another finding.
``messaging`` registers checks of its own.
"""

# the checks register themselves, in the order in which they are made: without a login the others can say little
# isort: off
from tenants.doctor import login, event, channel, routing, infobip, senders, webhooks  # noqa: F401

# isort: on
from tenants.doctor.checks import Finding, Seen, State, account_check, check, checks, register, state
from tenants.doctor.fixes import fix
from tenants.doctor.report import run_checks, run_due_checks
from tenants.doctor.snapshot import OrgSnapshot

__all__ = [
    "Finding",
    "OrgSnapshot",
    "Seen",
    "State",
    "account_check",
    "check",
    "checks",
    "fix",
    "register",
    "run_checks",
    "run_due_checks",
    "state",
]
