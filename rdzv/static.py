"""The static rendezvous: a fixed world whose ranks are known beforehand. Rank 0 hosts the store, all wait for all.

The protocol is `rdzv.core.meeting`; members that run torch's own static handler may take part. This file reads the
parameters, opens the store, runs the meeting, and turns its outcome into a `RendezvousInfo` or an error that says who
was missing, where, and after how long.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from rdzv import events, net
from rdzv.config import refuse_unknown_options
from rdzv.core.meeting import MEETING, Meeting, Outcome, meet
from rdzv.endpoint import Endpoint
from rdzv.errors import DistError, RendezvousClosedError, RendezvousTimeoutError
from rdzv.handler import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from rdzv.hosting import HOST_OPTIONS, SECONDS_MAX, HostOptions
from rdzv.static_errors import StaticErrors
from rdzv.store.prefix import PrefixStore
from rdzv.store.tcp import TCPStore

if TYPE_CHECKING:
    from rdzv.parameters import RendezvousParameters
    from rdzv.store.base import Key, Value

logger = events.static_logger

TIMEOUT_S = 600
_RETRY_S_MIN, _RETRY_S_MAX = 0.05, 1.0


class StaticTCPRendezvous(RendezvousHandler):
    """One rank of a fixed world.

    The first `next_rendezvous` is a meeting: it returns when all ranks have come. Later ones return at once, with the
    same rank, world size and keys.
    """

    def __init__(
        self,
        master_addr: str,
        master_port: int,
        rank: int,
        world_size: int,
        run_id: str,
        timeout: float,
        host_options: HostOptions | None = None,
    ) -> None:
        """Prepare; nothing is opened before `next_rendezvous`.

        Args:
            master_addr: The host of rank 0.
            master_port: The store's port, 1 to 65535; on rank 0 also 0, and the system chooses.
            rank: 0 to ``world_size - 1``; rank 0 hosts the store.
            world_size: How many ranks meet, 1 or more.
            run_id: The job's name.
            timeout: For how long to wait for the others, and the store's timeout afterwards, in seconds: more than 0,
                and 2000000 at most.
            host_options: How rank 0 hosts the store.

        Raises:
            ValueError: A number is out of range.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must be from 0 to {world_size - 1} in a world of {world_size}, not {rank}")
        if master_port == 0 and rank != 0:
            raise ValueError(
                f"port 0 lets the system choose, and only rank 0 learns what it chose: rank {rank} must be told"
            )
        if not 0 < timeout <= SECONDS_MAX:
            raise ValueError(f"the timeout must be more than 0 and at most {SECONDS_MAX} seconds, not {timeout}")
        self._rank, self._world_size, self._run_id = rank, world_size, run_id
        self._master_addr, self._master_port = master_addr, master_port
        self._timeout_s = float(timeout)
        self._host_options = host_options or HostOptions()
        self._errors = StaticErrors(run_id, rank, world_size, net.join_host_port(master_addr, master_port))
        self._lock = threading.Lock()
        self._is_watched = events.VARIABLE in os.environ  # now: to look there in each of many ranks takes long
        self._store: TCPStore | None = None
        self._info: RendezvousInfo | None = None  # once all have met
        self._is_shut_down = False

    def __repr__(self) -> str:
        who = f"rank {self._rank} of {self._world_size}"
        return f"<{type(self).__name__} {self._run_id!r} at {self._errors.endpoint}: {who}>"

    def get_backend(self) -> str:
        """The backend's name: ``static``."""
        return "static"

    @property
    def use_agent_store(self) -> bool:
        """True: the job's own processes may use this store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other ranks; once met, return the same again at once.

        Raises:
            RendezvousTimeoutError: Not all ranks came in time; ``missing`` has those that did not, where it is known.
            RendezvousConnectionError: The store cannot be hosted or reached, or was lost.
            RendezvousStateError: Another process holds this rank, another run this store, or a key holds garbage.
            RendezvousClosedError: This handler was shut down.
            ValueError: The endpoint's host is no name that could be looked up.
        """
        if not self._lock.acquire(timeout=self._timeout_s):
            raise RendezvousTimeoutError("another thread of this process is still in the meeting of this handler")
        try:
            self._refuse_if_shut_down()
            info = self._info or self._meet()
            if self._is_shut_down:
                raise RendezvousClosedError(f"the rendezvous {self._run_id!r} was shut down meanwhile")
            return info
        finally:
            self._lock.release()

    def is_closed(self) -> bool:
        """Whether this handler was shut down; nobody can close a static rendezvous for the others."""
        return self._is_shut_down

    def set_closed(self) -> None:
        """Nothing: a fixed world has no rounds to end."""

    def num_nodes_waiting(self) -> int:
        """0: nobody can wait to join a fixed world."""
        return 0

    def get_run_id(self) -> str:
        """The id of the job."""
        return self._run_id

    def shutdown(self) -> bool:
        """Leave. At once for a rank that hosts nothing; the host waits for the others to leave, for ``linger_s``.

        May be called by another thread, or by a signal's handler: a meeting that is under way ends. If rank 0 has
        not been reached yet, that takes a second, or up to 5 s for each address of it that says nothing.

        Returns:
            True.
        """
        self._is_shut_down = True
        store, self._store = self._store, None
        info, self._info = self._info, None
        if store is not None:
            _close(store, self._host_options.linger_s if info else 0.0)
        return True

    # The meeting

    def _refuse_if_shut_down(self) -> None:
        if self._is_shut_down:
            raise RendezvousClosedError(f"the rendezvous {self._run_id!r} was shut down by this process")

    def _meet(self) -> RendezvousInfo:
        started_at = time.monotonic()
        deadline_at = started_at + self._timeout_s
        token = f"{socket.gethostname()}, process {os.getpid()}, {os.urandom(4).hex()}"
        meeting = Meeting(self._run_id, self._rank, self._world_size, token, started_at, deadline_at)
        refused = ""
        pause_s = _RETRY_S_MIN
        while True:
            store = self._open(meeting, refused)
            self._tell("connected", endpoint=self._errors.endpoint)
            outcome = self._take_part(store, meeting, refused)
            if outcome.met:
                where = RendezvousStoreInfo(self._master_addr, store.port)
                info = RendezvousInfo(PrefixStore(self._run_id, store), self._rank, self._world_size, where)
                self._info = info  # before that is told, which may be broken into: one meets but once
                store.set_timeout(self._timeout_s)
                self._tell("met", rank=self._rank, size=self._world_size)
                return info
            self._store = None
            if not outcome.refused:
                _close(store, max(0.0, deadline_at - time.monotonic()))  # so long the others may read why
                missing = self._errors.missing(outcome, time.monotonic() - started_at)
                if self._rank == 0:
                    logger.error("%s", missing)
                raise missing
            _close(store, 0.0)
            # It may be the store of an earlier run that is about to end: come again, until the deadline.
            left_s = deadline_at - time.monotonic()
            if not refused:
                logger.warning("%s: trying again for %.0f s", self._errors.refusal(outcome.refused), left_s)
            refused = outcome.refused
            if left_s <= pause_s:
                raise self._errors.refused(refused, time.monotonic() - started_at)
            time.sleep(pause_s)
            pause_s = min(_RETRY_S_MAX, 2 * pause_s)

    def _tell(self, event: str, **facts: object) -> None:
        if self._is_watched or logger.isEnabledFor(events.USUAL):
            events.emit(event, self._run_id, f"rank {self._rank}", logger, **facts)

    def _take_part(self, store: TCPStore, meeting: Meeting, refused: str) -> Outcome:
        self._store = store  # from now on `shutdown` can end the meeting
        try:
            self._refuse_if_shut_down()
            return store.client.run(meet(meeting, time.monotonic()))
        except (DistError, ValueError) as error:
            self._store = None
            _close(store, 0.0)
            self._refuse_if_shut_down()
            waited_s = time.monotonic() - meeting.started_at
            why = self._errors.refused(refused, waited_s) if refused else self._errors.lost(error, waited_s)
            raise why from error
        except BaseException:
            self._store = None
            _close(store, 0.0)
            raise

    def _open(self, meeting: Meeting, refused: str) -> TCPStore:
        left_s = max(0.0, meeting.deadline_at - time.monotonic())
        try:
            if self._rank != 0:
                return TCPStore(self._master_addr, self._master_port, timeout=left_s, give_up=self.is_closed)
            # There before anybody can ask: or whoever comes first, and errs, would make it another meeting's store.
            ours: dict[Key, Value] = {MEETING: meeting.identity}
            return self._host_options.host(self._master_addr, self._master_port, left_s, ours, self.is_closed)
        except DistError as error:
            self._refuse_if_shut_down()
            waited_s = time.monotonic() - meeting.started_at
            if refused:
                raise self._errors.refused(refused, waited_s) from error
            raise self._errors.unreachable(error, waited_s) from error


def _close(store: TCPStore, linger_s: float) -> None:
    """Close; an error in closing must not hide the one that led there."""
    with contextlib.suppress(OSError, DistError):
        store.close(linger_s)


OPTIONS = ("rank", "timeout", *HOST_OPTIONS)
"""The options of the backend, by name."""


def create_rdzv_handler(params: RendezvousParameters) -> StaticTCPRendezvous:
    """The static handler that the parameters describe.

    The endpoint is ``host:port`` by the strict grammar; ``min_nodes`` and ``max_nodes`` are the world size. Options:

    * ``rank`` (required): 0 to world size - 1, as a number or as text;
    * ``timeout``: for how long to wait for the others, in whole seconds, 1 to 2000000 (default 600);
    * ``bind``: what rank 0 listens on, where that is not the endpoint's host (a service address, NAT, a wildcard);
    * ``linger_s``: for how long rank 0's `shutdown` waits for the others to leave, 0 to 2000000 s (default 30);
    * ``listen_fd``: the descriptor of a bound socket for rank 0 to listen on; it is duplicated;
    * ``hosting``: rank 0 serves the store in a ``process`` of its own (default), or in a ``thread``.

    Raises:
        ValueError: An option is missing, unknown or out of range, or the endpoint lacks a port or is malformed (then
            an `EndpointError`).
    """
    refuse_unknown_options(params.config, OPTIONS, "static")  # first: what is missing may be there, mistyped
    rank = params.get_as_int("rank")
    if rank is None:
        raise ValueError("the static rendezvous needs the option 'rank': which of the world's ranks this process is")
    if not (params.endpoint or "").strip():
        raise ValueError("the static rendezvous needs an endpoint, host:port of rank 0, and it is empty")
    endpoint = Endpoint.parse(params.endpoint)
    if params.min_nodes != params.max_nodes:
        raise ValueError(
            "a static world has one size: "
            f"min_nodes ({params.min_nodes}) and max_nodes ({params.max_nodes}) must be equal"
        )
    timeout_s = params.get_as_int("timeout", TIMEOUT_S)
    if timeout_s is None or not 1 <= timeout_s <= SECONDS_MAX:
        raise ValueError(f"the option 'timeout' must be from 1 to {SECONDS_MAX} seconds, not {timeout_s}")
    return StaticTCPRendezvous(
        endpoint.host, endpoint.port, rank, params.max_nodes, params.run_id, timeout_s, HostOptions.parse(params)
    )
