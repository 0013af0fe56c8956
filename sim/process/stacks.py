"""Where a rank hangs: its Python stack, and the key it waits for.

Three kinds of ranks, and how each says it. All stacks have the form of `faulthandler`, the innermost frame first.

* A rank of a test, on a signal of its own (`write_on_signal`): faulthandler writes it, also of one that is stuck in C.
* A program: if it is Python, faulthandler is on there, and writes the stack to its standard error on SIGABRT.
* A rank of ours that is forked: a handler of SIGTERM takes the frames (`of_frame`), and the keys from our client's.
  Python calls it between two lines; one of a scenario that comes to none is asked as a program is.

Of the others, the key is what the store's server knows of the connection that is the rank's (`keys_awaited`): so also
for a client that is not ours. Must not know who asks.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from itertools import groupby, zip_longest
from typing import IO, TYPE_CHECKING

import rdzv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

SIGNAL = getattr(signal, "SIGRTMAX", 64) - 1  # nobody else's, with luck; where there are none, ranks are not run
TIMEOUT_S = 1.0  # for a stack; a process that is stopped writes none
_POLL_S = 0.001
# Compiled when they are used: every process of a run loads this, and most never show a stack.
_FRAME = r'  File "(.+)", line (\d+) in (.+)'
_MACHINERY = r"[/\\](_pytest|pluggy|sim[/\\]ranks)[/\\]|[/\\]sim[/\\]process[/\\]keeper\.py$"
_RDZV = os.path.join(os.path.dirname(os.path.abspath(rdzv.__file__)), "")  # noqa: PTH100, PTH118, PTH120 -- without pathlib, see below
_ADDRESS = r"(?<=hread) 0x[0-9a-f]+"
_TRAILER = "Extension modules: "
DUMP = b"Fatal Python error: Aborted\n"  # how faulthandler begins on SIGABRT


def write_on_signal(file: IO[str]) -> None:
    """Let this process write the stacks of its threads to the file when told to, or when it crashes."""
    import faulthandler

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
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:  # closed where the rest is not read
        for thread in threads:
            masks = signal_masks(thread.path)
            if any(masks[name] & bit for name in ("SigPnd", "ShdPnd", "SigBlk")):
                return True
    return False


def is_stopped(pid: int) -> bool:
    """Whether a signal such as SIGSTOP has stopped a process: it then writes no stack."""
    with contextlib.suppress(OSError):
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] == "T"
    return False


def signal_masks(process: str) -> dict[str, int]:
    """What a process, or a thread, does about signals: masks by the names that ``/proc/.../status`` has for them.

    Raises:
        OSError: It has gone.
    """
    masks = re.findall(r"^((?:Sig|Shd)\w{3}):\t([0-9a-f]+)$", _read(f"{process}/status"), re.MULTILINE)
    return {name: int(mask, 16) for name, mask in masks}


def of_frame(frame: FrameType | None) -> str:
    """The stack of a frame."""
    frames = (f'  File "{at.f_code.co_filename}", line {at.f_lineno} in {at.f_code.co_name}' for at in _outwards(frame))
    return "\n".join(["Current thread (most recent call first):", *frames])


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame, the one that called it, and so on. Without `traceback`, which a rank that has to end may not have."""
    while frame:
        yield frame
        frame = frame.f_back


def traceback_of(error: BaseException) -> str:
    """The traceback of an error, without the machinery that has called what failed."""
    from traceback import StackSummary, TracebackException

    told = TracebackException.from_exception(error)
    frames = [frame for frame in told.stack if not re.search(_MACHINERY, frame.filename)]
    if frames:  # or it is the machinery that failed
        told.stack = StackSummary.from_list(frames)
    return "".join(told.format())


def keys_of_frame(frame: FrameType | None) -> list[str]:
    """The keys that a client of ours waits for in a frame, or in one that called it."""
    from rdzv.store.client import StoreClient  # which a rank has loaded, and others need not

    for at in _outwards(frame):
        if at.f_code is StoreClient.wait.__code__:
            named = at.f_locals["request"][1]
            keys = named if isinstance(named, list) else [named]
            return [key.decode("utf-8", "replace").removeprefix("/") for key in keys]
    return []


def readable(dump: str) -> str:
    r"""A dump for people: each frame with its line of source, without the machinery that has called the rest.

    Of frames of rdzv in a row only the outermost stays, which says what was asked of it.

    >>> print(readable('Current thread 0x1 (most recent call first):\n  File "<x>", line 3 in wait\n'))
    Current thread (most recent call first):
      File "<x>", line 3 in wait
    """
    lines: list[str] = []
    for is_frame, group in groupby(dump.splitlines(), key=lambda line: bool(re.fullmatch(_FRAME, line))):
        part = list(group)
        lines += (
            _frames(part)
            if is_frame
            else (re.sub(_ADDRESS, "", line) for line in part if not line.startswith(_TRAILER))
        )
    return "\n".join(lines)


def _frames(lines: list[str]) -> Iterator[str]:
    """The frames of one thread that say something to a user, innermost first."""
    import linecache

    frames = [frame for line in lines if (frame := re.fullmatch(_FRAME, line))]
    cut_at = next((at for at, frame in enumerate(frames) if at and re.search(_MACHINERY, frame[1])), len(frames))
    for frame, caller in zip_longest(frames[:cut_at], frames[1:cut_at]):
        if caller is None or not (_is_of_rdzv(frame) and _is_of_rdzv(caller)):
            yield frame[0]
            if source := linecache.getline(frame[1], int(frame[2])).strip():
                yield f"    {source}"


def _is_of_rdzv(frame: re.Match[str]) -> bool:
    return frame[1].startswith(_RDZV)


def keys_awaited(pids: Mapping[int, int], lacking: Mapping[str, list[str]]) -> dict[int, list[str]]:
    """The keys that ranks wait for in a store on the loopback address.

    Args:
        pids: The ranks' processes, by rank; what is below them is theirs, too.
        lacking: What clients wait for, by their ``host:port``.
    """
    if not lacking:
        return {}
    by_port = {int(name.rpartition(":")[2]): keys for name, keys in lacking.items()}
    by_inode = {inode: by_port[port] for inode, port in _local_ports().items() if port in by_port}
    awaited: dict[int, list[str]] = {}
    for rank, pid in pids.items():
        inodes = (inode for member in _family(pid) for inode in _inodes(member))
        keys = [key for inode in inodes for key in by_inode.get(inode, ())]
        if keys:
            awaited[rank] = sorted(set(keys))
    return awaited


def _local_ports() -> dict[str, int]:
    """The local port of every TCP socket of this machine, by the socket's inode."""
    ports: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # then nobody knows whose key it is, which is no reason to know nothing
            for line in _read(f"/proc/net/{table}").splitlines()[1:]:
                fields = line.split()
                ports[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return ports


def _family(pid: int) -> Iterator[int]:
    """A process, and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.scandir(f"/proc/{pid}/task"):
            for child in _read(f"{thread.path}/children").split():
                yield from _family(int(child))


def _inodes(pid: int) -> list[str]:
    """The inodes of a process's sockets."""
    links = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                links.append(os.readlink(entry.path))  # noqa: PTH115 -- of a directory entry
    return [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]


def _read(path: str) -> str:
    # Not pathlib, for the reason that `sim.process.descendants` has.
    with open(path) as file:  # noqa: PTH123
        return file.read()
