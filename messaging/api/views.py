"""Answers the calls of a customer's system: it opens a conversation with an end user, and may send a template first."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from messaging.api.auth import MayWriteConversations, TokenAuthentication
from messaging.api.errors import Refusal, explain
from messaging.api.limits import OrgThrottle
from messaging.api.opening import open_conversation
from messaging.api.serializers import ConversationOpened, ConversationRequest, Problem
from tenants.models import ApiToken
from tenants.tenancy import org_scope

LARGEST_BODY = 64 * 1024


class ApiView(APIView):
    """What all calls have in common."""

    authentication_classes = [TokenAuthentication]
    throttle_classes = [OrgThrottle]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        length = request.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > LARGEST_BODY:
            raise Refusal(413, "too_large", f"The body is larger than {LARGEST_BODY} bytes.")

    def get_exception_handler(self) -> Any:
        return explain


REFUSALS = dict.fromkeys((400, 401, 403, 404, 409, 413, 422, 429, 502, 503), Problem)


class Conversations(ApiView):
    """Conversations of the org."""

    permission_classes = [MayWriteConversations]

    @extend_schema(
        operation_id="openConversation",
        summary="Open a conversation",
        request=ConversationRequest,
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                location=OpenApiParameter.HEADER,
                description="A text of yours, such as an order's number. The same call with the same key, within 24 "
                "hours, happens once and has the same answer.",
            )
        ],
        responses={201: ConversationOpened, **REFUSALS},
    )
    def post(self, request: Request) -> Response:
        """Open a conversation with an end user who need not have written, and a session with your reps.

        A template goes out first, also where the 24-hour window is closed.
        """
        token = request.auth
        assert isinstance(token, ApiToken)
        with org_scope(token.org_id):
            form = ConversationRequest(data=request.data)
            form.is_valid(raise_exception=True)
            answer = open_conversation(token.org, form.validated_data, request.headers.get("Idempotency-Key", "").strip())
        return Response(answer, status=201)
