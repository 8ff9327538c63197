from django.urls import path

from messaging import webhooks

urlpatterns = [
    path("api/infobip/inbound/messages", webhooks.inbound_messages, name="inbound-messages"),
    path("api/infobip/inbound/messages/<uuid:account_uuid>", webhooks.inbound_messages, name="inbound-messages-of"),
]
