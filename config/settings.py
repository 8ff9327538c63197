"""The only settings; values come from the environment, which .env.example lists."""

import logging
import sys
from pathlib import Path
from typing import Any

import environ
import structlog

from config import redis_url

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
if (BASE_DIR / ".env").exists():
    env.read_env(BASE_DIR / ".env")

# Security. An empty secret is a system check error (tenants/checks.py), not a surprise.
SECRET_KEY = env.str("SECRET_KEY", "") or "insecure-until-set"
FIELD_ENCRYPTION_KEYS: list[str] = env.list("FIELD_ENCRYPTION_KEYS", default=[])
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1"])
PUBLIC_URL: str = env.str("PUBLIC_URL", "http://localhost:8000").rstrip("/")
ALLOW_LOCAL_UPSTREAMS: bool = env.bool("ALLOW_LOCAL_UPSTREAMS", False)
DEBUG = False
SECURE_CONTENT_TYPE_NOSNIFF = True
# no stricter: with "no-referrer" Chromium posts every form with `Origin: null`, and nobody could sign in to the admin.
# https://fetch.spec.whatwg.org/#append-a-request-origin-header
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups"  # the window of a sign-in hands back to the page
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]

# Our largest form has three texts of 4,096 characters, each with what it was before, and up to nine bytes a character.
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024

# The house
WEB_THREADS: int = env.int("WEB_THREADS", 16)  # pages that `web` works on at once; the door needs none
ROOT_URLCONF = "config.urls"
INSTALLED_APPS = [
    "templates_ui",
    "messaging",
    "tenants",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_htmx",
    "drf_spectacular",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tenants.middleware.content_policy",
    "tenants.middleware.BoundedPages",
    "tenants.middleware.operators_see_every_org",
]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# PostgreSQL. `web` keeps one connection per thread; the other processes set DATABASE_POOL and share a few. DATABASE_URL has
# the last word, also by `options` of its own. `manage.py migrate` lifts the limits that would cut it.
DATABASES: dict[str, Any] = {"default": env.db("DATABASE_URL", "postgres://localhost/connector")}
_pooled: bool = env.bool("DATABASE_POOL", False)
# What each session is told: https://www.postgresql.org/docs/current/runtime-config-client.html
DATABASE_SESSION: dict[str, str] = {
    # One row that somebody holds must not hold up a turn that serves all orgs; but a deadlock is found after a second.
    "lock_timeout": "2s",
    # Whoever waits for a page has given up by then; behind it only the deletions of retention take seconds.
    "statement_timeout": "30s" if _pooled else "15s",
    # A process that freezes in a transaction gives up the rows it holds. None of ours does anything else in one.
    "idle_in_transaction_session_timeout": "10s" if _pooled else "20s",
    # What the server holds for a host that died (locks, a slot of max_connections) is free after some ten seconds.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",  # milliseconds
    # PostgreSQL plans a repeated statement once, and keeps the plan whatever the parameters. It goes by indexes even where
    # tables are empty when it is made: every query on the way of a message has an index, and a table may grow by a million
    # rows before its statistics are renewed.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
}
# What our own end is told: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_ends: dict[str, Any] = {
    "connect_timeout": 2,  # seconds; PostgreSQL's smallest
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds that a statement may wait for the other host to acknowledge it
}
_given: dict[str, Any] = DATABASES["default"].get("OPTIONS", {})
_told = " ".join(f"-c {name}={value}" for name, value in DATABASE_SESSION.items())
DATABASES["default"]["OPTIONS"] = {
    **_ends,
    **_given,
    "options": f"{_told} {_given.get('options', '')}".strip(),  # of two values for one name the last counts
    "server_side_binding": True,
    "prepare_threshold": 3,
}
if _pooled:
    # the pool's own defaults took a minute to recover after an outage, and waited half a minute for a connection
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": 6,
        "timeout": 2,
        "reconnect_timeout": 3,
        "max_lifetime": 600,
    }
else:
    # A server that became a replica answers reads as before: nobody reads from it for longer than a minute.
    DATABASES["default"]["CONN_MAX_AGE"] = 60
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # after a restart of the server no request fails
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis or Valkey: Celery's broker, and a cache. Nothing in it is the only copy of anything.
REDIS_URL, REDIS_TLS = redis_url.read(
    env.str("REDIS_URL", "redis://localhost:6379/0"), verify=env.bool("REDIS_VERIFY", True)
)

# Celery
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_USE_SSL = REDIS_TLS or False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_WORKER_CONSUMER = "config.consumer:PatientConsumer"
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True  # means none of ours; off, it warns
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 2,
    "socket_timeout": 3,  # for one answer: the wait for a task is no call
    "socket_keepalive": True,
    "health_check_interval": 5,  # a Redis that is silent for so long is connected to anew
    "visibility_timeout": 3600,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # a task that is lost costs a second, or is made again by beat
CELERY_TASK_DEFAULT_QUEUE = "connector"
CELERY_TASK_SERIALIZER = "json"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = False
CELERY_TIMEZONE = "UTC"

# The lanes
CALLS_UNDER_WAY: int = env.int("CALLS_UNDER_WAY", 256)  # at once, per worker

# The platforms
SALESFORCE_PUBSUB_ENDPOINT: str = env.str("SALESFORCE_PUBSUB_ENDPOINT", "api.pubsub.salesforce.com:7443")
INFOBIP_SIGNATURE_HEADER: str = env.str("INFOBIP_SIGNATURE_HEADER", "X-Hub-Signature")
OUTBOUND_ADDRESSES: list[str] = env.list("OUTBOUND_ADDRESSES", default=[])  # that we call from; empty: they may change
LARGEST_WEBHOOK: int = env.int("LARGEST_WEBHOOK", 16 * 1024 * 1024)  # bytes
BARE_WEBHOOK_PATH: bool = env.bool("BARE_WEBHOOK_PATH", True)  # the address without an account, for what cannot be changed

# Our own API
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Service Cloud Connector",
    "DESCRIPTION": "Opens conversations of Salesforce Service Cloud with WhatsApp users who have not written first.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
}

# Language and time
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
FORMAT_MODULE_PATH = "config.formats"

# Static files
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # straight from the packages: nothing is collected, DISABLE_COLLECTSTATIC=1 on Heroku
WHITENOISE_AUTOREFRESH = False

# Logs: one JSON object a line, with ids and never with a token or a text; on standard output, and of commands on the other.
LOG_LEVEL: str = env.str("LOG_LEVEL", "INFO")
LOG_STREAM: Any = sys.stderr if env.str("LOG_STREAM", "stdout") == "stderr" else sys.stdout
_shared: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _shared,
            "processors": [
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        }
    },
    "handlers": {
        "lines": {"class": "logging.StreamHandler", "stream": LOG_STREAM, "formatter": "json"},
        "counted": {"class": "config.counted.CountedHandler"},
    },
    "root": {"handlers": ["lines"], "level": LOG_LEVEL},
    "loggers": {
        "celery": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        "urllib3": {"level": "ERROR"},
        "psycopg.pool": {"level": "ERROR"},
        "django.request": {"level": "ERROR", "handlers": ["counted"], "propagate": False},
        "django.security": {"handlers": ["counted"], "propagate": False},
    },
}
logging.captureWarnings(True)
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_shared,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
