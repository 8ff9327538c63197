"""What the environment says arrives in PostgreSQL."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

ROOT = Path(__file__).resolve().parent.parent.parent
LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
SHOW = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in NAMES))
    print(*cursor.fetchone())
    print(*[connection.connection.info.get_parameters().get(name, "-") for name in ENDS])
"""


def run_in_shell(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", code],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def shown(names: tuple[str, ...], ends: tuple[str, ...], *, url: str = "", pooled: bool = False) -> list[list[str]]:
    code = SHOW.replace("NAMES", repr(list(names))).replace("ENDS", repr(list(ends)))
    env = os.environ | {"DATABASE_URL": os.environ["DATABASE_URL"] + url, "DATABASE_POOL": "1" if pooled else ""}
    done = run_in_shell(code, env)
    return [line.split() for line in done.stdout.splitlines()]


def test_the_processes_behind_have_limits_of_their_own() -> None:
    (limits, _) = shown(LIMITS, (), pooled=True)
    assert limits == ["2s", "30s", "10s"]


def test_a_customers_database_url_has_the_last_word() -> None:
    url = "?keepalives_idle=33&options=-c%20statement_timeout%3D7s%20-c%20search_path%3Dpublic"
    (limits, ends) = shown((*LIMITS, "search_path"), ("keepalives_idle", "keepalives_count", "tcp_user_timeout"), url=url)
    assert limits == ["2s", "7s", "20s", "public"]
    assert ends == ["33", "3", "10000"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", settings.DATABASE_SESSION)
def test_each_session_is_told_each_setting(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        assert cursor.fetchone()[0] == settings.DATABASE_SESSION[name]


@pytest.mark.django_db
def test_both_ends_of_a_connection_ask_whether_the_other_host_lives() -> None:
    connection.ensure_connection()
    ours = connection.connection.info.get_parameters()
    assert {name: ours[name] for name in ours if name.startswith("keepalives_")} == {
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
    }
    assert ours["tcp_user_timeout"] == "10000" and ours["connect_timeout"] == "2"


def test_a_command_prints_its_result_alone_and_logs_beside_it() -> None:
    """What a command prints is read by other programs."""
    code = "import structlog; structlog.get_logger('x').warning('noted'); print('result')"
    done = run_in_shell(code, dict(os.environ))
    assert done.stdout == "result\n"
    assert json.loads(done.stderr)["event"] == "noted"
