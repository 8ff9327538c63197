"""The services start for anybody, meet nobody else's, and leave nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from devstack.documents import example_documents
from devstack.ports import free_port
from devstack.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
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
    command = [sys.executable, "-m", "devstack", "run", "--", sys.executable, "-c", code]
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


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a command with no services in its environment, and do not leave it running."""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


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


def test_a_command_that_a_signal_ended_gives_the_code_that_a_shell_would() -> None:
    launcher = launch("import os; os.kill(os.getpid(), 9)")
    launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + 9


def test_ctrl_c_reaches_the_command_which_may_clean_up() -> None:
    launcher = launch(
        "import time\nprint('up', flush=True)\ntry: time.sleep(120)\nexcept KeyboardInterrupt: print('cleaned', flush=True)"
    )
    first_line(launcher)
    launcher.send_signal(signal.SIGINT)
    out, _ = launcher.communicate(timeout=30)
    assert out.strip() == "cleaned"
    assert launcher.returncode == 130


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


def test_ctrl_c_ends_it_also_where_a_script_began_it_in_the_background() -> None:
    script = f"trap '' INT; exec {sys.executable} -m devstack run -- sh -c 'echo up; exec sleep 120'"
    with started(["sh", "-c", script]) as launcher:
        assert first_line(launcher) == ["up"]
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130


def test_a_killed_make_takes_everything_along(tmp_path: Path) -> None:
    recipe = f"{sys.executable} -m devstack run -- sh -c 'echo up; exec sleep 120'"
    (tmp_path / "Makefile").write_text(f"all:\n\t@{recipe}\n")
    with started(["make", "--no-print-directory", "-f", str(tmp_path / "Makefile")]) as make:
        assert first_line(make) == ["up"]
        children = descendants(make.pid)
        folder = run_folder(children)
        make.kill()
        assert gone_within(5, children), "processes are left"
    assert not folder.exists()


def test_a_restarted_service_keeps_its_address_and_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy of the user's must not come between us and the sandbox
    with Stack(processes=()) as stack:
        stack.start()
        with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        stack.restart_service("postgres")
        deadline = time.monotonic() + 30
        while True:
            try:
                with psycopg.connect(stack.env["DATABASE_URL"], connect_timeout=2) as connection:
                    assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)
                    break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        stack.wait_ready()
        assert stack.control("GET", "/control/state")["orgs"] == []


def test_a_taken_demo_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "devstack", "demo"]
        done = subprocess.run(command, cwd=ROOT, env=environment() | {"DEMO_PORT": port}, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"Port {port} is taken" in done.stderr


def test_ports_are_given_out_once_and_stay_clear_of_outgoing_connections() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    assert max(ports) < 32_768


def test_two_processes_that_start_at_once_are_not_given_the_same_port() -> None:
    port = free_port()  # and nobody listens on it yet
    other = f"""
import secrets
from devstack import ports
choices = iter([{port} - 20_000, *range(12_000)])
secrets.randbelow = lambda _: next(choices)
print(ports.free_port())
"""
    given = subprocess.run([sys.executable, "-c", other], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert given.returncode == 0, given.stderr
    assert int(given.stdout) != port


def test_example_orgs_have_valid_ids_and_nothing_in_common() -> None:
    acme, rival = example_documents(1, 2, orgs=2)
    for document in (acme, rival):
        identifier = document["org"]["orgId"]
        groups = [identifier[start : start + 5] for start in (0, 5, 10)]
        bits = [sum(1 << place for place, letter in enumerate(group) if letter.isupper()) for group in groups]
        assert identifier[15:] == "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"[number] for number in bits)
    assert (acme["org"]["name"], rival["org"]["name"]) == ("Acme", "Rival")
    assert acme["org"]["orgId"] != rival["org"]["orgId"]
    assert acme["org"]["privateKey"] != rival["org"]["privateKey"]
    assert acme["channels"][0]["senders"][0]["number"] == "447700900123"
    assert rival["channels"][0]["senders"][0]["number"] == "447700900124"
