"""The elastic rendezvous: nodes come and go, and meet in rounds.

The protocol is in `rdzv.core`: `join` and `lead` make a round, `tend` keeps watch while it lasts, and `persist`
outlives a store that is away for a while. This file gives them a store, a backend, a clock and a thread
(`rdzv.driver`), holds the port that the round's rank 0 serves (`rdzv.bootstrap`), and turns what comes of it into a
`RendezvousInfo`, an event (`rdzv.events`) or an error that says what was waited for, where, and for how long.

`create_handler` makes a handler from parameters, `DynamicRendezvousHandler.from_backend` from values. Their options are
in `rdzv.elastic_options`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from itertools import count
from typing import TYPE_CHECKING

from rdzv.backend import RendezvousBackend, Token
from rdzv.bootstrap import Bootstrap, local_address
from rdzv.core.documents import NAME_CHARS_MAX, Closed, Head, Record
from rdzv.core.effects import ReadHead
from rdzv.core.join import Standing
from rdzv.core.persist import persist
from rdzv.core.survey import Sightings, survey
from rdzv.core.tend import Membership, close, leave, next_round
from rdzv.driver import Driver
from rdzv.elastic_errors import Errors
from rdzv.elastic_options import ElasticOptions, RendezvousSettings, RendezvousTimeout, check_options
from rdzv.elastic_status import Progress, RendezvousStatus
from rdzv.errors import DistError, RendezvousClosedError, RendezvousConnectionError, RendezvousError
from rdzv.handler import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo
from rdzv.store.prefix import PrefixStore
from rdzv.tending import Tending

if TYPE_CHECKING:
    from rdzv.core.documents import Assignment
    from rdzv.core.effects import Flow, Result
    from rdzv.core.survey import MemberStatus
    from rdzv.parameters import RendezvousParameters
    from rdzv.store.base import Store

__all__ = [
    "DynamicRendezvousHandler",
    "RendezvousBackend",
    "RendezvousSettings",
    "RendezvousStatus",
    "RendezvousTimeout",
    "Token",
    "create_handler",
]

logger = logging.getLogger("rdzv.elastic")

_ordinals = count()
_HOST_CHARS_MAX = NAME_CHARS_MAX - 40  # in a node's name; two numbers follow
_DATE_AND_TIME = "%Y-%m-%dT%H:%M:%S+00:00"
_THREAD_END_S = 2.0  # it sees that it is stopped after a wait of a second, or at once if the store can be closed


class DynamicRendezvousHandler(RendezvousHandler):
    """One node of an elastic job.

    `next_rendezvous` meets the others; then a thread shows that the node lives, and watches its neighbours. When the
    round should end, since a node waits, has left or was lost, `num_nodes_waiting` is more than 0: call
    `next_rendezvous` again. `shutdown` is a leave: the others are told, and go on. A process that ends without it is
    found dead after the keep-alive bound.
    """

    @classmethod
    def from_backend(
        cls,
        run_id: str,
        store: Store,
        backend: RendezvousBackend,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        timeout: RendezvousTimeout | None = None,
        keep_alive_interval: int = 5,
        keep_alive_max_attempt: int = 3,
    ) -> DynamicRendezvousHandler:
        """A handler for a backend and the store that came with it.

        Args:
            run_id: The job's name.
            store: What the nodes share; see `rdzv.backend` for what it must offer.
            backend: Where the job's document is.
            min_nodes: The fewest nodes of a round, 1 or more.
            max_nodes: The most, not less than ``min_nodes``.
            local_addr: Where the others reach this node. If it is not given, the address from which this machine
                reaches the store.
            timeout: The time-outs of the rendezvous; if not given, the defaults of `RendezvousTimeout`.
            keep_alive_interval: How often a node shows that it lives, at the least, in seconds, more than 0.
            keep_alive_max_attempt: How many intervals without a sign of life make it a dead one, 1 or more.

        Raises:
            ValueError: The run id is empty, a number is out of range, or two contradict each other; the text says
                which.
        """
        settings = RendezvousSettings.of(
            run_id, min_nodes, max_nodes, timeout, keep_alive_interval, keep_alive_max_attempt
        )
        return cls(settings, store, backend, ElasticOptions(local_addr=local_addr or ""))

    def __init__(
        self, settings: RendezvousSettings, store: Store, backend: RendezvousBackend, options: ElasticOptions
    ) -> None:
        """Prepare; nothing is written before `next_rendezvous`. See `from_backend` and `create_handler`."""
        if not settings.run_id:
            raise ValueError("The run id must be a non-empty string.")
        self._settings, self._common = settings, settings.common()
        self._store, self._backend, self._options = store, backend, options
        host = options.local_addr or socket.gethostname()
        self._progress = Progress(settings.run_id, f"{host[:_HOST_CHARS_MAX]}_{os.getpid()}_{next(_ordinals)}")
        self._token, self._pid = os.urandom(8).hex(), os.getpid()
        self._joining = threading.RLock()  # a signal's handler may shut down the very thread that joins
        self._stopped = threading.Event()
        self._tending: Tending | None = None
        self._stopping: list[Tending] = []  # of rounds before, whose threads may still wait for the store
        self._bootstrap: Bootstrap | None = None
        self._sightings, self._errors = Sightings(), Errors(settings.run_id, store)
        self._driver = Driver(store, backend, self._common.heartbeat_s)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._settings.run_id!r} at {self._progress.node}: {self._progress.phase}>"

    def __del__(self) -> None:
        if hasattr(self, "_driver"):
            if self._tending:
                self._tending.abandon()
            self._driver.close()
            self._release_bootstrap()
            self._close_store(0.0)

    @property
    def settings(self) -> RendezvousSettings:
        """What all nodes have in common."""
        return self._settings

    def get_backend(self) -> str:
        """The backend's name."""
        return self._backend.name

    def get_run_id(self) -> str:
        """The id of the job."""
        return self._settings.run_id

    @property
    def use_agent_store(self) -> bool:
        """Whether rank 0 serves a fresh store for the job's own processes.

        Not if ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE`` is 1: then the port is theirs to serve.
        """
        return os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0") != "1"

    # The rounds

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other nodes: leave the round that this node is in, if any, and wait for the next one.

        A store whose connection was lost refuses every call from then on; here it is connected anew.

        Raises:
            RendezvousClosedError: The job is closed; the text says by whom, when and why.
            RendezvousGracefulExitError: So it is, and this node was only a spare.
            RendezvousTimeoutError: The round was not complete in time; the text says what it waited for.
            RendezvousConnectionError: The store is gone or was silent for too long; or this node can hold no port,
                and if it was in a round, it is in it still.
            RendezvousStateError: The settings differ from those of the other nodes, another node has the same rank
                hint, or the store holds what no node writes. Or this is a forked child: it needs a handler of its own.
        """
        self._refuse_in_child()
        with self._joining:
            self._refuse_if_shut_down()
            try:
                return self._meet()
            except BaseException as error:
                phase, why = "member" if self._tending else "idle", repr(error)
                if isinstance(error, RendezvousError):
                    self._errors.locate(error)
                    phase, why = "closed" if isinstance(error, RendezvousClosedError) else phase, str(error)
                self._progress.enter(phase, why)
                raise

    def _refuse_in_child(self) -> None:
        if os.getpid() != self._pid:  # the parent has the thread, and may have had a lock
            raise self._errors.elsewhere(self._pid)

    def _refuse_if_shut_down(self) -> None:
        if self._stopped.is_set():
            raise RendezvousClosedError(f"run {self._settings.run_id!r}: this handler was shut down")

    def _meet(self) -> RendezvousInfo:
        started_at = time.monotonic()
        self._progress.enter("joining")
        # While this node is still a member: if it can hold no port, nothing has changed, and it can try again or leave.
        bootstrap = Bootstrap(self._options.local_addr or local_address(self._store), self._options.host.bind)
        try:
            standing = self._standing(bootstrap)
            self._refuse_if_shut_down()  # while it can still say its farewell
            tending = self._stop_tending()
            self._release_bootstrap()
            with self._errors.translated("the round was not joined"):
                flow = next_round(standing, tending.membership if tending else None, started_at)
                member = self._driver.run(persist(flow, self._common, started_at), self._stopped)
            membership = Membership(member, self._common, standing.head.job, self._progress.report)
            self._tending = watch = Tending(membership, self._driver)
            self._sightings = Sightings()
            watch.start()
            with self._errors.translated("the round's store cannot be used"):
                self._driver.refresh()
            hosted_at = time.monotonic()
            if self.use_agent_store and member.assignment.rank == 0:
                bootstrap.serve(self._options.host.hosting)
                self._bootstrap = bootstrap
            else:
                bootstrap.release()
            self._progress.phases_s["host"] = time.monotonic() - hosted_at
            self._refuse_if_shut_down()  # by a signal's handler, which found nothing to leave, or not all of it
        except BaseException as error:
            bootstrap.release()
            self._leave(f"its join ended with a {type(error).__name__}")
            if self._stopped.is_set():  # and that may have closed the driver before this used it again
                self._close_driver()
            raise
        return self._taken_home(member.assignment)

    def _standing(self, bootstrap: Bootstrap) -> Standing:
        options, progress = self._options, self._progress
        record = Record(progress.node, self._token, bootstrap.addr, bootstrap.port, options.rank, options.topology)
        reopens = options.reopen and not progress.has_met  # what is closed under a member is closed for it, too
        job = os.urandom(8).hex()  # should this node be its first, which it may be again in a store that was emptied
        return Standing(progress.run_id, self._common, record, job, reopen=reopens, report=progress.report)

    def _taken_home(self, assignment: Assignment) -> RendezvousInfo:
        progress, rank, size = self._progress, assignment.rank, assignment.size
        progress.enter("member")
        times = {f"{phase}_s": round(seconds, 3) for phase, seconds in progress.phases_s.items()}
        progress.report("met", round=assignment.round, rank=rank, size=size, **times)
        store = PrefixStore(f"torch.rendezvous.{progress.run_id}.{assignment.round}", self._store)
        return RendezvousInfo(store, rank, size, RendezvousStoreInfo(assignment.addr, assignment.port))

    def _stop_tending(self) -> Tending | None:
        if tending := self._tending:
            tending.stop()  # first: an exception of a signal's handler may come here, and it is to be stopped later
            self._stopping = [*filter(Tending.is_alive, self._stopping), tending]
        tending, self._tending = self._tending, None  # by now such a handler may have seen to it
        return tending

    def _release_bootstrap(self) -> None:
        bootstrap, self._bootstrap = self._bootstrap, None
        if bootstrap:
            bootstrap.release()

    # What the caller's other threads may ask meanwhile

    def is_closed(self) -> bool:
        """Whether the job is known to be closed, or this handler was shut down.

        A member knows within a second or so; others ask the store.

        Raises:
            RendezvousConnectionError: The store is gone or silent.
            RendezvousStateError: It holds what no node writes.
        """
        tending = self._tended()
        if self._progress.phase in ("closed", "left"):
            return True
        if tending:
            end = tending.membership.end
            return end is not None and end.kind == "closed"
        return self._carry_out(self._read_closed(), "the job's document could not be read") is not None

    def num_nodes_waiting(self) -> int:
        """For how many nodes the round should end: those whom the next could take in, and one that left or was lost.

        Spares are not counted while the round is full. A node that was evicted itself counts: it can join again.

        Raises:
            RendezvousConnectionError: The store is gone, or was silent for too long: there can be no next round.
            RendezvousStateError: The store was emptied, or another one without this job is in its place.
        """
        if not (tending := self._tended()):
            return 0
        if failure := tending.failure:
            raise self._errors.retold(failure, "the round cannot be watched any more") from failure
        return tending.membership.num_nodes_waiting

    def status(self) -> RendezvousStatus:
        """What this node knows of its job. A member asks the store who else is there and alive.

        A store that is gone or silent is told as the phase ``store lost``.
        """
        tending = self._tended()
        failure = tending.failure if tending else None
        members: list[MemberStatus] = []
        if tending and not failure:
            flow = survey(tending.membership, self._sightings, time.monotonic())
            try:
                members = self._carry_out(flow, "the members could not be read")
            except RendezvousConnectionError as error:
                failure = error
        return RendezvousStatus.of(self._progress, tending, members, failure)

    def set_closed(self, reason: str = "the job was closed by its user") -> None:
        """Close the job for all nodes, whatever they do at the moment; if it is closed already, nothing changes.

        Raises:
            RendezvousConnectionError: The store is gone, or did not answer within the close time-out.
            RendezvousStateError: It holds what no node writes.
        """
        closed = Closed(self._progress.node, reason, time.strftime(_DATE_AND_TIME, time.gmtime()))
        flow = close(self._settings.run_id, self._common, os.urandom(8).hex(), closed, time.monotonic())
        by = self._carry_out(flow, "the job could not be closed", self._common.close_s)
        self._progress.enter("closed", f"run {self._settings.run_id!r} is {by}")
        self._progress.report("closed", node=by.by, why=by.why)

    def shutdown(self, reason: str = "it has shut down") -> bool:
        """Leave, with a reason that the others are told, and let go of everything. Nothing is closed for the others.

        The last node to leave a round closes the job. A join of another thread ends with a RendezvousClosedError. A
        store that this handler hosts lives on for ``linger_s`` while others use it. In a forked child nothing happens.

        Returns:
            Whether all went well; a store that is gone is told by ``False`` and a line in the log.
        """
        if os.getpid() != self._pid:
            return True
        self._stopped.set()
        is_free = self._joining.acquire(timeout=self._common.bound_s)
        try:
            went_well = self._leave(reason)
            self._close_driver()
            self._release_bootstrap()
            if self._progress.phase not in ("closed", "left"):
                self._progress.enter("left", reason)
            self._close_store(self._options.host.linger_s)
        finally:
            if is_free:
                self._joining.release()
        return went_well

    # Inside

    def _tended(self) -> Tending | None:
        if tending := self._tending:
            tending.catch_up()
        return tending

    def _close_driver(self) -> None:
        self._driver.close()
        for tending in self._stopping:  # one in the middle of upstream's store at the process's end would abort it
            tending.join(_THREAD_END_S)

    def _close_store(self, linger_s: float) -> None:
        if self._options.owns_store:
            with contextlib.suppress(OSError, DistError):
                self._store.close(linger_s)  # type: ignore[attr-defined]

    def _leave(self, reason: str) -> bool:
        tending, what = self._stop_tending(), "the round could not be left in order"
        if not tending:
            return True
        try:
            if tending.failure:  # whoever has waited for the store in vain does not wait again
                raise self._errors.retold(tending.failure, what)
            at = time.strftime(_DATE_AND_TIME, time.gmtime())
            self._carry_out(leave(tending.membership, reason, at, time.monotonic()), what)
        except RendezvousError as error:
            logger.warning("%s", error)
            return False
        return True

    def _read_closed(self) -> Flow[Closed | None]:
        found, _ = yield ReadHead(time.monotonic() + self._common.heartbeat_s)
        return Head.load(found[0], f"the document of run {self._settings.run_id!r}").closed if found else None

    def _carry_out(self, flow: Flow[Result], what: str, patience_s: float | None = None) -> Result:
        """Carry out a flow; for ``patience_s`` see `persist`."""
        self._refuse_in_child()
        with self._errors.translated(what):
            return self._driver.run(persist(flow, self._common, time.monotonic(), patience_s))


def create_handler(store: Store, backend: RendezvousBackend, params: RendezvousParameters) -> DynamicRendezvousHandler:
    """A handler for a backend and its store, as the parameters describe it.

    For the options see `rdzv.elastic_options.ElasticOptions` and `RendezvousTimeout`.

    Raises:
        ValueError: An option is unknown (the nearest known one is named), malformed or out of range, or two of them
            contradict each other.
    """
    check_options(params, backend.name)
    return DynamicRendezvousHandler(RendezvousSettings.parse(params), store, backend, ElasticOptions.parse(params))
