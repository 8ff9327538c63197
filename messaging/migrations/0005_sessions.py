"""What sessions and hand-overs need to cost no more than what is due: by org, and a place for what goes wrong with them."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("messaging", "0004_inbox")]

    operations = [
        migrations.RenameField("handover", "raised_at", "held_at"),
        migrations.AlterField(
            "handover",
            "held_at",
            models.DateTimeField(blank=True, help_text="since when live messages wait for the transcript", null=True),
        ),
        migrations.RemoveIndex("session", "session_due"),
        migrations.RemoveIndex("handover", "handover_due"),
        migrations.RemoveIndex("chatbotmessage", "chatbot_message_newest"),
        migrations.AddField(
            "session", "tries", models.PositiveIntegerField(db_default=0, default=0, help_text="failed in a row")
        ),
        migrations.AddField("session", "problem", models.CharField(blank=True, db_default="", max_length=300)),
        migrations.AlterField(
            "session",
            "conversation",
            models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="sessions",
                to="messaging.conversation",
            ),
        ),
        migrations.AlterField(
            "handover",
            "conversation",
            models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="handovers",
                to="messaging.conversation",
            ),
        ),
        migrations.AddIndex(
            "session",
            models.Index(condition=models.Q(("due_at__isnull", False)), fields=["org", "due_at"], name="session_due"),
        ),
        migrations.AddIndex(
            "session",
            models.Index(
                condition=models.Q(("problem", ""), _negated=True),
                fields=["org", "-opened_at"],
                name="session_with_problem",
            ),
        ),
        migrations.AddIndex(
            "handover",
            models.Index(condition=models.Q(("due_at__isnull", False)), fields=["org", "due_at"], name="handover_due"),
        ),
        migrations.AddIndex("handover", models.Index(fields=["org", "-called_at"], name="handover_newest")),
        migrations.AddIndex("handover", models.Index(fields=["conversation", "state"], name="handover_of_conversation")),
        migrations.AddIndex(
            "chatbotmessage",
            models.Index(fields=["infobip_conversation", "account", "-at"], name="chatbot_message_newest"),
        ),
        # events of Salesforce name a conversation by this
        migrations.RunSQL(
            "CREATE INDEX conversation_identifier ON messaging_conversation (org_id, identifier)",
            "DROP INDEX conversation_identifier",
        ),
        # the rows of open sessions are written every few minutes: what is left behind goes before it slows the look for what
        # is due
        migrations.RunSQL(
            "ALTER TABLE messaging_session SET (autovacuum_vacuum_scale_factor = 0.02)",
            "ALTER TABLE messaging_session RESET (autovacuum_vacuum_scale_factor)",
        ),
    ]
