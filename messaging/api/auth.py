"""Tells who calls, by an org's API token, and what the token allows."""

from typing import Any

from django.contrib.auth.models import AnonymousUser
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from tenants import api_tokens, known
from tenants.models import ApiToken


class TokenAuthentication(BaseAuthentication):
    """Knows a caller by the org's API token."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, ApiToken] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        found = api_tokens.find(token.strip())
        if found is None:
            raise AuthenticationFailed("This token is not known. Make one on the set-up page “API access”.")
        if found.revoked_at is not None:
            raise AuthenticationFailed(
                f"This token was revoked on {found.revoked_at:%Y-%m-%d}. Make another on the set-up page “API access”."
            )
        known.note(token.strip())
        return AnonymousUser(), found

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Names the token in the OpenAPI document."""

    target_class = TokenAuthentication
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "Made on the set-up page “API access”."}


class MayWriteConversations(BasePermission):
    """Lets in tokens with that scope."""

    message = f"This token lacks the scope {api_tokens.CONVERSATIONS_WRITE}. Make one that has it."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, ApiToken) and api_tokens.CONVERSATIONS_WRITE in request.auth.scopes
