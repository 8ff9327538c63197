from django.urls import path

from messaging import views, webhooks

urlpatterns = [
    path("api/infobip/inbound/messages", webhooks.inbound_messages, name="inbound-messages"),
    path("api/infobip/inbound/messages/<uuid:account_uuid>", webhooks.inbound_messages, name="inbound-messages-of"),
    path("api/infobip/inbound/answers", webhooks.inbound_answers, name="inbound-answers"),
    path("api/infobip/inbound/answers/<uuid:account_uuid>", webhooks.inbound_answers, name="inbound-answers-of"),
    path("e/<slug:handle>/test-message", views.test_message, name="test_message"),
]
