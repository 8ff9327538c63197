"""Both clients of Redis read REDIS_URL alike, and what cannot be used is refused in words."""

import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.core.exceptions import ImproperlyConfigured

from config import redis_url

ROOT = Path(__file__).resolve().parent.parent.parent
BOTH = """
from config.celery import app
import django
django.setup()
from tenants.cache import with_redis
print("redis-py", with_redis(lambda redis: redis.ping(), default=False))
try:
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=0)
        with connection.SimpleQueue("connector-tls") as queue:
            queue.put("a task")
            print("kombu", queue.get(timeout=5).payload == "a task")
            queue.clear()
except Exception as exc:
    print("kombu", False)
"""


class Proxy:
    """TLS in front of the tests' Valkey, with a certificate that nobody but itself has signed."""

    def __init__(self, folder: Path, behind: str) -> None:
        self.behind = urlsplit(behind)
        self.certificate = folder / "certificate.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
        now = datetime.datetime.now(datetime.UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "key.pem").write_bytes(private)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, folder / "key.pem")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self.server.accept()[0]], daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        assert self.behind.hostname and self.behind.port
        with (
            suppress(OSError),
            socket.create_connection((self.behind.hostname, self.behind.port)) as valkey,
            self.context.wrap_socket(plain, server_side=True) as client,
        ):
            threading.Thread(target=_pump, args=[client, valkey], daemon=True).start()
            _pump(valkey, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path_factory.mktemp("tls"), os.environ["REDIS_URL"])
    yield proxy
    proxy.server.close()


def both(url: str, **more: str) -> dict[str, str]:
    """Let each client, in a process that starts with this REDIS_URL, do what it is for."""
    env = os.environ | {"REDIS_URL": url} | more
    done = subprocess.run([sys.executable, "-c", BOTH], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines() if not line.startswith("{"))


CASES = [
    ("", {}, False),  # nobody knows the certificate
    ("?ssl_ca_certs={certificate}", {}, True),
    ("?ssl_cert_reqs=required&ssl_ca_certs={certificate}", {}, True),
    ("?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate}", {}, True),
    ("?ssl_cert_reqs=CERT_REQUIRED", {}, False),
    ("?ssl_cert_reqs=none", {}, True),
    ("?ssl_cert_reqs=CERT_NONE", {}, True),
    ("", {"REDIS_VERIFY": "false"}, True),  # as on Heroku, whose REDIS_URL changes
    ("?ssl_cert_reqs=required", {"REDIS_VERIFY": "false"}, False),
]


@pytest.mark.parametrize(("options", "environment", "works"), CASES)
def test_both_clients_treat_a_certificate_alike(
    proxy: Proxy, options: str, environment: dict[str, str], works: bool
) -> None:
    url = f"rediss://127.0.0.1:{proxy.port}/0{options.format(certificate=proxy.certificate)}"
    assert both(url, **environment) == {"redis-py": str(works), "kombu": str(works)}


def test_both_clients_compare_the_name(proxy: Proxy) -> None:
    url = f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={proxy.certificate}"
    assert both(url) == {"redis-py": "False", "kombu": "False"}
    assert both(f"{url}&ssl_check_hostname=false") == {"redis-py": "True", "kombu": "True"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "names no host"),
        ("localhost:6379", "names no host"),
        ("redis://:p/w@host:6379/0", "%2F"),
        ("redis://host:port/0", "names no host"),
        ("unix:///tmp/redis.sock", "names no host"),
        ("http://host", "must begin with"),
        ("redis://host/first", "number of a database"),
        ("redis://host/0?ssl_cert_reqs=none", "Write rediss://"),
        ("redis://host/0?socket_timeout=5", "socket_timeout is not known"),
        ("rediss://host/0?ssl_cert_reqs=maybe", "none, optional, required"),
        ("rediss://host/0?ssl_check_hostname=perhaps", "true or false"),
        ("rediss://host/0?ssl_ca_certs=/nowhere.pem", "cannot be read: /nowhere.pem"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words_without_the_password(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL") as caught:
        redis_url.read(url)
    assert words in str(caught.value) and "p/w" not in str(caught.value)


def test_a_process_with_an_unusable_url_says_so_and_ends() -> None:
    env = os.environ | {"REDIS_URL": "rediss://host/0?ssl_cert_reqs=maybe"}
    command = [sys.executable, "-m", "celery", "-A", "config", "worker"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "REDIS_URL: ssl_cert_reqs must be one of" in done.stderr + done.stdout


def test_passwords_reach_both_clients_as_they_are() -> None:
    assert redis_url.read("redis://user:p%2Fw%40@host:1/3") == ("redis://user:p%2Fw%40@host:1/3", {})
