"""The processes below this one: adopt those whose parent has died, and end them all.

Knows Linux's ``prctl``, ``/proc`` and ``waitpid``. Must not know what the processes are for. Signals only children that
this process has not yet waited for, whose numbers the kernel therefore cannot have given to anyone else.
"""

from __future__ import annotations

import _ctypes  # what `ctypes` is made of, which every run would wait for
import contextlib
import os
import signal
import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = int(signal.SIGKILL)
_POLL_S = 0.001


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, however far below."""
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1) != 0:
        raise OSError("the system refuses to make this process a sub-reaper")


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the thread that forked this process ends; at once if it has ended already."""
    call, arguments = death_with_parent()
    call(*arguments)  # which cannot fail
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def death_with_parent() -> tuple[Callable[..., object], tuple[object, ...]]:
    """The call that has a process killed when the thread that forked it ends, with nothing left to be looked up."""
    return _ctypes.call_function, (_address(), (_PR_SET_PDEATHSIG, _SIGKILL))


def children() -> list[int]:
    """The children of all threads of this process; while some come and go, one or another may be left out."""
    pids: list[int] = []
    for thread in os.scandir("/proc/self/task"):  # a child is listed under the thread that forked or adopted it
        try:
            # Not pathlib: to import it takes the keeper longer than to find and kill a hundred processes.
            with open(f"{thread.path}/children") as listed:  # noqa: PTH123
                pids += map(int, listed.read().split())
        except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
            continue
    return pids


def reap() -> list[tuple[int, int]]:
    """The children that have ended since, each as (pid, exit status, negative for a signal).

    Raises:
        ChildProcessError: There is no child at all, neither living nor dead.
    """
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            if ended:
                return ended
            raise
        if not pid:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def kill_all(timeout_s: float, on_ended: Callable[[int, int], None] | None = None) -> None:
    """Kill and reap every child, then those that fall to us as orphans, until there are none.

    Args:
        timeout_s: When to give up; a process in an uninterruptible wait, or of another user, may not go.
        on_ended: Told of every process reaped: pid and exit status.
    """
    deadline_at = time.monotonic() + timeout_s
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline_at:
            for pid in children():
                with contextlib.suppress(PermissionError):
                    os.kill(pid, signal.SIGKILL)
            for pid, status in reap():
                if on_ended:
                    on_ended(pid, status)
            time.sleep(_POLL_S)


def _prctl(option: int, value: int) -> int:
    result: int = _ctypes.call_function(_address(), (option, value))
    return result


@cache
def _address() -> int:
    """Of the function; here, since only Linux has it."""
    return _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]  # `None` is all of us
