"""Any program as a rank: how a fork becomes it, and how its output is cut into lines.

Must not know how a rank is forked, what environment it needs, or how long it may run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import time
from typing import TYPE_CHECKING

from sim.process.stacks import signal_masks

if TYPE_CHECKING:
    from sim.process.messages import StartProgram

LINE_BYTES_MAX = 1 << 20  # what is longer is passed on in pieces
INTERRUPTED_S = 1.0  # for a reader who is late, once the run is cut short


def become(start: StartProgram, *fds: int) -> str:
    """Turn this process into the program, with the descriptors as 1, 2 and so on.

    Returns:
        Why that failed; if it did not, this does not return.
    """
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program would inherit that
        signal.signal(signum, signal.SIG_DFL)
    # First out of each other's way: one may be where another has to go.
    for number, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(fds) + 1) for fd in fds], 1):
        os.dup2(fd, number)
    try:
        os.execvpe(start.argv[0], start.argv, {**os.environ, **dict(start.environ)})  # noqa: S606
    except OSError as error:
        return f"cannot execute {start.argv[0]}: {error.strerror}\n"


def asked_to_end(pid: int) -> int:
    """The signal that asks a rank to end: SIGTERM.

    If it would end of that without a word, and has something to say on SIGABRT, as Python with its faulthandler on has
    (its stack): that one. It must be a child of this process.
    """
    survives = _takes(pid, signal.SIGTERM, "SigCgt", "SigIgn", "SigBlk")
    return signal.SIGTERM if survives else asked_for_stack(pid) or signal.SIGTERM


def asked_for_stack(pid: int) -> int:
    """The signal on which a rank says where it is, and ends; 0 if there is none."""
    if not _takes(pid, signal.SIGABRT, "SigCgt"):
        return 0
    # One byte of a core is none, neither as a file nor for a program of the system that collects them.
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_CORE)
        resource.prlimit(pid, resource.RLIMIT_CORE, (1 if hard else 0, hard))
    return signal.SIGABRT


def _takes(pid: int, signum: int, *ways: str) -> bool:
    """Whether a process does something else about a signal than to end at once."""
    try:
        masks = signal_masks(f"/proc/{pid}")
    except OSError:
        return False
    return any(masks[way] >> (signum - 1) & 1 for way in ways)


class Lines:
    r"""Cuts what comes out of a pipe into whole lines.

    >>> lines = Lines()
    >>> lines.feed(b"one\ntw")
    b'one\n'
    >>> lines.feed(b"o")
    b''
    >>> lines.flush()
    b'two\n'
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> bytes:
        """The lines that are complete now, if any, each with its newline."""
        head, newline, tail = data.rpartition(b"\n")
        if not newline and len(self._rest) + len(tail) < LINE_BYTES_MAX:
            self._rest += tail
            return b""
        whole = bytes(self._rest) + head + newline
        self._rest[:] = tail
        return whole if newline else whole + self.flush()

    def flush(self) -> bytes:
        """The last line if it has no end, with one."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest + b"\n" if rest else b""


def prefixed(rank: int, lines: bytes) -> bytes:
    r"""Whole lines, each with its rank before it.

    >>> prefixed(3, b"one\ntwo\n")
    b'[3] one\n[3] two\n'
    """
    prefix = b"[%d] " % rank
    return prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + b"\n"


def write_by(deadline_at: float, fd: int, output: bytes) -> None:
    """Write all of the output, in pieces that a pipe with room for them takes at once.

    Args:
        deadline_at: When to give up a reader that does not read, on the clock of `time.monotonic`, in seconds.
        fd: Where to; it may block or not.
        output: Whole lines.

    Raises:
        TimeoutError: Nobody read in time.
        OSError: It cannot be written.
        KeyboardInterrupt: The run is cut short meanwhile. It is raised when all is written, since half a line would
            spoil the next, or `INTERRUPTED_S` later.
        SystemExit: Likewise.
    """
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    rest = memoryview(output)
    interruption: BaseException | None = None
    while rest:
        piece = rest[:0]
        try:
            if poller.poll(max(0, int(1000 * (deadline_at - time.monotonic())))):
                piece = rest[: select.PIPE_BUF]
                piece = piece[: os.write(fd, piece)]
            elif interruption:
                break
            else:
                raise TimeoutError(errno.ETIMEDOUT, "nobody read it before the run's deadline")
        except BlockingIOError:
            continue
        except (KeyboardInterrupt, SystemExit) as error:  # behind `os.write`, the piece is written: there was room
            interruption, deadline_at = error, min(deadline_at, time.monotonic() + INTERRUPTED_S)
        rest = rest[len(piece) :]
    if interruption:
        raise interruption
