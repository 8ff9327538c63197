from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("messaging", "0013_sessions_seen_and_early_reps")]

    operations = [
        migrations.AddIndex(
            model_name="receivedevent",
            index=models.Index(
                condition=models.Q(("kind", "unreadable")), fields=["org", "-received_at"], name="arrival_unreadable"
            ),
        ),
    ]
