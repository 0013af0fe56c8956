"""How a rank meets the others in virtual time: `rdzv.elastic`'s part, and `rdzv.static`'s, as flows of its node.

The protocols are `rdzv.core`'s own; what an outcome means to the caller is said by the code that the real handlers
use. Must not know the steps that a rank takes besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rdzv.core import wire
from rdzv.core.effects import Effect
from rdzv.core.meeting import Meeting, meet
from rdzv.elastic_errors import Errors
from rdzv.errors import ConnectTimeoutError, DistError, DistNetworkError, RendezvousConnectionError, RendezvousError
from rdzv.hosting import HostOptions
from rdzv.static import create_rdzv_handler
from rdzv.static_errors import StaticErrors

if TYPE_CHECKING:
    from rdzv.core.effects import Flow
    from sim.virtual.actor import Actor

_PAUSE_S_MIN, _PAUSE_S_MAX = 0.01, 1.0  # between two attempts to connect, as `rdzv.store.arrival` has it
_REFUSED_S_MIN, _REFUSED_S_MAX = 0.05, 1.0  # before it comes again to a meeting that refused it, as `rdzv.static`
_LINGER_S_MIN, _LINGER_S_MAX = 0.001, 0.1  # between two looks whether all have left


class Met(NamedTuple):
    """What a rank is given.

    Attributes:
        round: The round's number, from 1; 0 if the rank itself counts.
        rank: Its rank there.
        size: How many they are.
        addr: Where rank 0 serves.
        port: Where rank 0 serves.
        prefix: What the keys of the round begin with.
    """

    round: int
    rank: int
    size: int
    addr: str
    port: int
    prefix: str


class Handler(Protocol):
    """What a rank has in place of a `rdzv.RendezvousHandler`.

    Attributes:
        meets_once: Whether it has to be left before the next meeting.
    """

    meets_once: bool

    def meet(self) -> Flow[Met]:
        """Go into a round, or the next."""

    def should_end(self) -> bool:
        """Whether the round should end.

        Raises:
            RendezvousError: It cannot be watched any more.
        """

    def leave(self) -> Flow[None]:
        """Leave for good."""


class ElasticHandler:
    """One handler of an elastic job: an agent does its work, over connections of its own."""

    meets_once = False

    def __init__(self, actor: Actor) -> None:
        self._actor, self._stage = actor, actor.stage
        self._errors = Errors(self._stage.run_id, self._stage.address)  # type: ignore[arg-type]  # all it asks for
        self._agent: Any = None

    def meet(self) -> Flow[Met]:
        """As `Handler.meet`.

        Raises:
            RendezvousError: As the real handler's ``next_rendezvous``.
        """
        actor = self._actor
        if self._agent is None:
            try:
                yield from connect(actor, actor.deadline_at)
            except DistNetworkError as error:
                raise RendezvousConnectionError(f"the store of run {self._stage.run_id!r}: {error}") from error
            self._agent = self._stage.agent(actor.node)
            self._agent.on_change = actor.wake
        agent = self._agent
        agent.join()
        yield from actor.until(lambda: not agent.is_joining)
        self._raise_if_failed("the round was not joined")
        place = agent.rounds[-1]
        prefix = f"torch.rendezvous.{self._stage.run_id}.{place.round}"
        return Met(place.round + 1, place.rank, place.size, place.addr, place.port, prefix)

    def should_end(self) -> bool:
        """As `Handler.should_end`."""
        self._raise_if_failed("the round cannot be watched any more")
        return bool(self._agent and self._agent.num_nodes_waiting)

    def leave(self) -> Flow[None]:
        """As `Handler.leave`; a store that is gone is no error then."""
        if self._agent and self._agent.membership and not self._agent.error:
            task = self._agent.leave("it has shut down")
            yield from self._actor.until(lambda: task.done)

    def _raise_if_failed(self, what: str) -> None:
        error = self._agent and self._agent.error
        if error and not isinstance(error, RendezvousError | DistError):
            raise error  # no user is to be told of it as of a failed rendezvous
        if error:
            raise self._errors.translate(error, what) from error


class StaticHandler:
    """One handler of a fixed world. It meets over its rank's own connection, and rank 0 hosts the store."""

    meets_once = True

    def __init__(self, actor: Actor) -> None:
        stage, timeout_s = actor.stage, max(1, int(actor.deadline_at - actor.node.now))
        self._actor, self._stage = actor, stage
        parameters = stage.parameters(rank=actor.rank, timeout=timeout_s)
        create_rdzv_handler(parameters)  # for what it refuses
        self._timeout_s = float(parameters.get_as_int("timeout") or 0)
        self._linger_s = HostOptions.parse(parameters).linger_s
        size = stage.plan.world_size
        self._errors = StaticErrors(stage.run_id, actor.rank, size, stage.address.text)

    def meet(self) -> Flow[Met]:
        """As `Handler.meet`.

        Raises:
            RendezvousError: As the real handler's ``next_rendezvous``.
        """
        node, errors, run_id = self._actor.node, self._errors, self._stage.run_id
        began_at = node.now
        deadline_at, token = began_at + self._timeout_s, f"{node.name}, {began_at!r}"
        meeting = Meeting(run_id, errors.rank, errors.world_size, token, began_at, deadline_at)
        refused, pause_s = "", _REFUSED_S_MIN
        while True:
            try:
                yield from self._open(deadline_at)
            except DistError as error:
                waited_s = node.now - began_at
                failure = errors.refused(refused, waited_s) if refused else errors.unreachable(error, waited_s)
                raise failure from error
            try:
                outcome = yield from meet(meeting, node.now)
            except (DistError, ValueError) as error:
                raise errors.lost(error, node.now - began_at) from error
            if outcome.met:
                return Met(0, errors.rank, errors.world_size, *self._stage.address, run_id)
            if not outcome.refused:
                yield from self._close(deadline_at)  # so long the others may read why
                raise errors.missing(outcome, node.now - began_at)
            yield from self._close(node.now)
            refused = outcome.refused  # by the store of an earlier run, it may be, that is about to end
            if deadline_at - node.now <= pause_s:
                raise errors.refused(refused, node.now - began_at)
            yield from self._actor.until(bool, node.now + pause_s)
            pause_s = min(_REFUSED_S_MAX, 2 * pause_s)

    def should_end(self) -> bool:
        """As `Handler.should_end`: nobody can wait to join a fixed world."""
        return False

    def leave(self) -> Flow[None]:
        """As `Handler.leave`: the host waits for the others to leave."""
        yield from self._close(self._actor.node.now + self._linger_s)

    def _open(self, deadline_at: float) -> Flow[None]:
        is_host = self._errors.rank == 0
        if is_host:
            self._stage.host_store()
        yield from connect(self._actor, deadline_at, looks_up=not is_host)

    def _close(self, linger_until: float) -> Flow[None]:
        task = self._actor.task
        assert task
        connection, task.connection = task.connection, None
        if connection:
            connection.hang_up()
        if self._errors.rank == 0:
            pause_s, clients = _LINGER_S_MIN, self._stage.world.store.core.connections
            while clients and self._actor.node.now < linger_until:
                yield from self._actor.until(bool, min(linger_until, self._actor.node.now + pause_s))
                pause_s = min(_LINGER_S_MAX, 2 * pause_s)
            self._stage.stop_hosting()


def connect(actor: Actor, deadline_at: float, *, looks_up: bool = True) -> Flow[None]:
    """Reach the store, trying again until it answers.

    Args:
        actor: Who.
        deadline_at: When to give up, on its node's clock.
        looks_up: Whether its resolver is asked, as it is by all but a host, which knows the place itself.

    Raises:
        ConnectTimeoutError: It did not in time.
    """
    began_at, pause_s, node = actor.node.now, _PAUSE_S_MIN, actor.node
    reason: object = "there was no time to try"
    resolver = actor.stage.resolvers.get(actor.rank) if looks_up else None
    while node.now < deadline_at:
        if resolver and (resolver.is_wrong or actor.stage.now() < resolver.known_at):
            reason = "Connection refused" if resolver.is_wrong else "Name or service not known"
        else:
            try:
                yield Effect([(wire.PING, 0)], deadline_at)
            except DistNetworkError as error:
                reason = error
            else:
                return
        yield from actor.until(bool, min(deadline_at, node.now + pause_s))
        pause_s = min(_PAUSE_S_MAX, 1.5 * pause_s)
    waited_s = node.now - began_at
    where = actor.stage.address.text
    why = f"the client socket has timed out after {waited_s:.1f} s: no store answered at {where}: {reason}"
    raise ConnectTimeoutError(why, endpoint=where, waited_s=waited_s)
