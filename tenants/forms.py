"""What people fill in. Forms check the shape; whether it works is tried against the live API before it is kept."""

from typing import Any

from django import forms

from tenants.api_tokens import SCOPES
from tenants.models import Channel, InfobipAccount, Org


class MyDomainForm(forms.Form):
    my_domain = forms.CharField(
        label="My Domain",
        max_length=300,
        help_text="Such as acme.my.salesforce.com; Setup shows it under My Domain. A Lightning page's address works too.",
        widget=forms.TextInput(
            attrs={"autofocus": True, "spellcheck": "false", "autocomplete": "url", "placeholder": "acme.my.salesforce.com"}
        ),
    )


class ConnectionForm(forms.Form):
    consumer_key = forms.CharField(
        max_length=300,
        help_text="External Client App Manager: the app, Settings, OAuth Settings. The consumer secret is not needed.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )
    username = forms.CharField(
        max_length=200,
        help_text="The user as whom messages come in. In a sandbox it ends with the sandbox's name: byoc@acme.com.uat.",
        widget=forms.TextInput(attrs={"spellcheck": "false", "autocomplete": "off"}),
    )


class SettingsForm(ConnectionForm):
    scrt_url = forms.CharField(
        label="SCRT URL",
        max_length=300,
        help_text="Derived from My Domain; change it only if Salesforce tells you another one.",
    )


class ChannelForm(forms.Form):
    found = forms.ChoiceField(label="Messaging channel", widget=forms.RadioSelect, required=False)
    pasted = forms.CharField(
        label="Or paste its channel address identifier",
        required=False,
        max_length=240,
        help_text="Setup shows it on the channel's page, also under the name Messaging Platform Key.",
    )
    context = forms.CharField(
        label="Authorization context",
        required=False,
        max_length=100,
        help_text="The developer name of the channel's definition. Empty: as found in the org.",
    )
    welcome = forms.CharField(
        label="Welcome message", required=False, max_length=4096, widget=forms.Textarea(attrs={"rows": 2, "dir": "auto"})
    )
    closing = forms.CharField(
        label="Closing message", required=False, max_length=4096, widget=forms.Textarea(attrs={"rows": 2, "dir": "auto"})
    )


class AccountForm(forms.Form):
    name = forms.CharField(max_length=100, help_text="For you: which of your accounts it is.", initial="main")
    base_url = forms.CharField(
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


class SenderForm(forms.Form):
    channel = forms.ModelChoiceField(Channel.objects.none(), required=False, empty_label="Not used")
    first = forms.ChoiceField(choices=[("rep", "Rep first"), ("chatbot", "Chatbot first")])

    def __init__(self, *args: Any, org: Org, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["channel"].queryset = org.channels.order_by("name")  # type: ignore[attr-defined]


class TestMessageForm(forms.Form):
    to = forms.RegexField(
        r"^\+?[0-9 ()-]{6,24}$",
        label="Your own WhatsApp number",
        help_text="Write to the sender from it first: WhatsApp allows free text for 24 hours after that.",
        error_messages={"invalid": "Give the number with its country code, such as +385 99 123 4567."},
    )


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
