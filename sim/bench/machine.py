"""What a process uses, as Linux counts it, and how many files one may open."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path
from statistics import median

from sim.process.machine import CannotRunError


def cpu_s(pid: int) -> float:
    """The processor time that all threads of a process have used, in seconds; to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) * 1e-9


def rss_bytes(pid: int) -> int:
    """The memory that a process occupies (resident set), shared libraries included, in bytes."""
    return _memory_bytes(pid, "VmRSS")


def peak_rss_bytes(pid: int) -> int:
    """The most that it has been so far."""
    return _memory_bytes(pid, "VmHWM")


def _memory_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise CannotRunError(f"process {pid} has no memory: it has ended")


def allow_all_descriptors() -> int:
    """Raise the limit of open files as far as it goes, for the processes started from now on too; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def reverse_lookup_s(times: int = 101) -> float:
    """How long the look-up of the name behind the loopback address takes, in seconds; the median.

    Torch's server does one for every client that it accepts, in its only thread.
    """
    took_s = []
    for port in range(1, times + 1):
        started_at = time.perf_counter()
        socket.getnameinfo(("127.0.0.1", port), socket.NI_NUMERICSERV)
        took_s.append(time.perf_counter() - started_at)
    return median(took_s)


def private_mb(pid: int) -> float:
    """The memory that a process shares with nobody, clean or not, in millions of bytes."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) * 1024 / 1e6
