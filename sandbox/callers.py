"""Who calls the REST and Tooling APIs, with what, and what there is for them."""

import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sandbox.definitions import SetupRefused
from sandbox.setup_org import Setup
from sandbox.world import Org

BOTH = {
    "Organization",
    "User",
    "Profile",
    "PermissionSet",
    "PermissionSetAssignment",
    "ObjectPermissions",
    "ConversationVendorInfo",
    "ConversationChannelDefinition",
    "EntityDefinition",
    "CspTrustedSite",
}
DATA = BOTH | {
    "PermissionSetLicense",
    "PermissionSetLicenseAssign",
    "MessagingChannel",
    "MessagingSession",
    "CustomMsgChannel",
    "Group",
    "GroupMember",
    "QueueSobject",
    "QueueRoutingConfig",
    "ServiceChannel",
    "ServicePresenceStatus",
    "FlowDefinitionView",
    "UserRecordAccess",
}
TOOLING = BOTH | {"Flow", "FlowDefinition", "FlexiPage", "AuraDefinitionBundle", "CustomTab"}


@dataclass(frozen=True)
class Caller:
    """Whose token a call has."""

    org: Org
    user_id: str

    @property
    def setup(self) -> Setup:
        """The set-up of the org, as it is now."""
        return self.org.setup

    def needs(self, permission: str) -> None:
        """Go on only with a user permission.

        :raises SetupRefused: if the user lacks it
        """
        if not self.setup.permits(self.user_id, permission):
            raise SetupRefused("INSUFFICIENT_ACCESS", f"You need the permission {permission}", status=403)


async def read_body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request.

    :raises SetupRefused: if there is none
    """
    if request.content_type != "application/json":
        raise SetupRefused("UNSUPPORTED_MEDIA_TYPE", "Content type is not application/json", status=415)
    try:
        body = json.loads(await request.read())
    except ValueError as exc:
        raise SetupRefused("JSON_PARSER_ERROR", str(exc)) from exc
    if not isinstance(body, dict):
        raise SetupRefused("JSON_PARSER_ERROR", "Can not deserialize the body")
    return body
