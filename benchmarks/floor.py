"""The floor of the door: a bare Django view that checks the HMAC, parses, and does one INSERT. Nothing of ours."""

import hashlib
import hmac
import json
import os

import environ
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

SECRET = os.environ.get("BENCH_SECRET", "").encode()


def receive(request: HttpRequest) -> HttpResponse:
    """Take a webhook."""
    signature = "SHA256=" + hmac.new(SECRET, request.body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature, request.headers.get("X-Hub-Signature", "")):
        return HttpResponse(status=401)
    (result,) = json.loads(request.body)["results"]
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO bench_arrival (key, body) VALUES (%s, %s)", [result["messageId"], request.body])
    return HttpResponse()


urlpatterns = [path("", receive)]

if not settings.configured:
    database = environ.Env().db("DATABASE_URL")
    # persistent connections and prepared statements, as the connector has them
    database |= {"CONN_MAX_AGE": 600, "OPTIONS": {"server_side_binding": True, "prepare_threshold": 3}}
    settings.configure(
        SECRET_KEY="of the floor",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": database},
        USE_TZ=True,
    )
    application = get_wsgi_application()
