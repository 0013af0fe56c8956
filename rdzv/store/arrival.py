"""How a client comes to a server: it tries to connect until the server is there, and may count itself in."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rdzv import net
from rdzv.core import wire
from rdzv.errors import ConnectTimeoutError, DistNetworkError, StoreTimeoutError
from rdzv.store.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.store.base import Deadline
    from rdzv.store.client import StoreClient

    Flag = Callable[[], bool] | None

_RETRY_S_MIN, _RETRY_S_MAX = 0.01, 1.0
_WORKERS = b"init/"  # the one key that torch uses without a "/" before it
_WORKERS_POLL_S_MIN, _WORKERS_POLL_S_MAX = 0.01, 0.5


def connect(
    host: str, port: int, timeout_s: float, beside: Connection | None = None, *, spin: bool = True, give_up: Flag = None
) -> Connection:
    """A connection to the store's server, whose handshake is done; tried again until it is there.

    Args:
        host: Whom to reach.
        port: The port, 1 to 65535.
        timeout_s: For how long to try, in seconds; with 0, not at all.
        beside: A connection to the same server that is open already: once it has ended, so has the server.
        spin: Whether to await replies awake at first, for up to `SPIN_S`, as long as they come that soon.
        give_up: Asked before each try; if it is true, the time is over.

    Raises:
        DistNetworkError: The connection ``beside`` has ended.
        ConnectTimeoutError: Nobody answered, or nobody that speaks the protocol; the last try's failure is its cause.
    """
    deadline_at = (started_at := time.monotonic()) + timeout_s
    endpoint = net.join_host_port(host, port)
    pause_s = _RETRY_S_MIN
    failure: Exception = TimeoutError("there was no time to try")
    while time.monotonic() < deadline_at and not (give_up and give_up()):
        try:
            return Connection(net.connect(host, port, deadline_at), endpoint, deadline_at, spin=spin)
        except (OSError, DistNetworkError) as error:
            failure = error
        if beside is not None and beside.has_ended():
            raise DistNetworkError(f"the store at {endpoint} is gone: its host has stopped or died", endpoint=endpoint)
        left_s = max(0.0, deadline_at - time.monotonic())
        # Half of it at random, so that many clients that wait for one server do not knock in step. Not by the module
        # random, which costs every process that imports this, and every fork of one, more than all tries to come.
        time.sleep(min(left_s, pause_s * (0.5 + os.urandom(1)[0] / 512)))
        pause_s = min(_RETRY_S_MAX, pause_s * 1.5)
    waited_s = time.monotonic() - started_at
    reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else failure
    raise ConnectTimeoutError(
        f"the client socket has timed out after {waited_s:.1f} s: no store answered at {endpoint}: {reason}",
        endpoint=endpoint,
        waited_s=waited_s,
    ) from failure


def count_in(client: StoreClient, world_size: int, deadline: Deadline, *, awaits_all: bool) -> None:
    """Upstream's counting of workers: everybody adds one, and the master waits for the sum.

    Raises:
        StoreTimeoutError: Not all have come.
    """
    count = client.ask_one((wire.ADD, _WORKERS, 1))
    pause_s = _WORKERS_POLL_S_MIN
    while awaits_all and count < world_size:
        if not deadline.left_s:
            raise StoreTimeoutError(
                f"Timed out after {deadline.timeout_s:.0f} seconds waiting for clients. "
                f"{count}/{world_size} clients joined. The store is at {client.endpoint}.",
                endpoint=client.endpoint,
                waited_s=deadline.timeout_s,
            )
        time.sleep(min(pause_s, deadline.left_s))
        pause_s = min(_WORKERS_POLL_S_MAX, pause_s * 1.5)
        count = int(client.ask_one((wire.GET, _WORKERS)))
