"""Start the system or its services.

    python -m devstack run -- COMMAND…    PostgreSQL and Valkey, and a command that finds them in its environment
    python -m devstack demo [--check]     the whole system, for a person, or for a script that talks through it

`DATABASE_URL` and `REDIS_URL`, where set, win.
"""

import argparse
import os
import signal
import sys
import threading
import time

from devstack.demo import demo
from devstack.family import StackError
from devstack.stack import Stack


def _end_on_signal(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_make(parent: int) -> None:
    """Die as `make` does when it is killed, which would leave us running; the guard ends what we started."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Read the arguments and do it."""
    if "MAKELEVEL" in os.environ:
        threading.Thread(target=_end_with_make, args=[os.getppid()], daemon=True).start()
    parser = argparse.ArgumentParser(prog="python -m devstack", description="Start the system or its services.")
    commands = parser.add_subparsers(dest="what", required=True)
    whole = commands.add_parser("demo", help="the whole system")
    way = whole.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="talk through it and end")
    way.add_argument("--empty", action="store_true", help="with an org in which nothing is set up")
    commands.add_parser("run", help="PostgreSQL and Valkey for a command").add_argument("command", nargs="+")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background command begins with it ignored
    try:
        if options.what == "demo":
            return demo(check=options.check, empty=options.empty)
        with Stack(sandbox=False, processes=(), fsync=False) as stack:  # its data end with the command
            return stack.run(options.command)
    except StackError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
