"""How a process hosts a store for the others: the options that are the same in every backend which has a host.

`HostOptions.parse` reads them from the parameters, and `HostOptions.host` does it. Whether this process is the one to
host is for the backend to know; where the server lives is `rdzv.store.host`'s business.
"""

# Annotations are not put off here: for a named tuple each would be compiled by itself, and every start waits for that.
import math
from typing import TYPE_CHECKING, NamedTuple

from rdzv.store.tcp import TCPStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdzv.parameters import RendezvousParameters
    from rdzv.store.arrival import Flag
    from rdzv.store.base import Key, Value
    from rdzv.store.host import Hosting

HOST_OPTIONS = ("hosting", "bind", "listen_fd", "linger_s")
LINGER_S = 30.0
SECONDS_MAX = 2_000_000  # 23 days: the system's waits count milliseconds in 31 bits


class HostOptions(NamedTuple):
    """How to host, and how to end it.

    Attributes:
        hosting: In a ``"thread"`` of this process, or in a ``"process"`` of its own.
        bind: What to listen on, where that is not the endpoint's host; empty for the endpoint's host.
        listen_fd: The descriptor of a bound socket to listen on; it is duplicated.
        linger_s: For how long the host that shuts down waits for the others to leave first, in seconds.
    """

    hosting: "Hosting" = "process"
    bind: str = ""
    listen_fd: int | None = None
    linger_s: float = LINGER_S

    @classmethod
    def parse(cls, params: "RendezvousParameters") -> "HostOptions":
        """Read the options `HOST_OPTIONS`; those that are not given have the defaults above.

        Raises:
            ValueError: One is not what it must be: ``linger_s`` is 0 to 2000000 s, ``hosting`` one of the two words.
        """
        return cls(
            hosting=_hosting(params),
            bind=str(params.get("bind") or ""),
            listen_fd=params.get_as_int("listen_fd"),
            linger_s=_linger_s(params),
        )

    def host(
        self,
        host: str,
        port: int,
        timeout_s: float,
        initial: "Mapping[Key, Value] | None" = None,
        give_up: "Flag" = None,
    ) -> TCPStore:
        """A store that lives until it is closed or collected; with ``close(linger_s)`` it lets the others leave first.

        Args:
            host: Whom the others connect to.
            port: 0 to 65535; with 0 the system chooses, and the store's ``port`` tells.
            timeout_s: For how long to try, and the store's timeout afterwards, in seconds.
            initial: What the store holds before anybody else can ask.
            give_up: Asked before the host's name is asked for again; if it is true, the time is over.

        Raises:
            DistNetworkError: The port is taken, the host is none of this machine's addresses, or nobody knows its name.
        """
        return TCPStore(
            host,
            port,
            is_master=True,
            timeout=timeout_s,
            hosting=self.hosting,
            bind=self.bind or None,
            listen_fd=self.listen_fd,
            initial=initial,
            give_up=give_up,
        )


def _hosting(params: "RendezvousParameters") -> "Hosting":
    where = params.get("hosting", "process")
    if where not in ("thread", "process"):
        raise ValueError(f"the option 'hosting' must be 'thread' or 'process', not {where!r}")
    hosting: Hosting = where
    return hosting


def _linger_s(params: "RendezvousParameters") -> float:
    given = params.get("linger_s", LINGER_S)
    try:
        linger_s = float(given)
    except (TypeError, ValueError):
        linger_s = math.nan
    if not 0 <= linger_s <= SECONDS_MAX:
        raise ValueError(f"the option 'linger_s' must be from 0 to {SECONDS_MAX} seconds, not {given!r}")
    return linger_s
