import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

from tenants.tenancy import isolation


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0004_chatbot_and_texts"),
    ]

    operations = [
        migrations.CreateModel(
            name="ApiToken",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100)),
                (
                    "scopes",
                    django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=40), size=None),
                ),
                ("token_hash", models.CharField(max_length=64, unique=True)),
                ("prefix", models.CharField(help_text="its first characters, by which people know it", max_length=12)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("created_by", models.CharField(max_length=200)),
                ("last_used_at", models.DateTimeField(blank=True, help_text="accurate to a few minutes", null=True)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "org",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="api_tokens", to="tenants.org"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="ApiCall",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=255)),
                ("body_hash", models.CharField(max_length=64)),
                (
                    "message_uuid",
                    models.UUIDField(blank=True, help_text="of the template that it queued", null=True),
                ),
                ("answer", models.JSONField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "leased_until",
                    models.DateTimeField(blank=True, help_text="a process works on it; empty: none does", null=True),
                ),
                (
                    "org",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="api_calls", to="tenants.org"
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["org", "created_at"], name="api_call_age")],
                "constraints": [models.UniqueConstraint(fields=("org", "key"), name="api_call_once")],
            },
        ),
        isolation("tenants_apitoken"),
        isolation("tenants_apicall"),
    ]
