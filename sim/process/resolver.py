"""A resolver that knows the store's name late, or wrongly: what a rank of a scenario may have in place of its own.

Knows `socket.getaddrinfo`, which all of Python resolves by. A program that a rank runs has the machine's own.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from sim.process.clock import machine_monotonic

if TYPE_CHECKING:
    from sim.process.messages import Resolver

NAME = "store.sim.invalid"  # of a domain that is nobody's, so that no other resolver can know it
WRONG = "127.9.9.9"  # a loopback address on which nothing listens


def install(resolver: Resolver, right: str) -> None:
    """Resolve `NAME` so from now on, in this process; all others as before.

    Args:
        resolver: How.
        right: The address that it has in truth.
    """
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (NAME, NAME.encode()):
            return real(host, *arguments, **options)
        if machine_monotonic() < resolver.known_at:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(WRONG if resolver.is_wrong else right, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
