from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0007_doctor_states")]

    operations = [
        migrations.AddIndex(
            model_name="membership",
            index=models.Index(fields=["org", "role", "-signed_in_at"], name="member_newest"),
        ),
        migrations.AddIndex(
            model_name="membership",
            index=models.Index(fields=["username"], name="member_username"),
        ),
        migrations.AlterModelOptions(name="auditentry", options={"verbose_name_plural": "audit entries"}),
    ]
