"""Leave nothing behind, however the launcher ends.

The launcher starts one guard (``guard.py watch``) before anything else and keeps the write end of a pipe to it. The guard
makes the run folder. Each child begins as ``guard.py enter``, which writes its process group into that pipe, closes it and
becomes the command. When the last write end is closed, the launcher is gone, by itself or by SIGKILL: the guard
ends every group that is still listed and removes the folder. There is no moment at which a child runs unlisted, since a
child that has not written yet holds the pipe open itself.

Run as a script by ``python -I -S``, so it imports nothing but the standard library and starts in some 15 ms.
"""

import contextlib
import os
import pwd
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 2.0  # seconds between asking a group to end and killing it


def is_open_to_all(path: Path) -> bool:
    """Tell whether every user may read a path: all its folders can be traversed, and it can be read itself."""
    path = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in path.parents) and path.stat().st_mode & 0o005 == 0o005


def watch() -> None:
    """Make the run folder, tell its path, wait for the launcher's end, and clean up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    as_root = os.geteuid() == 0
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    place = next((place for place in places if not as_root or is_open_to_all(place)), places[0])
    folder = Path(tempfile.mkdtemp(prefix="service-cloud-connector-", dir=place))
    if as_root:
        folder.chmod(0o711)  # the services run as another user and must pass through
    entries: list[str] = []
    try:
        print(folder, flush=True)
        entries = sys.stdin.read().splitlines()  # returns when the last write end is closed
    finally:
        end_groups(entries)
        remove(folder)


def end_groups(entries: list[str]) -> None:
    """End the process groups that were listed (``+ group signal``) and not struck out (``- group``)."""
    groups: dict[int, int] = {}
    for entry in entries:
        sign, group, *stop_signal = entry.split()
        if sign == "+":
            groups[int(group)] = int(stop_signal[0])
        else:
            groups.pop(int(group), None)
    for listed, number in groups.items():
        signal_group(listed, number)
    wait_for_groups(groups, PATIENCE)
    for listed in groups:
        signal_group(listed, signal.SIGKILL)
    wait_for_groups(groups, 1.0)


def wait_for_groups(groups: dict[int, int], seconds: float) -> None:
    """Wait until none of the groups has a process, or the time is over."""
    deadline = time.monotonic() + seconds
    while any(signal_group(group, 0) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group and tell whether it is there; macOS says EPERM of one that only has zombies."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def remove(folder: Path) -> None:
    """Remove the run folder, again while a dying process still writes into it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def enter(pipe: int, stop_signal: str, user: str, command: list[str]) -> None:
    """List this process group with the guard, become the user (if one is named) and then the command."""
    os.write(pipe, f"+ {os.getpgrp()} {stop_signal}\n".encode())
    os.close(pipe)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)  # what is ignored stays ignored in the command
    if user:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "watch":
        watch()
    else:
        with contextlib.suppress(KeyboardInterrupt):
            enter(int(arguments[0]), arguments[1], arguments[2], arguments[3:])
