"""Names the code that runs."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def code_measured() -> str:
    """Name the commit that ran, and say so where it is not all that ran."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return "code that is in no repository, so that nobody can say which it was"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    return f"commit {commit.stdout.strip()}" + (" with uncommitted changes" if changed else ", unchanged")
