from django.db import migrations

STATES = {"good": "ok", "bad": "failed"}


def rename(states: dict[str, str]) -> list[str]:
    """Write the statements that change the states of the findings that are kept."""
    changed = "findings::text"
    for old, new in states.items():
        changed = f"""replace({changed}, '"state": "{old}"', '"state": "{new}"')"""
    return [
        "SELECT set_config('connector.org', '*', true)",  # a migration sees no rows without a scope
        f"UPDATE tenants_checkup SET findings = ({changed})::jsonb",
        "SELECT set_config('connector.org', '', true)",
    ]


class Migration(migrations.Migration):
    dependencies = [("tenants", "0006_senders_retire")]

    operations = [migrations.RunSQL(rename(STATES), rename({new: old for old, new in STATES.items()}))]
