from django.db import migrations

from tenants.tenancy import isolation


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_tables")]

    operations = [
        isolation("tenants_org", org_column="id"),
        isolation("tenants_salesforceconnection"),
        isolation("tenants_infobipaccount"),
        isolation("tenants_channel"),
        isolation(
            "tenants_sender",
            references={"account_id": "tenants_infobipaccount", "channel_id": "tenants_channel"},
        ),
    ]
