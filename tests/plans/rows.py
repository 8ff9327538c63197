"""A large site's rows: one org that has most of them, hundreds of small ones, and next to nothing that is due.

Each table is filled by one INSERT … SELECT. Row n of every table that grows belongs to the same org as conversation n, so
that rows find each other by arithmetic. What is not said here about a column comes from the model: its default, else
something of its type. So a new column, or a new table, needs a line here only where it must not be plain.
"""

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import connection, models, transaction

from messaging.models import (
    Address,
    Attempt,
    ChatbotMessage,
    Circuit,
    Conversation,
    Direction,
    EventSubscription,
    Handover,
    Inbox,
    Lane,
    LeftMessage,
    Message,
    ReceivedEvent,
    Session,
    TranscriptLine,
)
from tenants.models import (
    Channel,
    Checkup,
    InfobipAccount,
    Membership,
    Org,
    PendingSignIn,
    SalesforceConnection,
    Sender,
    WebSession,
)
from tenants.tenancy import every_org

ORGS = 300
CONVERSATIONS = 300_000
MESSAGES = 1_000_000
LONG = 20_000  # further messages of the first conversation
OTHERS = 20_000  # rows of every table of which nothing else is said
DUE = 20  # conversations with something due

BIG_ORG = 1
ORG = f"(CASE WHEN n % 5 > 0 THEN {BIG_ORG} ELSE 2 + n % {ORGS - 1} END)"  # of row n: four fifths are the big one's
ONE_AN_ORG = [Org, SalesforceConnection, InfobipAccount, Channel, Sender, EventSubscription, Circuit, Checkup]

CONVERSATION_OF_MESSAGE = f"(CASE WHEN n > {MESSAGES} THEN 1 ELSE 1 + (n - 1) % {CONVERSATIONS} END)"
POSITION = f"(CASE WHEN n > {MESSAGES} THEN n - {MESSAGES} + 9 ELSE 1 + (n - 1) / {CONVERSATIONS} END)"
OUTBOUND = f"(n > {MESSAGES} OR {POSITION} % 2 = 0)"
LANES = len(Direction.values)

EMPTY = {"ArrayField": [], "JSONField": {}, "BinaryField": b"", "BooleanField": False, "CharField": "", "TextField": ""}

Columns = Mapping[str, str]


def address(n: int) -> str:
    """Give the address of the nth conversation's end user."""
    return str(385910000000 + n)


def message_uuid(n: int) -> UUID:
    """Give the id of the nth message."""
    return UUID(hashlib.md5(str(n).encode()).hexdigest())


def session(n: int) -> str:
    """Give Salesforce's id of the nth conversation's session."""
    return f"0Mw{n:012}"


ADDRESS = "(385910000000 + n)::text"
SESSION = "'0Mw' || lpad(n::text, 12, '0')"


# by field
TABLES: dict[type[models.Model], tuple[int, Columns]] = {
    Org: (ORGS, {"salesforce_id": "'00D' || lpad(n::text, 12, '0') || 'AAA'", "name": "'Org ' || n"}),
    SalesforceConnection: (ORGS, {"base_url": "'https://org' || n || '.my.salesforce.com'", "username": "'user ' || n"}),
    InfobipAccount: (ORGS, {"name": "'main'"}),
    Channel: (
        ORGS,
        {
            "name": "'WhatsApp'",
            "channel_address_identifier": "'channel ' || n",
            "custom_event_name": "'Infobip_Event__e'",
        },
    ),
    Sender: (ORGS, {"number": "(447700000000 + n)::text"}),
    EventSubscription: (ORGS, {"topic": "'/event/Infobip_Event__e'"}),
    Circuit: (
        ORGS,
        {
            "upstream": "'infobip'",
            "endpoint_id": "n",
            "opened_at": "CASE WHEN n IN (2, 3) THEN now() - interval '1 hour' END",
            "probe_at": "CASE WHEN n IN (2, 3) THEN now() END",
        },
    ),
    Inbox: (0, {}),
    PendingSignIn: (OTHERS, {"created_at": "now()"}),
    Checkup: (ORGS, {}),
    Conversation: (
        CONVERSATIONS,
        {
            "subject": ADDRESS,
            "name": "CASE WHEN n % 3 > 0 THEN 'Ana ' || n ELSE '' END",
            "identifier": "'conversation ' || n",
            "session": SESSION,
            "last_sender": ORG,
            "window_closes_at": "now() - make_interval(secs => n)",
        },
    ),
    Address: (CONVERSATIONS, {"address": ADDRESS}),
    Lane: (
        CONVERSATIONS * LANES,
        {
            "org": ORG.replace("n %", f"((n - 1) / {LANES} + 1) %"),
            "conversation": f"(n - 1) / {LANES} + 1",
            "direction": f"('{{{','.join(Direction.values)}}}'::text[])[1 + (n - 1) % {LANES}]",
            "position": f"CASE WHEN n <= {LANES} THEN {LONG} + 9 ELSE 4 END",
            "endpoint_id": ORG.replace("n %", f"((n - 1) / {LANES} + 1) %"),
            "version": "10",
            "due_at": f"CASE WHEN n <= {DUE * LANES} THEN now() - interval '1 hour' END",
        },
    ),
    Session: (
        CONVERSATIONS,
        {
            "salesforce_id": SESSION,
            "state": f"CASE WHEN n <= {DUE} THEN 'open' ELSE 'ended' END",
            "due_at": f"CASE WHEN n <= {DUE} THEN now() END",
        },
    ),
    Message: (
        MESSAGES + LONG,
        {
            "org": ORG.replace("n %", f"{CONVERSATION_OF_MESSAGE} %"),
            "channel": ORG.replace("n %", f"{CONVERSATION_OF_MESSAGE} %"),
            "sender": ORG.replace("n %", f"{CONVERSATION_OF_MESSAGE} %"),
            "conversation": CONVERSATION_OF_MESSAGE,
            "lane": f"({CONVERSATION_OF_MESSAGE} - 1) * {LANES} + CASE WHEN {OUTBOUND} THEN "
            f"{1 + Direction.values.index('outbound')} ELSE {1 + Direction.values.index('inbound')} END",
            "direction": f"CASE WHEN {OUTBOUND} THEN 'outbound' ELSE 'inbound' END",
            "position": POSITION,
            "created_at": "now() - make_interval(secs => 3600 + n)",
            "source_entry": "'entry ' || n",
            "text": "'What people write to each other is about as long as this.'",
            "status": f"CASE WHEN n <= {DUE} THEN 'pending' WHEN n % 500 = 0 THEN 'failed' "
            f"WHEN {OUTBOUND} THEN 'read' ELSE 'sent' END",
            "uuid": "md5(n::text)::uuid",
            "reported": f"CASE WHEN NOT {OUTBOUND} OR n <= {CONVERSATIONS} + {DUE} THEN '' "
            "WHEN n % 500 = 0 THEN 'failed' ELSE 'read' END",
        },
    ),
    Attempt: (200_000, {"outcome": "'retry'", "ended_at": "now()"}),
    ReceivedEvent: (
        CONVERSATIONS,
        {
            "account": ORG,
            "key": f"CASE n WHEN 4 THEN 'delivery:{message_uuid(CONVERSATIONS + 1)}:9' WHEN 5 THEN 'message:entry 1' "
            "ELSE 'key ' || n END",
            "kind": "CASE WHEN n % 5000 = 1 THEN 'unreadable' ELSE 'MessageReceived' END",
            "body": "decode(repeat('7b7d', 100), 'hex')",
            "problem": "CASE WHEN n % 1000 = 0 OR n % 5000 = 1 THEN 'a problem' ELSE '' END",
        },
    ),
    Handover: (
        60_000,
        {
            "state": f"CASE WHEN n <= {DUE} THEN 'reading' ELSE 'ended' END",
            "due_at": f"CASE WHEN n <= {DUE} THEN now() END",
            "conversation": "n",
            "infobip_conversation": "'conversation ' || n",
            "problem": "CASE WHEN n % 1000 = 0 THEN 'a problem' ELSE '' END",
        },
    ),
    ChatbotMessage: (CONVERSATIONS, {"infobip_conversation": "'conversation ' || n", "infobip_id": "'message ' || n"}),
    LeftMessage: (CONVERSATIONS, {"conversation": "n", "source_entry": "'entry ' || n", "settled": "n > 20"}),
    TranscriptLine: (
        CONVERSATIONS,
        {
            "conversation": "n",
            "handover": "n",
            "infobip_conversation": "'conversation ' || n",
            "infobip_id": "'message ' || n",
            "channel_id": "'entry ' || n",
            "likeness": "'likeness ' || n % 1000",
            "author": "'end user'",
            "state": "'shown'",
        },
    ),
    Membership: (OTHERS, {"role": "CASE WHEN n % 1000 = 1 THEN 'admin' ELSE 'rep' END", "username": "'user ' || n"}),
    WebSession: (OTHERS, {"member": "n"}),
}


def tables() -> list[type[models.Model]]:
    """Give the tables of ours, each after those that it points at."""
    left = [model for app in ("tenants", "messaging") for model in apps.get_app_config(app).get_models()]
    ours = list(left)
    ordered: list[type[models.Model]] = []
    while left:
        ready = [model for model in left if not (_targets(model) & set(ours)) - set(ordered)]
        ordered += ready
        left = [model for model in left if model not in ready]
    return ordered


def _targets(model: type[models.Model]) -> set[Any]:
    return {field.related_model for field in model._meta.concrete_fields if isinstance(field, models.ForeignKey)}


def fill_all() -> None:
    """Fill every table, without its indexes and constraints, which are put back as they were.

    All or nothing. Foreign keys are not checked for these rows, only for what comes later.
    """
    with every_org(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")
        cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
        cursor.execute("SET LOCAL statement_timeout = 0")
        names = [model._meta.db_table for model in tables()]
        put_back = _take_down(cursor, names)
        for name in names:
            cursor.execute(f"ALTER TABLE {name} SET UNLOGGED")
        for model in tables():
            _fill(cursor, model, *TABLES.get(model, (OTHERS, {})))
        for statement in put_back:
            cursor.execute(statement)
        for name in names:  # nothing but a test decides what the planner knows
            cursor.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = false)")
            cursor.execute(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")


def empty_all() -> None:
    """Leave every table as it was before."""
    with transaction.atomic(), connection.cursor() as cursor:
        names = [model._meta.db_table for model in tables()]
        cursor.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE")
        for name in names:
            cursor.execute(f"ALTER TABLE {name} SET LOGGED")
            cursor.execute(f"ALTER TABLE {name} RESET (autovacuum_enabled)")
        cursor.execute(
            """SELECT conrelid::regclass, quote_ident(conname) FROM pg_constraint
               WHERE NOT convalidated AND conrelid = ANY(%s::regclass[])""",
            [names],
        )
        for table, constraint in cursor.fetchall():
            cursor.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}")


def _take_down(cursor: Any, names: list[str]) -> list[str]:
    """Drop what makes inserting slow, and give the statements that make it again."""
    cursor.execute(
        """SELECT conrelid::regclass::text, quote_ident(conname), contype, pg_get_constraintdef(oid) FROM pg_constraint
           WHERE conrelid = ANY(%s::regclass[]) AND contype IN ('f', 'u') ORDER BY contype""",
        [names],
    )
    constraints = cursor.fetchall()
    for table, name, _, _ in constraints:
        cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    cursor.execute(
        """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
           WHERE indrelid = ANY(%s::regclass[]) AND NOT indisprimary""",
        [names],
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    ending = {"f": " NOT VALID", "u": ""}
    again = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {made}{ending[kind]}" for table, name, kind, made in constraints]
    return [*(made for _, made in indexes), *reversed(again)]


def _fill(cursor: Any, model: type[models.Model], count: int, columns: Columns) -> None:
    names, expressions, parameters = ["id"], ["n"], []
    fields = {field.name: field for field in model._meta.concrete_fields if not field.primary_key}
    assert columns.keys() <= fields.keys(), f"{model.__name__} has no {columns.keys() - fields.keys()}"
    for name, field in fields.items():
        if name not in columns and (field.null or field.has_db_default()):
            continue
        expression, values = (columns[name], []) if name in columns else _plain(field, model)
        names.append(f'"{field.column}"')
        expressions.append(expression)
        parameters += values
    cursor.execute(
        f"INSERT INTO {model._meta.db_table} ({', '.join(names)}) "
        f"SELECT {', '.join(expressions)} FROM generate_series(1, {count}) AS n".replace("%", "%%").replace("%%s", "%s"),
        parameters,
    )


def _plain(field: Any, model: type[models.Model]) -> tuple[str, list[Any]]:
    """Give an expression for a column of which nothing is said."""
    if isinstance(field, models.ForeignKey):
        if field.related_model in ONE_AN_ORG:
            return ("n" if model in ONE_AN_ORG else ORG), []
        return "n", []
    if isinstance(field, models.UUIDField):
        return "gen_random_uuid()", []
    if isinstance(field, models.DateTimeField):
        return "now() - make_interval(secs => n)", []
    if isinstance(field, models.CharField) and (field.unique or _is_key(field, model)):
        return f"left('{field.name}-' || n, {field.max_length})", []
    if field.has_default():
        value = field.get_default()
    else:
        value = field.choices[0][0] if field.choices else EMPTY.get(field.get_internal_type(), 0)
    return "%s", [field.get_db_prep_save(value, connection)]


def _is_key(field: Any, model: type[models.Model]) -> bool:
    return any(
        field.name in constraint.fields
        for constraint in model._meta.constraints
        if isinstance(constraint, models.UniqueConstraint)
    )
