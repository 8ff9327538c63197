from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0005_api_tokens")]

    operations = [
        migrations.AddField(
            model_name="sender",
            name="retired_at",
            field=models.DateTimeField(blank=True, help_text="since when it is not used; empty: it is", null=True),
        )
    ]
