from django.db import migrations

# in this order, as each is one statement on rows that the others do not touch
FORWARD = [
    "SET LOCAL \"connector.org\" = '*'",
    # what processes of before were trying when they were replaced: nobody knows what came of it
    """UPDATE messaging_attempt SET outcome = 'in doubt', ended_at = COALESCE(ended_at, clock_timestamp()),
           detail = 'the process that made this try is gone' WHERE outcome = 'open'""",
    # circuits are as fine as what is configured now; what an org's was says nothing of one account or channel
    "DELETE FROM messaging_circuit",
    # others are told when something comes
    """UPDATE messaging_lane lane SET endpoint_id = CASE WHEN lane.direction = 'outbound' THEN COALESCE((
               SELECT account_id FROM tenants_sender WHERE id = conversation.last_sender_id), 0)
           ELSE conversation.channel_id END
       FROM messaging_conversation conversation
       WHERE conversation.id = lane.conversation_id AND lane.due_at IS NOT NULL""",
    # times that cannot be loaded stopped whoever read them
    """UPDATE messaging_message SET written_at = created_at
       WHERE written_at NOT BETWEEN '1970-01-01T00:00:00Z' AND '9000-01-01T00:00:00Z'""",
    """UPDATE messaging_message SET status_at = created_at
       WHERE status_at NOT BETWEEN '1970-01-01T00:00:00Z' AND '9000-01-01T00:00:00Z'""",
    """UPDATE messaging_conversation SET window_closes_at = NULL
       WHERE window_closes_at NOT BETWEEN '1970-01-01T00:00:00Z' AND '9000-01-01T00:00:00Z'""",
]


class Migration(migrations.Migration):
    dependencies = [("messaging", "0006_engine")]

    operations = [migrations.RunSQL(FORWARD, migrations.RunSQL.noop)]
