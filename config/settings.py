"""The only settings; values come from the environment, which .env.example lists."""

import logging
import sys
from pathlib import Path
from typing import Any

import environ
import structlog

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

# The house
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
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

# PostgreSQL. `web` keeps one connection per thread; the other processes set DATABASE_POOL and share a few.
DATABASES: dict[str, Any] = {"default": env.db("DATABASE_URL", "postgres://localhost/connector")}
if env.bool("DATABASE_POOL", False):
    # the pool's own defaults took a minute to recover after an outage, and waited half a minute for a connection
    DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {
        "min_size": 1,
        "max_size": 6,
        "timeout": 2,
        "reconnect_timeout": 3,
    }
else:
    DATABASES["default"]["CONN_MAX_AGE"] = 600  # without health checks: the door tries again on a new connection
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 2)
# PostgreSQL plans a repeated statement once. (Poolers in transaction mode cannot serve us anyway: see tenants/tenancy.py.)
# Plans are kept whatever the parameters, and go by indexes even where tables are empty when they are made: every query on
# the way of a message has an index, and a table may grow by a million rows before its statistics are renewed.
_plans = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off"
DATABASES["default"]["OPTIONS"] |= {
    "server_side_binding": True,
    "prepare_threshold": 3,
    "options": f"{_plans} {DATABASES['default']['OPTIONS'].get('options', '')}".strip(),
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis or Valkey: Celery's broker, the token cache, the bell. Nothing in it is the only copy of anything.
REDIS_URL: str = env.str("REDIS_URL", "redis://localhost:6379/0")

# Celery
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_connect_timeout": 2, "socket_timeout": 30, "visibility_timeout": 3600}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # a task that is lost costs a second, or is made again by beat
CELERY_TASK_DEFAULT_QUEUE = "connector"
CELERY_TASK_SERIALIZER = "json"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = False
CELERY_TIMEZONE = "UTC"

# The lanes
LANE_THREADS: int = env.int("LANE_THREADS", 64)  # calls to the far sides under way at once, per worker

# The platforms
SALESFORCE_PUBSUB_ENDPOINT: str = env.str("SALESFORCE_PUBSUB_ENDPOINT", "api.pubsub.salesforce.com:7443")
INFOBIP_SIGNATURE_HEADER: str = env.str("INFOBIP_SIGNATURE_HEADER", "X-Hub-Signature")
OUTBOUND_ADDRESSES: list[str] = env.list("OUTBOUND_ADDRESSES", default=[])  # that we call from; empty: they may change
LARGEST_WEBHOOK: int = env.int("LARGEST_WEBHOOK", 16 * 1024 * 1024)  # bytes
DATA_UPLOAD_MAX_MEMORY_SIZE = LARGEST_WEBHOOK

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

# Static files
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # straight from the packages: nothing is collected, DISABLE_COLLECTSTATIC=1 on Heroku
WHITENOISE_AUTOREFRESH = False

# Logs: one JSON object a line, on standard output, with ids and never with a token or a text.
LOG_LEVEL: str = env.str("LOG_LEVEL", "INFO")
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
    "handlers": {"lines": {"class": "logging.StreamHandler", "stream": sys.stdout, "formatter": "json"}},
    "root": {"handlers": ["lines"], "level": LOG_LEVEL},
    "loggers": {
        "celery": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        "urllib3": {"level": "ERROR"},
        "psycopg.pool": {"level": "ERROR"},
        "django.request": {"level": "ERROR"},
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
