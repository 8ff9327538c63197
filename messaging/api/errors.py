"""Puts what goes wrong into the one form that errors have in our API."""

import math
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import structlog
from django.db import Error as DatabaseError
from django.db import connection
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.response import Response
from rest_framework.views import exception_handler

from tenants import repeats
from tenants.database import is_rows_fault, note_trouble
from tenants.models import ApiToken

log = structlog.get_logger(__name__)


class Refusal(APIException):
    """A call that is answered with an error; the words say what is wrong, and what to do."""

    def __init__(
        self, status: int, code: str, words: str, *, retry_after: float | None = None, message: UUID | None = None
    ) -> None:
        super().__init__(words, code)
        self.status_code, self.code, self.retry_after, self.message = status, code, retry_after, message


def explain(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Put what went wrong into the one form that errors have here."""
    if isinstance(exc, DatabaseError) and not is_rows_fault(exc):
        connection.close()  # perhaps only this connection was lost
        note_trouble("API call not stored", exc)
        exc = Refusal(503, "not_stored", "This cannot be stored now. Send it again in a moment.", retry_after=1)
    if isinstance(exc, RecursionError | UnicodeError):
        exc = ParseError("The body is not JSON that can be read.")
    response = exception_handler(exc, context)
    if response is None or not isinstance(exc, APIException):
        return response
    if isinstance(exc, ValidationError):
        fields = dict(_flat(exc.detail))
        words = " ".join(f"{path}: {each}" if path else each for path, each in fields.items())
        response.status_code = 422
        response.data = {"error": f"The body does not fit. {words}", "code": "invalid", "fields": fields}
    else:
        response.data = {"error": str(exc.detail), "code": str(exc.get_codes())}
    if isinstance(exc, Refusal):
        if exc.message is not None:
            response.data["messageId"] = str(exc.message)
        if exc.retry_after is not None:
            response["Retry-After"] = str(math.ceil(exc.retry_after))
    # not ``auth``, which would look the token up where that has not been done, or has just failed
    token = getattr(context.get("request"), "_auth", None)
    org, status, code = token.org_id if isinstance(token, ApiToken) else None, response.status_code, response.data["code"]
    repeats.say(log.info, "API call refused", org, status, code, org=org, status=status, code=code)
    return response


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Name each field that is wrong by its path, with a sentence."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _flat(inner, path if name == "non_field_errors" else f"{path}.{name}".strip("."))
    elif isinstance(detail, list):
        yield path, " ".join(words for each in detail for _, words in _flat(each))
    else:
        yield path, str(detail)
