"""How an org comes to be: from a document, all of it in one step."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.db import transaction
from rest_framework import serializers

from connector import phone
from connector.http import AddressRefused
from connector.pasted import can_be_sent, pasted
from tenants import texts
from tenants.encryption import readable
from tenants.models import (
    AtEnd,
    Channel,
    InfobipAccount,
    Org,
    SalesforceConnection,
    Sender,
    TranscriptForm,
    WelcomeWhen,
)
from tenants.tenancy import every_org

UNSENDABLE_KEY = (
    "An API key has plain letters, digits and signs only. This one contains another character, perhaps an invisible one "
    "that came along when it was copied. Copy it again from Infobip's portal."
)
SMALLEST_KEY = 2048  # bits; Salesforce takes RS256 only


class SetupProblem(Exception):
    """What is wrong with a set-up, by the place in the document."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("\n".join(f"{place}: {what}" for place, what in problems.items()))
        self.problems = problems


class _PastedField(serializers.CharField):
    """An address, a name or an id of a machine's: what comes along unseen when it is copied is taken out."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return super().run_validation(pasted(data) if isinstance(data, str) else data)


class _OrgSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=200)
    orgId = serializers.RegexField(
        r"^00D[a-zA-Z0-9]{12}([A-Z0-5]{3})?$",
        error_messages={"invalid": "An org id begins with 00D and has 15 or 18 letters and digits."},
    )
    baseUrl = _PastedField(max_length=300)
    scrtUrl = _PastedField(max_length=300)
    pubsubEndpoint = _PastedField(max_length=200, required=False, allow_blank=True, default="")
    consumerKey = _PastedField(max_length=300)
    username = _PastedField(max_length=200)
    privateKey = serializers.CharField()
    sessionChanges = serializers.BooleanField(required=False, default=False)

    def validate_orgId(self, value: str) -> str:
        return value if len(value) == 18 else long_org_id(value)

    def validate_privateKey(self, value: str) -> str:
        try:
            key = load_pem_private_key(value.encode(), password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, RSAPrivateKey) or key.key_size < SMALLEST_KEY:
            raise serializers.ValidationError(f"Give an RSA key of {SMALLEST_KEY} bits or more, in PEM form, unencrypted.")
        return value


class _AccountSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)
    baseUrl = _PastedField(max_length=300)
    apiKey = serializers.CharField(max_length=500)
    webhookSecret = serializers.CharField(max_length=255, trim_whitespace=False)
    signatureHeader = serializers.RegexField(r"^[A-Za-z0-9-]+$", max_length=100, required=False, default="")
    handoverToken = serializers.CharField(max_length=255, required=False, allow_blank=True, default="")
    handoverWithoutToken = serializers.BooleanField(required=False, default=False)

    def validate_apiKey(self, value: str) -> str:
        if not can_be_sent(value):
            raise serializers.ValidationError(UNSENDABLE_KEY)
        return value


class _SenderSerializer(serializers.Serializer[Any]):
    account = serializers.CharField(max_length=100)
    number = serializers.CharField(max_length=40)
    chatbotFirst = serializers.BooleanField(required=False, default=False)

    def validate_number(self, value: str) -> str:
        try:
            return phone.parse(value)
        except phone.NotANumber as exc:
            raise serializers.ValidationError(f"{exc} An example is 447700900123.") from None


class _TextField(serializers.CharField):
    """A text to end users; absent or empty: none."""

    def __init__(self) -> None:
        super().__init__(required=False, allow_blank=True, default="", max_length=texts.LONGEST_TEXT)


class _LanguageField(serializers.RegexField):
    def __init__(self, **kwargs: Any) -> None:
        words = "Give a language's code, such as en or pt-br."
        super().__init__(r"^[a-z]{2,3}(-[a-z0-9]{2,6})?$", max_length=10, error_messages={"invalid": words}, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        return texts.tag(str(super().to_internal_value(data)))


class _TranslationSerializer(serializers.Serializer[Any]):
    welcome = _TextField()
    closing = _TextField()
    outOfHours = _TextField()


class _ChannelSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=200)
    developerName = _PastedField(max_length=100)
    authorizationContext = _PastedField(max_length=100)
    channelAddressIdentifier = _PastedField(max_length=240)
    customEventName = serializers.RegexField(
        r"^[A-Za-z]\w*__(e|chn)$",
        max_length=100,
        error_messages={"invalid": "The API name of a platform event ends with __e, such as Infobip_Event__e."},
    )
    customEventTypeField = _PastedField(max_length=100)
    customEventPayloadField = _PastedField(max_length=100)
    language = _LanguageField(required=False, default="en")
    welcomeMessage = _TextField()
    welcomeWhen = serializers.ChoiceField(WelcomeWhen.choices, required=False, default=WelcomeWhen.OPENED)
    closingMessage = _TextField()
    outOfHoursMessage = _TextField()
    translations = serializers.DictField(child=_TranslationSerializer(), required=False, default=dict)
    timeZone = serializers.CharField(max_length=60, required=False, default="UTC")
    businessHours = serializers.DictField(
        child=serializers.ListField(child=serializers.ListField(child=serializers.CharField(), min_length=2, max_length=2)),
        required=False,
        default=dict,
    )
    forwardAutomatic = serializers.BooleanField(required=False, default=True)
    showFailures = serializers.BooleanField(required=False, default=True)
    transcript = serializers.ChoiceField(TranscriptForm.choices, required=False, default=TranscriptForm.LINES)
    chatbotName = serializers.CharField(max_length=50, required=False, default="Bot")
    routingAttributes = serializers.DictField(child=serializers.CharField(), required=False, default=dict)
    atEnd = serializers.ChoiceField(AtEnd.choices, required=False, default=AtEnd.CLOSE)
    senders = _SenderSerializer(many=True)

    def validate_translations(self, value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        kept = {}
        for language, given in value.items():
            code = _LanguageField().run_validation(language)
            named = {"welcome": given["welcome"], "closing": given["closing"], "out_of_hours": given["outOfHours"]}
            kept[code] = {name: text for name, text in named.items() if text}
        return kept

    def validate_timeZone(self, value: str) -> str:
        if value not in texts.time_zones():
            raise serializers.ValidationError("Give a time zone by its name, such as Europe/Zagreb.")
        return value

    def validate_businessHours(self, value: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
        if unknown := set(value) - set(texts.DAYS):
            raise serializers.ValidationError(f"{', '.join(sorted(unknown))}: the days are {', '.join(texts.DAYS)}.")
        try:
            return {day: texts.check_time_ranges(value[day]) for day in texts.DAYS if value.get(day)}
        except ValueError as exc:
            raise serializers.ValidationError(str(exc)) from exc

    def validate_routingAttributes(self, value: dict[str, str]) -> dict[str, str]:
        try:
            texts.check_attributes(value)
        except ValueError as exc:
            raise serializers.ValidationError(str(exc)) from exc
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["language"] in attrs["translations"]:
            raise serializers.ValidationError({"translations": "The channel's own texts are in this language."})
        return attrs


class _DocumentSerializer(serializers.Serializer[Any]):
    org = _OrgSerializer()
    infobipAccounts = _AccountSerializer(many=True, allow_empty=False)
    channels = _ChannelSerializer(many=True, allow_empty=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        names = [account["name"] for account in attrs["infobipAccounts"]]
        if len(set(names)) < len(names):
            raise serializers.ValidationError({"infobipAccounts": "Two accounts have the same name."})
        addresses = [channel["channelAddressIdentifier"] for channel in attrs["channels"]]
        if len(set(addresses)) < len(addresses):
            raise serializers.ValidationError({"channels": "Two channels have the same channelAddressIdentifier."})
        senders = [(s["account"], s["number"]) for channel in attrs["channels"] for s in channel["senders"]]
        for account, number in senders:
            if account not in names:
                raise serializers.ValidationError({"channels": f"No account of infobipAccounts is named {account}."})
            if senders.count((account, number)) > 1:
                raise serializers.ValidationError({"channels": f"The number {number} is listed twice."})
        return attrs


def long_org_id(short: str) -> str:
    """Complete an org id of 15 characters to the 18 that tell upper from lower case by themselves.

    https://help.salesforce.com/s/articleView?id=000385008
    """
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    groups = (short[0:5], short[5:10], short[10:15])
    return short + "".join(alphabet[sum(1 << i for i, c in enumerate(group) if c.isupper())] for group in groups)


def provision(document: object) -> dict[str, Any]:
    """Create or update one org, and give the addresses that its Infobip accounts post to.

    What the document no longer lists is left alone and named in ``leftAlone``. A changed webhook secret keeps the old one
    as the second valid one.

    :raises SetupProblem: if the document is not usable; nothing is changed then
    """
    serializer = _DocumentSerializer(data=document)
    if not serializer.is_valid():
        raise SetupProblem(dict(_flat(serializer.errors)))
    data = serializer.validated_data
    with every_org(), transaction.atomic():
        org, created = _keep_org(data["org"])
        _connect_salesforce(org, data["org"])
        accounts = {each["name"]: _keep_account(org, each, n) for n, each in enumerate(data["infobipAccounts"])}
        channels = [_keep_channel(org, each, accounts) for each in data["channels"]]
        return {
            "org": {"orgId": org.salesforce_id, "name": org.name, "created": created, "setup": org.setup_url},
            "infobipAccounts": [
                {"name": account.name, "webhook": account.webhook_url, "handover": account.handover_url}
                for account in accounts.values()
            ],
            "leftAlone": _not_listed(org, accounts, channels, data["channels"]),
        }


def _flat(errors: Any, place: str = "") -> list[tuple[str, str]]:
    """Turn nested errors into pairs of a place, such as ``channels[0].name``, and a sentence."""
    if isinstance(errors, dict):
        return [pair for name, inner in errors.items() for pair in _flat(inner, _inside(place, name))]
    if isinstance(errors, list) and any(isinstance(each, dict | list) for each in errors):
        return [pair for n, inner in enumerate(errors) for pair in _flat(inner, _inside(place, n))]
    return [(place or "document", str(each)) for each in (errors if isinstance(errors, list) else [errors])]


def _inside(place: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{place}[{name}]"
    return place if name == "non_field_errors" else f"{place}.{name}".lstrip(".")


def _keep_org(data: dict[str, Any]) -> tuple[Org, bool]:
    """Find the org by the 15 characters that name it; the other three only repeat which of them are upper-case."""
    org = Org.objects.filter(salesforce_id__startswith=data["orgId"][:15]).first()
    created = org is None
    org = org or Org()
    org.salesforce_id, org.name = data["orgId"], data["name"]
    org.save()
    return org, created


def _connect_salesforce(org: Org, data: dict[str, Any]) -> None:
    connection = SalesforceConnection.objects.filter(org=org).first() or SalesforceConnection(org=org)
    connection.base_url, connection.scrt_url = data["baseUrl"], data["scrtUrl"]
    connection.pubsub_endpoint = data["pubsubEndpoint"]
    connection.consumer_key, connection.username = data["consumerKey"], data["username"]
    connection.private_key, connection.session_changes = data["privateKey"], data["sessionChanges"]
    check_addresses(connection, "org.baseUrl or org.scrtUrl")
    connection.save()


def _keep_account(org: Org, data: dict[str, Any], number: int) -> InfobipAccount:
    account = org.infobip_accounts.filter(name=data["name"]).first() or InfobipAccount(org=org, name=data["name"])
    before = readable(account, "webhook_secret")
    if before and before != data["webhookSecret"]:
        account.previous_webhook_secret = before
    account.base_url, account.api_key = data["baseUrl"], data["apiKey"]
    account.webhook_secret = data["webhookSecret"]
    account.signature_header, account.handover_token = data["signatureHeader"], data["handoverToken"]
    account.handover_without_token = data["handoverWithoutToken"]
    check_addresses(account, f"infobipAccounts[{number}].baseUrl")
    account.save()
    return account


def check_addresses(row: SalesforceConnection | InfobipAccount, place: str) -> None:
    """Refuse addresses that are not the platforms', in words for whoever gave them."""
    try:
        row.check_addresses()
    except (AddressRefused, ValueError) as exc:
        raise SetupProblem({place: str(exc)}) from exc


def _keep_channel(org: Org, data: dict[str, Any], accounts: dict[str, InfobipAccount]) -> Channel:
    channel, _ = Channel.objects.update_or_create(
        org=org,
        channel_address_identifier=data["channelAddressIdentifier"],
        defaults={
            "name": data["name"],
            "developer_name": data["developerName"],
            "authorization_context": data["authorizationContext"],
            "custom_event_name": data["customEventName"],
            "custom_event_type_field": data["customEventTypeField"],
            "custom_event_payload_field": data["customEventPayloadField"],
            "language": data["language"],
            "welcome_message": data["welcomeMessage"],
            "welcome_when": data["welcomeWhen"],
            "closing_message": data["closingMessage"],
            "out_of_hours_message": data["outOfHoursMessage"],
            "translations": data["translations"],
            "time_zone": data["timeZone"],
            "business_hours": data["businessHours"],
            "forward_automatic": data["forwardAutomatic"],
            "show_failures": data["showFailures"],
            "transcript": data["transcript"],
            "chatbot_name": data["chatbotName"],
            "routing_attributes": data["routingAttributes"],
            "at_end": data["atEnd"],
        },
    )
    for sender in data["senders"]:
        account = accounts[sender["account"]]
        keep_sender(account, sender["number"], channel=channel, chatbot_first=sender["chatbotFirst"])
    return channel


def keep_sender(account: InfobipAccount, number: str, *, channel: Channel, chatbot_first: bool) -> Sender:
    """Put a number on a channel; one that was taken off before is taken into use again."""
    sender, _ = Sender.ever.update_or_create(
        org_id=account.org_id,
        account=account,
        number=number,
        defaults={"channel": channel, "chatbot_first": chatbot_first, "retired_at": None},
    )
    return sender


def _not_listed(
    org: Org, accounts: dict[str, InfobipAccount], channels: list[Channel], listed: list[dict[str, Any]]
) -> list[str]:
    numbers = [(accounts[s["account"]].pk, s["number"]) for each in listed for s in each["senders"]]
    other_accounts = org.infobip_accounts.exclude(pk__in=[account.pk for account in accounts.values()])
    other_channels = org.channels.exclude(pk__in=[channel.pk for channel in channels])
    other_senders = [s for s in org.senders.order_by("number") if (s.account_id, s.number) not in numbers]
    return [
        *(f"account {account.name}" for account in other_accounts.order_by("name")),
        *(f"channel {channel.name}" for channel in other_channels.order_by("name")),
        *(f"sender {sender.number}" for sender in other_senders),
    ]
