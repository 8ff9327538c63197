"""How a process tells others that there is something to do, through PostgreSQL; losing a wake costs seconds."""

INBOX_CHANNEL = "connector_inbox"  # NOTIFY: the door appended to the inbox
