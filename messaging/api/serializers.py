"""Says what the bodies of calls and answers hold, and checks them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from connector import phone
from connector.events import clean


class _Strict(serializers.Serializer[Any]):
    """Refuses fields that it does not know: a misspelt one would be lost without a word."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, Mapping) else []
        wrong: Any = {name: ["This field is not known here."] for name in unknown}
        try:
            value = super().to_internal_value(data)
        except ValidationError as exc:
            if not isinstance(exc.detail, dict):
                raise
            wrong |= exc.detail
        if wrong:
            raise ValidationError(wrong)
        return value


class _Number(serializers.CharField):
    """A phone number, however it is written; in JSON a text or a whole number."""

    read = staticmethod(phone.read)

    def to_internal_value(self, data: Any) -> str:
        try:
            return self.read(data)
        except phone.NotANumber as exc:
            raise ValidationError(f"{exc} An example is 385991234567.") from None


class _EndUser(_Number):
    """A phone number that some country has, or a business-scoped user id such as HR.1234567890."""

    read = staticmethod(phone.parse)

    def to_internal_value(self, data: Any) -> str:
        if isinstance(data, str) and re.fullmatch(r"[A-Z]{2}\.[A-Za-z0-9.]{1,140}", data.strip()):
            return data.strip()
        return super().to_internal_value(data)


class _Json(serializers.JSONField):
    """JSON that PostgreSQL can hold."""

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        text = json.dumps(value, ensure_ascii=False)
        if clean(text) != text or "\\u0000" in text:
            raise ValidationError("Contains characters that cannot be stored.")
        return value


class Template(_Strict):
    """An approved template of the sender, with what fills it."""

    name = serializers.RegexField(r"^[a-z0-9_]{1,512}$", help_text="As in Infobip's portal.")
    language = serializers.RegexField(r"^[A-Za-z0-9_]{2,12}$", help_text="Exactly as in the template, such as en_GB.")
    placeholders = serializers.ListField(
        child=serializers.CharField(max_length=1024), max_length=100, required=False, help_text="Of the body, in order."
    )
    templateData = _Json(
        required=False,
        help_text="Infobip's own form, instead of placeholders, for a template whose header or buttons take values too.",
    )

    def validate(self, attrs: Any) -> Any:
        if "templateData" not in attrs:
            return attrs
        if "placeholders" in attrs:
            raise ValidationError({"templateData": ["Give either this or placeholders."]})
        data = attrs["templateData"]
        body = data.get("body") if isinstance(data, dict) else None
        values = body.get("placeholders") if isinstance(body, dict) else None
        if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
            words = "This must hold body.placeholders, a list of texts, none of them empty; [] where the body has none."
            raise ValidationError({"templateData": [words]})
        return attrs


class ConversationRequest(_Strict):
    """With whom a conversation is opened, and by which sender."""

    sender = _Number(help_text="A WhatsApp number of yours that is set up here.")
    to = _EndUser(help_text="The end user: a number with its country code, or a business-scoped user id.")
    name = serializers.CharField(max_length=200, required=False, help_text="Of the end user, for your reps.")
    language = serializers.RegexField(
        r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,6})?$", required=False, help_text="Of the channel's own texts, such as en."
    )
    routingAttributes = serializers.DictField(
        child=serializers.CharField(max_length=4000, allow_blank=True),
        required=False,
        help_text="Values of the channel's custom parameters in Salesforce, for the routing.",
    )
    template = Template(required=False)

    def validate_routingAttributes(self, given: dict[str, str]) -> dict[str, str]:
        if len(given) > 50 or not all(re.fullmatch(r"[A-Za-z]\w{0,79}", name, re.ASCII) for name in given):
            raise ValidationError("These are at most 50, named as the channel's custom parameters are.")
        return given


class ConversationOpened(serializers.Serializer[Any]):
    """Where the conversation is in Salesforce."""

    conversationId = serializers.CharField(help_text="Salesforce's conversation identifier.")
    sessionId = serializers.CharField(help_text="The messaging session; empty where Salesforce names none.")
    messageId = serializers.UUIDField(required=False, help_text="Of the template, at Infobip too.")
    warning = serializers.CharField(required=False, help_text="What will not work, though the conversation is open.")


class Problem(serializers.Serializer[Any]):
    """What is wrong, and what to do."""

    error = serializers.CharField(help_text="For people.")
    code = serializers.CharField(help_text="For programs.")
    fields = serializers.DictField(child=serializers.CharField(), required=False)  # type: ignore[assignment]
    messageId = serializers.UUIDField(required=False, help_text="Of the template, which goes out all the same.")
