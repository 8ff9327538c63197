from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("messaging", "0008_bounded_times")]

    operations = [
        # operators look for it without naming an org; and with one it serves as well
        migrations.RunSQL(
            "DROP INDEX conversation_identifier",
            "CREATE INDEX conversation_identifier ON messaging_conversation (org_id, identifier)",
        ),
        migrations.AddIndex(
            model_name="address",
            index=models.Index(fields=["address"], name="address_anywhere"),
        ),
        migrations.AddIndex(
            model_name="address",
            index=models.Index(fields=["conversation"], name="address_of_conversation"),
        ),
        migrations.AddIndex(
            model_name="conversation",
            index=models.Index(fields=["org", "-id"], name="conversation_newest"),
        ),
        migrations.AddIndex(
            model_name="conversation",
            index=models.Index(fields=["identifier", "org"], name="conversation_identifier"),
        ),
        migrations.AddIndex(
            model_name="handover",
            index=models.Index(fields=["infobip_conversation"], name="handover_anywhere"),
        ),
        migrations.AddIndex(
            model_name="handover",
            index=models.Index(
                condition=models.Q(("problem", ""), _negated=True),
                fields=["org", "-called_at"],
                name="handover_with_problem",
            ),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(condition=models.Q(("status", "failed")), fields=["-id"], name="message_failed_newest"),
        ),
        migrations.AddIndex(
            model_name="message",
            index=models.Index(
                condition=models.Q(("status", "failed")), fields=["org", "-id"], name="message_failed_of_org"
            ),
        ),
        migrations.AddIndex(
            model_name="receivedevent",
            index=models.Index(
                condition=models.Q(("problem", ""), _negated=True), fields=["-id"], name="arrival_problem_newest"
            ),
        ),
        migrations.AddIndex(
            model_name="session",
            index=models.Index(fields=["org", "-opened_at"], name="session_of_org_newest"),
        ),
        migrations.AddIndex(
            model_name="session",
            index=models.Index(fields=["salesforce_id"], name="session_anywhere"),
        ),
    ]
