"""What the button of a finding does."""

from collections.abc import Callable

from connector.http import ApiError, ServiceUnavailable
from tenants import connecting
from tenants.doctor.snapshot import OrgSnapshot
from tenants.models import Org, SalesforceConnection
from tenants.onboarding import SetupProblem


def fix(org: Org, name: str, about: str, *, who: str) -> None:
    """Do what the button of a finding offers; nothing where there is no such button, or it is about another org's row.

    :raises SetupProblem: if it cannot be done; the text says why
    """
    if name not in _FIXES:
        return
    try:
        done = _FIXES[name](OrgSnapshot(org), about, who)
    except KeyError as exc:
        raise SetupProblem({"": "This no longer exists. Run the checks again."}) from exc
    except ServiceUnavailable as exc:
        raise SetupProblem({"": f"Salesforce does not answer now ({exc.message}). Try again in a few minutes."}) from exc
    except ApiError as exc:
        raise SetupProblem(
            {"": f"Salesforce does not allow the integration user to do this ({exc.message}). Do it in Setup instead."}
        ) from exc
    if done:
        org.audit(who, "let the doctor fix", name)


def _subscribe(org: OrgSnapshot, about: str, who: str) -> bool:
    account = next((each for each in org.accounts if str(each.uuid) == about), None)
    if account is None:
        return False
    connecting.subscribe(account, who=who)
    return True


def _try_history_again(org: OrgSnapshot, about: str, who: str) -> bool:
    SalesforceConnection.objects.filter(org=org.org).update(history_refused_at=None)
    return True


def _make_service_user(org: OrgSnapshot, about: str, who: str) -> bool:
    org.rest.update("User", str(org.user["Id"]), {"UserPermissionsSupportUser": True})
    return True


def _join_channel(org: OrgSnapshot, about: str, who: str) -> bool:
    row = org.messaging_channels[about]
    fields = {"MessagingChannelId": row["Id"], "ChannelDefinitionId": row["ChannelDefinitionId"]}
    org.rest.create("CustomMsgChannel", {**fields, "HasInboundReceipts": True, "HasTypingIndicator": True})
    return True


def _turn_receipts_on(org: OrgSnapshot, about: str, who: str) -> bool:
    joined = org.custom_channels[str(org.messaging_channels[about]["Id"])]
    org.rest.update("CustomMsgChannel", str(joined["Id"]), {"HasInboundReceipts": True})
    return True


_FIXES: dict[str, Callable[[OrgSnapshot, str, str], bool]] = {
    "subscribe": _subscribe,
    "history": _try_history_again,
    "service user": _make_service_user,
    "join": _join_channel,
    "receipts": _turn_receipts_on,
}
