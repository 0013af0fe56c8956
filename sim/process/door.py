"""The door to the keeper: starts its process, hands out the channel to it, and sees to it that it ends.

Apart from `sim.process.keeper`, so that who starts one need not load all that a rank needs; and with little to load
itself, so that a command which is about to need a keeper can have it start while the command does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.process.channel import Channel

_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from sim.process.boot import main; main(*sys.argv[1:3])"
_KILL_S = 5.0
_ahead: list[tuple[subprocess.Popen[bytes], socket.socket, dict[str, str]]] = []  # nobody's yet; with its environment


def start(scratch: str) -> tuple[subprocess.Popen[bytes], Channel]:
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

    process, sock, environ = _ahead.pop() if _ahead else _started()
    if environ != os.environ:
        _dismiss(process, sock)
        process, sock, _ = _started()
    channel = Channel(sock)
    if scratch:
        channel.send(Scratch(scratch))
    return process, channel


@contextmanager
def ahead() -> Iterator[None]:
    """Start the keeper that the next `start` will take; it is dismissed in the end if none does."""
    with suppress(OSError):  # as `start` will find out
        _ahead.append(_started())
    try:
        yield
    finally:
        while _ahead:
            _dismiss(*_ahead.pop()[:2])


def see_off(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait for the end of a keeper whose channel was closed; one that takes too long is killed, and its ranks with it.

    Args:
        process: The keeper's.
        timeout_s: How long it may take, in seconds; a process that cannot even be killed in as long again is given up.
    """
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
        return
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)


def pids_ahead() -> set[int]:
    """The processes that were started ahead and nobody has taken."""
    return {process.pid for process, _, _ in _ahead}


def _dismiss(process: subprocess.Popen[bytes], sock: socket.socket) -> None:
    sock.close()
    process.kill()  # it has nothing to end yet
    see_off(process, _KILL_S)


def _started() -> tuple[subprocess.Popen[bytes], socket.socket, dict[str, str]]:
    """A keeper's process, a socket to it, and its environment.

    It gets this process's module path as it is, which saves it from searching for installed packages (``-S``).
    """
    lifeline = os.pidfd_open(os.getpid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _BOOT, str(theirs.fileno()), str(lifeline), *sys.path],
            pass_fds=[theirs.fileno(), lifeline],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a rank that prints must not spoil what the supervisor prints
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        os.close(lifeline)
    return process, ours, dict(os.environ)
