"""Pages of set-up that belong to messaging: the test message."""

from uuid import uuid4

from django.http import HttpResponse

from connector.http import ApiError
from connector.phone import shown
from tenants.access import PageRequest, signed_in
from tenants.forms import TestMessageForm
from tenants.models import Role
from tenants.views import show_step

TEST_TEXT = "This is a test message of your WhatsApp channel in Salesforce."


@signed_in(Role.ADMIN)
def test_message(request: PageRequest) -> HttpResponse:
    """Send one WhatsApp message to the administrator's own phone, by the org's first sender."""
    sender = request.org.senders.select_related("account", "channel").order_by("pk").first()
    form = TestMessageForm(request.POST or None)
    sent = problem = ""
    if request.method == "POST" and form.is_valid() and sender is not None:
        to = form.cleaned_data["to"]
        try:
            # beside the lanes: it answers at once, and belongs to no conversation
            message = uuid4()
            notify_url = sender.account.report_url(message)
            sender.account.client().send_text(
                sender=sender.number, to=to, text=TEST_TEXT, message_uuid=message, notify_url=notify_url
            )
        except ApiError as exc:
            problem = f"Infobip did not take it: {exc.message}."
        else:
            sent = f"Infobip took it. It arrives if {shown(to)} wrote to {shown(sender.number)} within the last 24 hours."
            request.org.audit(request.member.name, "sent a test message", f"to …{to[-4:]}")
    context = {"form": form, "sender": sender, "sent": sent, "problem": problem}
    return show_step(request, "summary", context, "messaging/test_message.html")
