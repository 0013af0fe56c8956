"""The door to the keeper: starts its process, hands out the channel to it, and sees to it that it ends.

Apart from `sim.process.keeper`, so that who starts one need not load all that a rank needs; and with little to load
itself, so that a command which is about to need a keeper can have it start while the command does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.process.channel import Channel

_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from sim.process.boot import main; main(*sys.argv[1:3])"
_KILL_S = 5.0


class Process:
    """The process of a keeper: what `subprocess` has for any, and takes too long to load for one.

    Attributes:
        pid: Its number, a child of this process.
    """

    def __init__(self, pid: int) -> None:
        """Watch a child.

        Raises:
            OSError: The machine refuses a descriptor; the child is ended.
        """
        self.pid = pid
        self._exit: int | None = None
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; ``None`` if it lives."""
        if self._exit is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # whoever ignores SIGCHLD is told no status of any child
                pid, status = self.pid, 0
            if pid:
                self._exit = os.waitstatus_to_exitcode(status)
                os.close(self._pidfd)
        return self._exit

    def wait(self, timeout_s: float) -> int | None:
        """As `poll`, when it has ended, or at the latest after so many seconds."""
        if self.poll() is None:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.poll(1000 * timeout_s)
        return self.poll()

    def resume(self) -> None:
        """Have it go on if a signal such as SIGSTOP has stopped it, as a rank may do to its parent."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has just ended, and whoever ignores SIGCHLD keeps no trace of it
                os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Have it end, whatever it does."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


_ahead: list[tuple[Process, int, dict[str, str]]] = []  # nobody's yet: the process, a socket to it, its environment


def start(scratch: str) -> tuple[Process, Channel]:
    """Start a keeper for this process, or take the one that was started ahead if the environment is still the same.

    Args:
        scratch: A directory that the keeper removes in the end; empty for none.

    Returns:
        The keeper's process, and the channel to it, which does not block.

    Raises:
        OSError: The machine refuses a process or a descriptor.
    """
    from sim.process.channel import Channel
    from sim.process.messages import Scratch

    process, fd, environ = _ahead.pop() if _ahead else _started()
    if environ != os.environ:
        _dismiss(process, fd)
        process, fd, _ = _started()
    channel = Channel.of(fd)
    if scratch:
        channel.send(Scratch(scratch))
    return process, channel


@contextmanager
def ahead() -> Iterator[None]:
    """Start the keeper that the next `start` will take; it is dismissed in the end if none does.

    For a process that has only just begun, of which the keeper may be a copy.
    """
    with suppress(OSError):  # as `start` will find out
        _ahead.append(_started(may_fork=True))
    try:
        yield
    finally:
        while _ahead:
            _dismiss(*_ahead.pop()[:2])


def see_off(process: Process, timeout_s: float) -> None:
    """Wait for the end of a keeper whose channel was closed, and which goes on if it was stopped.

    One that takes too long is killed, and its ranks with it.

    Args:
        process: The keeper's.
        timeout_s: How long it may take, in seconds; a process that cannot even be killed in as long again is given up.
    """
    process.resume()
    if process.wait(timeout_s) is None:
        process.kill()
        process.wait(timeout_s)


def pids_ahead() -> set[int]:
    """The processes that were started ahead and nobody has taken."""
    return {process.pid for process, _, _ in _ahead}


def _dismiss(process: Process, fd: int) -> None:
    os.close(fd)
    process.kill()  # it has nothing to end yet
    see_off(process, _KILL_S)


def _started(*, may_fork: bool = False) -> tuple[Process, int, dict[str, str]]:
    """A keeper's process, a socket to it that does not block, and its environment."""
    environ = dict(os.environ)
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lifeline = os.pidfd_open(os.getpid())  # if that is refused, the sockets go with the names for them
    ours, theirs = (end.detach() for end in ends)
    os.set_blocking(ours, False)
    try:
        process = Process((_fork if may_fork and _is_plain() else _spawn)(theirs, lifeline, environ))
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
        os.close(lifeline)
    return process, ours, environ


def _is_plain() -> bool:
    """Whether this process has one thread, and nobody looks on who would look on in the ranks as well."""
    threads = os.listdir("/proc/self/task")  # noqa: PTH208 -- without pathlib
    return len(threads) == 1 and not sys.gettrace() and not sys.getprofile()


def _spawn(channel: int, lifeline: int, environ: dict[str, str]) -> int:
    """A keeper in an interpreter of its own: a fork would have one of this process's threads, and the locks of all.

    It gets this process's module path as it is, which saves it from searching for installed packages (``-S``).
    """
    argv = [sys.executable, "-S", "-c", _BOOT, str(channel), str(lifeline), *sys.path]
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),  # a rank that prints must not spoil what we print
        *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in (channel, lifeline)),  # these are open there, too
    ]
    return os.posix_spawn(sys.executable, argv, environ, file_actions=files, setsid=True)


def _fork(channel: int, lifeline: int, _: dict[str, str]) -> int:
    """A keeper in a copy of this process, which has hardly begun: so an interpreter less has to start."""
    from sim.process import boot

    boot.load_what_both_need()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1):
                os.dup2(null, fd)
            boot.main(str(channel), str(lifeline))
        except Exception:  # noqa: BLE001 -- told as an interpreter tells it, which is not where this would end
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    return pid
