"""What processes cost: CPU time and memory, from /proc, with all their children."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: str) -> list[str]:
    """Read the fields of /proc/<pid>/stat from the state on; the name before them may hold anything."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []  # it ended


def family(pid: int) -> dict[int, list[str]]:
    """Find a process and all that descend from it."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdecimal() and (stat := _stat(name))}
    found, size = {pid}, 0
    while len(found) > size:
        size = len(found)
        found |= {each for each, stat in stats.items() if int(stat[1]) in found}
    return {each: stats[each] for each in found if each in stats}


def cpu_seconds(pid: int) -> float:
    """Give the CPU time of a process and its children, those that ended included."""
    return sum(sum(map(int, stat[11:15])) for stat in family(pid).values()) / TICKS


def machine_seconds() -> float:
    """Give the CPU time that all processes of this machine used, the time that a host took away from it included."""
    user, nice, system, _idle, _waiting, *others = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(others)) / TICKS


def memory_mib(pid: int) -> float:
    """Give the resident memory of a process and its children; what they share counts for each."""
    return sum(int(stat[21]) for stat in family(pid).values()) * PAGE / 1024**2
