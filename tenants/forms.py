"""What people fill in. Forms check the shape; whether it works is tried against the live API before it is kept."""

from collections.abc import Iterable
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from connector import phone
from connector.pasted import can_be_sent, pasted
from tenants import texts
from tenants.api_tokens import SCOPES
from tenants.models import AtEnd, Channel, InfobipAccount, Org, TranscriptForm, WelcomeWhen
from tenants.onboarding import UNSENDABLE_KEY


class Pasted(forms.CharField):
    """An address, a name or an id of a machine's: what comes along unseen when it is copied is taken out."""

    def to_python(self, value: Any) -> str:
        return str(super().to_python(pasted(value) if isinstance(value, str) else value))


class MyDomainForm(forms.Form):
    my_domain = Pasted(
        label="My Domain",
        max_length=300,
        help_text="Such as acme.my.salesforce.com; Setup shows it under My Domain. A Lightning page's address works too.",
        widget=forms.TextInput(
            attrs={"autofocus": True, "spellcheck": "false", "autocomplete": "url", "placeholder": "acme.my.salesforce.com"}
        ),
    )


class ConnectionForm(forms.Form):
    consumer_key = Pasted(
        max_length=300,
        help_text="External Client App Manager: the app, Settings, OAuth Settings. The consumer secret is not needed.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    username = Pasted(
        max_length=200,
        help_text="The user as whom messages come in. In a sandbox it ends with the sandbox's name: byoc@acme.com.uat.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )


class SettingsForm(ConnectionForm):
    scrt_url = Pasted(
        label="SCRT URL",
        max_length=300,
        help_text="Derived from My Domain; change it only if Salesforce tells you another one.",
    )


class ChannelForm(forms.Form):
    found = forms.ChoiceField(label="Messaging channel", widget=forms.RadioSelect, required=False)
    pasted = Pasted(
        label="Or paste its channel address identifier",
        required=False,
        max_length=240,
        help_text="Setup shows it on the channel's page, also under the name Messaging Platform Key.",
    )
    context = Pasted(
        label="Authorization context",
        required=False,
        max_length=100,
        help_text="The developer name of the channel's definition. Empty: as found in the org.",
    )


class Text(forms.CharField):
    """What an end user reads: several lines, however a browser ends them."""

    def __init__(self, label: str, help_text: str = "") -> None:
        super().__init__(
            label=label,
            help_text=help_text,
            required=False,
            max_length=texts.LONGEST_TEXT,
            widget=forms.Textarea(attrs={"rows": 2, "dir": "auto"}),
        )

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).replace("\r\n", "\n")


class HoursField(forms.CharField):
    """The open hours of a day, typed such as ``09:00-12:00, 13:00-17:00``."""

    def __init__(self, label: str) -> None:
        widget = forms.TextInput(attrs={"placeholder": "closed", "autocomplete": "off", "spellcheck": "false"})
        super().__init__(label=label, required=False, max_length=200, widget=widget)

    def to_python(self, value: Any) -> Any:
        try:
            return texts.read_time_ranges(str(super().to_python(value)))
        except ValueError as exc:
            raise ValidationError(str(exc)) from exc

    def run_validators(self, value: Any) -> None:
        super().run_validators(texts.write_time_ranges(value))

    def prepare_value(self, value: Any) -> Any:
        return texts.write_time_ranges(value) if isinstance(value, list) else value


class AttributesField(forms.CharField):
    """Pairs of a call's field and a custom parameter, typed one a line."""

    def to_python(self, value: Any) -> Any:
        pairs: dict[str, str] = {}
        for line in filter(None, map(str.strip, str(super().to_python(value)).splitlines())):
            name, equals, parameter = (part.strip() for part in line.partition("="))
            if not equals:
                raise ValidationError(f"“{line}” is not a pair, such as orderNumber = Order_Number.")
            if name in pairs:
                raise ValidationError(f"“{name}” is there twice.")
            pairs[name] = parameter
        try:
            texts.check_attributes(pairs)
        except ValueError as exc:
            raise ValidationError(str(exc)) from exc
        return pairs

    def run_validators(self, value: Any) -> None:
        super().run_validators(self.prepare_value(value))

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name} = {each}" for name, each in value.items()) if isinstance(value, dict) else value


class SharedForm(forms.Form):
    """A form that several people may have open: each field carries what it showed, so only what was changed is kept."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.show_hidden_initial = True

    def shown(self, name: str) -> Any:
        """Give what a field showed when it was opened; None if that is not known."""
        field = self.fields[name]
        raw = field.hidden_widget().value_from_datadict(self.data, self.files, self[name].html_initial_name)
        try:
            return field.to_python(raw)
        except ValidationError:
            return None

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Give what was changed: what was shown, and what is wanted."""
        return {name: (self.shown(name), self.cleaned_data[name]) for name in self.changed_data}

    def blame(self, problems: dict[str, str]) -> None:
        """Put problems at their fields, and show from now on what is kept there: to save once more is meant then."""
        for place, words in problems.items():
            self.add_error(place if place in self.fields else None, ValidationError(words))
        data = dict(self.data.items())
        for field in self:
            data[field.html_initial_name] = field.field.prepare_value(field.initial)
        self.data = data

    def focus(self) -> None:
        """Let the first field that is wrong have the cursor."""
        for name in self.fields:
            if name in self.errors:
                self.fields[name].widget.attrs["autofocus"] = True
                return


DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def language_choices(also: Iterable[str] = (), without: Iterable[str] = ()) -> list[tuple[str, str]]:
    """List languages by their names."""
    return sorted(
        ((each, texts.language_name(each)) for each in {*texts.LANGUAGES, *also} - {*without}), key=lambda each: each[1]
    )


class TextsForm(SharedForm):
    """What a channel says by itself, and what becomes of a chatbot's conversations."""

    welcome_message = Text("Welcome", "When a session begins. Empty: none is sent, in no language.")
    welcome_when = forms.ChoiceField(label="Send the welcome", choices=WelcomeWhen.choices)
    closing_message = Text("Closing text", "When a session ends. Empty: none is sent, in no language.")
    language = forms.ChoiceField(label="Language of these texts")
    forward_automatic = forms.BooleanField(
        label="Send on the channel's automatic responses",
        required=False,
        help_text="Those that Salesforce itself writes, if you set some up in Messaging Settings. "
        "Have either them or the texts above: customers read both otherwise.",
    )
    show_failures = forms.BooleanField(
        label="Tell the rep in the conversation what did not reach the customer", required=False
    )
    mon, tue, wed, thu, fri, sat, sun = map(HoursField, DAY_NAMES)
    time_zone = forms.ChoiceField(label="Time zone")
    out_of_hours_message = Text(
        "Out-of-hours text", "Instead of the welcome, when a session begins while you are closed. Empty: none is sent then."
    )
    transcript = forms.ChoiceField(
        label="The rep sees what was said before as",
        choices=TranscriptForm.choices,
        help_text="Few orgs may import history; the others see one message per line then.",
    )
    chatbot_name = forms.CharField(label="Chatbot's name", max_length=50, help_text="Begins the chatbot's lines.")
    at_end = forms.ChoiceField(label="When the session ends, Infobip's conversation", choices=AtEnd.choices)
    routing_attributes = AttributesField(
        label="Fields of the call for routing",
        required=False,
        max_length=2000,
        help_text="One a line: the field of the Call API step = the custom parameter of the messaging channel. "
        "Your routing flow gets its value.",
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "orderNumber = Order_Number"}),
    )

    def __init__(self, *args: Any, channel: Channel, **kwargs: Any) -> None:
        initial = {name: getattr(channel, name) for name in self.base_fields if name not in texts.DAYS}
        initial |= {day: channel.business_hours.get(day, []) for day in texts.DAYS}
        super().__init__(*args, initial=initial, **kwargs)
        self.channel = channel
        own, zones = channel.language, sorted({*texts.time_zones(), channel.time_zone})
        self.fields["language"].choices = language_choices({own}, channel.translations)  # type: ignore[attr-defined]
        self.fields["time_zone"].choices = [(zone, zone.replace("_", " ")) for zone in zones]  # type: ignore[attr-defined]

    @property
    def days(self) -> list[forms.BoundField]:
        return [self[day] for day in texts.DAYS]

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Give what was changed, by the fields of the channel: the days of the week are one there."""
        changes = super().changes
        if [day for day in texts.DAYS if changes.pop(day, None)]:
            shown = {day: self.shown(day) for day in texts.DAYS if self.shown(day)}
            wanted = {day: self.cleaned_data[day] for day in texts.DAYS if self.cleaned_data[day]}
            changes["business_hours"] = (shown, wanted)
        return changes

    def blame(self, problems: dict[str, str]) -> None:
        super().blame({"mon" if place == "business_hours" else place: words for place, words in problems.items()})


class TranslationForm(SharedForm):
    """A channel's texts in another language."""

    language = forms.ChoiceField(label="Language")
    welcome = Text("Welcome")
    out_of_hours = Text("Out-of-hours text")
    closing = Text("Closing text")

    def __init__(self, *args: Any, channel: Channel, language: str = "", **kwargs: Any) -> None:
        kept = channel.translations.get(language, {})
        super().__init__(*args, initial={"language": language, **kept}, auto_id=f"{language or 'new'}_%s", **kwargs)
        if language:
            del self.fields["language"]
        else:
            # one that somebody else added meanwhile is told as such, not as no language at all
            there = () if self.is_bound else {channel.language, *channel.translations}
            self.fields["language"].choices = [("", "Choose…"), *language_choices(without=there)]  # type: ignore[attr-defined]
        for name, field in texts.TEXTS.items():
            self.fields[name].widget.attrs["placeholder"] = getattr(channel, field)
        self.code, self.language_name = language, texts.language_name(language) if language else ""

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Give what was changed about the texts."""
        return {name: change for name, change in super().changes.items() if name in texts.TEXTS}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors and not any(cleaned.get(name) for name in texts.TEXTS):
            self.add_error("welcome", "Give at least one text in this language.")
        return cleaned


class AccountForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="For you: which of your accounts it is.", initial="main")
    base_url = Pasted(
        label="Base URL",
        required=False,
        max_length=300,
        help_text="Infobip's portal shows it, such as xyz123.api.infobip.com. Empty: the shared address.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "placeholder": "xyz123.api.infobip.com"}),
    )
    api_key = forms.CharField(
        label="API key",
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="Developer tools, API keys. It is kept encrypted, and never shown again.",
    )

    def __init__(self, *args: Any, account: InfobipAccount | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if account is not None:
            self.fields["api_key"].required = False
            self.fields["api_key"].help_text = "Empty: the present one stays."

    def clean_api_key(self) -> str:
        key = str(self.cleaned_data["api_key"])
        if not can_be_sent(key):
            raise ValidationError(UNSENDABLE_KEY)
        return key


class SenderForm(forms.Form):
    channel = forms.ModelChoiceField(Channel.objects.none(), required=False, empty_label="Not used")
    first = forms.ChoiceField(choices=[("rep", "Rep first"), ("chatbot", "Chatbot first")])

    def __init__(self, *args: Any, org: Org, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["channel"].queryset = org.channels.order_by("name")  # type: ignore[attr-defined]


class TestMessageForm(forms.Form):
    to = forms.CharField(
        label="Your own WhatsApp number",
        max_length=60,
        help_text="Write to the sender from it first: WhatsApp allows free text for 24 hours after that.",
    )

    def clean_to(self) -> str:
        try:
            return phone.parse(self.cleaned_data["to"])
        except phone.NotANumber as exc:
            raise forms.ValidationError(f"{exc} An example is +385 99 123 4567.") from None


class ApiTokenForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        help_text="Of the system that will use it, such as “Order reminders”.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    scopes = forms.MultipleChoiceField(
        label="It may",
        choices=list(SCOPES.items()),
        initial=list(SCOPES),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose what it may do."},
    )
