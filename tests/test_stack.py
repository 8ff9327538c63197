"""The services start for anybody, meet nobody else's, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHOW = """
import os, psycopg, redis
row = psycopg.connect(os.environ["DATABASE_URL"]).execute(
    "SELECT rolsuper, rolbypassrls, rolcreatedb, current_setting('server_version_num')::int / 10000"
    " FROM pg_roles WHERE rolname = current_user").fetchone()
print(*row, redis.Redis.from_url(os.environ["REDIS_URL"]).ping(), os.environ["DATABASE_URL"], flush=True)
"""
SHOW_AND_STAY = SHOW + "import time; time.sleep(120)"


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}


def launch(code: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sandbox.stack", "run", "--", sys.executable, "-c", code]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment() | more, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def staying() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    launched: list[subprocess.Popen[str]] = []

    def stay() -> subprocess.Popen[str]:
        launched.append(launch(SHOW_AND_STAY))
        return launched[-1]

    yield stay
    for launcher in launched:
        launcher.kill()
        launcher.wait()
        assert launcher.stdout is not None
        launcher.stdout.close()


def first_line(launcher: subprocess.Popen[str]) -> list[str]:
    assert launcher.stdout is not None
    return launcher.stdout.readline().split()


def descendants(pid: int) -> set[int]:
    """All processes below one, by the parents that the system names."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    states = dict(line.split() for line in listed.splitlines())
    return {pid for pid in pids if not states.get(str(pid), "Z").startswith("Z")}


def gone_within(seconds: float, pids: set[int]) -> bool:
    end = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pids)


def run_folder(pids: set[int]) -> Path:
    """Find the folder that the services of a launcher use, by PostgreSQL's command line."""
    for pid in pids:
        words = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout.split()
        if "-D" in words:
            return Path(words[words.index("-D") + 1]).parent.parent
    raise AssertionError("no PostgreSQL among the children")


def test_a_command_finds_both_services_and_a_role_that_policies_bind() -> None:
    out, _ = launch(SHOW).communicate(timeout=60)
    superuser, bypasses, may_create, version, pong, _url = out.split()
    assert (superuser, bypasses, may_create, version, pong) == ("False", "False", "True", "18", "True")


def test_the_exit_code_is_the_commands() -> None:
    launcher = launch("raise SystemExit(7)")
    launcher.communicate(timeout=60)
    assert launcher.returncode == 7


def test_a_database_that_is_named_wins() -> None:
    url = "postgres://somebody@127.0.0.1:1/elsewhere"
    out, _ = launch("import os; print(os.environ['DATABASE_URL'])", DATABASE_URL=url).communicate(timeout=60)
    assert out.strip() == url


def test_two_runs_beside_each_other_do_not_meet(staying: Callable[[], subprocess.Popen[str]]) -> None:
    first, second = staying(), staying()
    assert first_line(first)[-1] != first_line(second)[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_launcher_ends_nothing_is_left(
    staying: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    launcher = staying()
    first_line(launcher)
    children = descendants(launcher.pid)
    folder = run_folder(children)
    assert len(children) >= 4 and folder.is_dir()
    launcher.send_signal(number)
    launcher.wait(20)
    assert gone_within(5, children), "processes are left"
    end = time.monotonic() + 5
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not folder.exists()
