"""What the machine must grant a run, asked for before it is needed, and refused in words."""

from __future__ import annotations

import os
import socket
import sys

_SPARE = 64  # open files beside those that the ranks account for


class CannotRunError(RuntimeError):
    """This machine cannot carry out the plan; the message says what it lacks."""


def require_linux() -> None:
    """Refuse any other system, and one that has no ``/proc``.

    Raises:
        CannotRunError: This is one.
    """
    if sys.platform != "linux":
        raise CannotRunError(f"the process arm needs Linux, for its sub-reapers and pidfds; this is {sys.platform}")
    if not os.access("/proc/self/task", os.R_OK):
        raise CannotRunError("the process arm needs /proc, which is not mounted here")


def require_loopback(host: str) -> None:
    """Refuse a machine whose loopback is down, as in a new network namespace: who connects there waits in vain.

    Args:
        host: The loopback's address that is needed.

    Raises:
        CannotRunError: It is.
        OSError: The machine refuses a descriptor.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # which sends nothing
        except OSError as error:
            problem = f"this machine does not reach itself at {host}: {error.strerror}"
            raise CannotRunError(f"{problem}; is its loopback up (ip addr show lo)?") from error


def require_descriptors(count: int) -> tuple[int, int] | None:
    """See that this process may open as many files more; the limits to set for that, or ``None`` if it can already.

    Args:
        count: How many, besides those that are open and a few in reserve.

    Raises:
        CannotRunError: The hard limit does not allow it.
    """
    needed = sum(1 for _ in os.scandir("/proc/self/fd")) + count + _SPARE
    if not 0 <= os.sysconf("SC_OPEN_MAX") < needed:  # less than 0: there is no limit
        return None
    import resource  # here: mostly there is enough, and a rank would have to load it while others wait

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CannotRunError(f"this run needs {needed} open files, and the hard limit is {hard} (ulimit -Hn)")
    return needed, hard


def allow_descriptors(count: int, *, or_more: bool = False) -> None:
    """Let this process open as many files more, by raising its soft limit if it must; as `require_descriptors`.

    Args:
        count: How many.
        or_more: Whether it may be more, nobody knows how many: then the limit is raised as far as it can be.
    """
    limits = require_descriptors(count)
    if limits or or_more:
        import resource

        needed, hard = limits or resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if or_more else needed, hard))
