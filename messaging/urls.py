from django.urls import path

from messaging import views, webhooks
from messaging.api.schema import schema
from messaging.api.views import Conversations

urlpatterns = [
    path("api/infobip/inbound/answers", webhooks.inbound_answers, name="inbound-answers"),
    path("api/infobip/inbound/answers/<uuid:account_uuid>", webhooks.inbound_answers, name="inbound-answers-of"),
    path("api/v1/conversations", Conversations.as_view(), name="conversations"),
    path("api/schema/", schema, name="schema"),
    path("e/<slug:handle>/test-message", views.test_message, name="test_message"),
]
