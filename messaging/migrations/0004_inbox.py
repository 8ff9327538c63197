from django.db import migrations, models

import messaging.models
from tenants.tenancy import SETTING, isolation


class Migration(migrations.Migration):
    dependencies = [("messaging", "0003_chatbot_and_sessions")]

    operations = [
        migrations.CreateModel(
            name="Inbox",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("org_id", models.BigIntegerField()),
                ("account_id", models.BigIntegerField()),
                ("body", models.BinaryField(help_text="as it came")),
                ("received_at", models.DateTimeField(db_default=messaging.models.ClockTimestamp())),
            ],
            options={"verbose_name_plural": "inbox"},
        ),
        # its index is what an org's arrivals are read by, oldest first
        isolation("messaging_inbox", unique="org_id, id"),
        # The writer serves all orgs on one connection. A policy to append, and only for who has no scope, shows it nothing;
        # who has the scope of one org still cannot append to another's.
        migrations.RunSQL(
            f"""CREATE POLICY messaging_inbox_append ON messaging_inbox FOR INSERT
                WITH CHECK ((SELECT NULLIF(current_setting('{SETTING}', true), '')) IS NULL)""",
            "DROP POLICY messaging_inbox_append ON messaging_inbox",
        ),
        # Rows live for a second: vacuum soon, whatever the size, and without the pauses that spare large tables; never give
        # pages back, which locks the table against appending; do not spend CPU on compressing.
        migrations.RunSQL(
            """ALTER TABLE messaging_inbox ALTER body SET STORAGE EXTERNAL, SET (
                   autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
                   autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000,
                   autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off,
                   toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000,
                   toast.autovacuum_vacuum_cost_delay = 0, toast.vacuum_truncate = off)""",
            migrations.RunSQL.noop,  # it goes with the table
        ),
    ]
