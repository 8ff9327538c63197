"""Reads REDIS_URL once for both clients that use it, which would each read it in another way.

Of `rediss://` without more, redis-py verifies the certificate and kombu does not. Both take the same options by keyword:
https://redis.readthedocs.io/en/stable/connections.html#redis.SSLConnection and
https://docs.celeryq.dev/en/stable/userguide/configuration.html#broker-use-ssl
"""

import os
import ssl
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from django.core.exceptions import ImproperlyConfigured

VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", *FILES)


def read(url: str, *, verify: bool = True) -> tuple[str, dict[str, Any]]:
    """Split a URL into one without options, and the options of TLS; the latter are empty for `redis://`.

    :param verify: whether the server's certificate is verified where the URL does not say
    :raises ImproperlyConfigured: if it cannot be used; with what to change, and never with the URL, which holds a password
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise ImproperlyConfigured("REDIS_URL names no host. In a password, / is written %2F, # is %23 and ? is %3F.")
    if parts.scheme not in ("redis", "rediss"):
        raise ImproperlyConfigured("REDIS_URL must begin with redis:// or rediss://.")
    if not (parts.path.strip("/") or "0").isdecimal():
        raise ImproperlyConfigured("REDIS_URL must end with the number of a database, such as /0.")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - set(OPTIONS)):
        raise ImproperlyConfigured(f"REDIS_URL: {', '.join(unknown)} is not known; known are {', '.join(OPTIONS)}.")
    if given and parts.scheme == "redis":
        raise ImproperlyConfigured("REDIS_URL: redis:// has no certificates. Write rediss://.")
    options = _tls_options(given, verify=verify) if parts.scheme == "rediss" else {}
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), options


def _tls_options(given: dict[str, str], *, verify: bool) -> dict[str, Any]:
    word = given.get("ssl_cert_reqs", "required" if verify else "none").lower().removeprefix("cert_")
    if word not in VERIFY:
        raise ImproperlyConfigured(f"REDIS_URL: ssl_cert_reqs must be one of {', '.join(VERIFY)}.")
    check_hostname = given.get("ssl_check_hostname", "true").lower()
    if check_hostname not in ("true", "false"):
        raise ImproperlyConfigured("REDIS_URL: ssl_check_hostname must be true or false.")
    files = {name: given[name] for name in FILES if name in given}
    for name, file in files.items():
        if not os.access(file, os.R_OK):
            raise ImproperlyConfigured(f"REDIS_URL: {name} names a file that cannot be read: {file}")
    return {"ssl_cert_reqs": VERIFY[word], "ssl_check_hostname": check_hostname == "true", **files}
