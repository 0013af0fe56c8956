"""Where a rank hangs: its Python stack, and the key it waits for.

The stack is written by the rank itself, on a signal, without the interpreter's help: so also by one that is stuck in C.
The key is what the store's server knows of the connection that is the rank's: so also for a client that is not ours.
"""

from __future__ import annotations

import contextlib
import faulthandler
import linecache
import os
import re
import signal
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SIGNAL = signal.SIGRTMAX - 1  # nobody else's, with luck
TIMEOUT_S = 1.0  # for a stack; a process that is stopped writes none
_POLL_S = 0.001
_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.+)')
_PYTEST = re.compile(r"[/\\](_pytest|pluggy)[/\\]")


def write_on_signal(file: IO[str]) -> None:
    """Let this process write the stacks of its threads to the file when told to, or when it crashes."""
    faulthandler.enable(file)
    faulthandler.register(SIGNAL, file=file, all_threads=True)


def ask_for(pids: Iterable[int]) -> None:
    """Have processes write their stacks, and wait until they have. They must be children of this one."""
    waiting = list(pids)
    for pid in waiting:
        os.kill(pid, SIGNAL)
    deadline_at = time.monotonic() + TIMEOUT_S
    while (waiting := [pid for pid in waiting if _handles(pid)]) and time.monotonic() < deadline_at:
        time.sleep(_POLL_S)


def _handles(pid: int) -> bool:
    """Whether a process has yet to take the signal, or is still at it: then the thread that does blocks it."""
    bit = 1 << (SIGNAL - 1)
    with contextlib.suppress(OSError):
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            masks = re.findall(r"^(?:SigPnd|ShdPnd|SigBlk):\t(\w+)", status.read_text(), re.MULTILINE)
            if any(int(mask, 16) & bit for mask in masks):
                return True
    return False


def readable(dump: str) -> str:
    r"""A dump for people: each frame with its line of source, and without the frames of pytest around a test.

    >>> print(readable('Current thread 0x1 (most recent call first):\n  File "<x>", line 3 in wait\n'))
    Current thread (most recent call first):
      File "<x>", line 3 in wait
    """
    lines: list[str] = []
    inside = False  # of pytest, below the test
    for line in dump.splitlines():
        frame = _FRAME.fullmatch(line)
        if not frame:
            inside = False
            lines.append(re.sub(r"hread 0x[0-9a-f]+", "hread", line))
        elif _PYTEST.search(frame[1]) and lines[-1].startswith("  "):
            inside = True
        elif not inside:
            lines.append(line)
            if source := linecache.getline(frame[1], int(frame[2])).strip():
                lines.append(f"    {source}")
    return "\n".join(lines)


def keys_awaited(pids: Mapping[int, int], lacking: Mapping[str, list[str]]) -> dict[int, list[str]]:
    """The keys that ranks wait for in a store on the loopback address.

    Args:
        pids: The ranks' processes, by rank.
        lacking: What clients wait for, by their ``host:port``.
    """
    by_port = {int(name.rpartition(":")[2]): keys for name, keys in lacking.items()}
    by_inode = {inode: by_port[port] for inode, port in _local_ports().items() if port in by_port}
    awaited: dict[int, list[str]] = {}
    for rank, pid in pids.items():
        keys = [key for inode in _inodes(pid) for key in by_inode.get(inode, ())]
        if keys:
            awaited[rank] = sorted(set(keys))
    return awaited


def _local_ports() -> dict[str, int]:
    """The local port of every TCP socket of this machine, by the socket's inode."""
    ports: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                ports[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return ports


def _inodes(pid: int) -> list[str]:
    """The inodes of a process's sockets."""
    links = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(os.readlink(entry.path))  # noqa: PTH115 -- of a directory entry
    return [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]
