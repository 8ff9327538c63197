from django.db import migrations

from tenants.tenancy import isolation

CONVERSATION = {"conversation_id": "messaging_conversation"}
CHANNEL = {"channel_id": "tenants_channel"}


class Migration(migrations.Migration):
    dependencies = [("messaging", "0001_tables"), ("tenants", "0002_isolation")]

    operations = [
        isolation("messaging_eventsubscription"),
        isolation(
            "messaging_receivedevent",
            references={"account_id": "tenants_infobipaccount", "subscription_id": "messaging_eventsubscription"},
        ),
        isolation("messaging_conversation", references={**CHANNEL, "last_sender_id": "tenants_sender"}),
        isolation("messaging_address", references={**CHANNEL, **CONVERSATION}),
        isolation("messaging_lane", references=CONVERSATION),
        isolation(
            "messaging_message",
            references={"lane_id": "messaging_lane", "sender_id": "tenants_sender", **CHANNEL, **CONVERSATION},
        ),
        isolation("messaging_attempt", references={"message_id": "messaging_message"}),
        isolation("messaging_circuit"),
        # the lanes' rows are rewritten many times a second: room on each page keeps that off the indexes
        migrations.RunSQL(
            "ALTER TABLE messaging_lane SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02)",
            "ALTER TABLE messaging_lane RESET (fillfactor, autovacuum_vacuum_scale_factor)",
        ),
    ]
