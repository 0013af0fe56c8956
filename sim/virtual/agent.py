"""A node's side of an elastic job in virtual time: what `rdzv.elastic`'s handler does with its threads.

It runs the very flows that the handler runs, each as a task of its node. What its user does with it is for `job`, and
for `actor`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rdzv.core.documents import Closed, Record
from rdzv.core.join import Standing
from rdzv.core.persist import persist
from rdzv.core.tend import Membership, close, leave, next_round, tend
from rdzv.errors import RendezvousError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.documents import Assignment, Settings
    from rdzv.core.join import Member
    from sim.virtual.node import Node
    from sim.virtual.task import Task


class Agent:
    """One handler of an elastic job, on a node of a world.

    Attributes:
        node: Where it runs.
        settings: What it was given.
        record: Who it is; each join has a port of its own.
        reopen: Whether it opens a closed job again.
        standing: Its way into a round.
        membership: What it knows of the round that it is in; ``None`` if it is in none.
        rounds: All places that it was given, in order.
        events: What its flows have reported: the time on its node's clock, in seconds, kind, facts.
        error: What the last join or the watch since has raised, if anything.
        on_change: Is called when it has been given a place, when its join or its watch has failed, when it has left,
            and when it has reported anything.
    """

    def __init__(self, node: Node, settings: Settings, run_id: str = "run", **record: object) -> None:
        """A handler that has not joined yet.

        Args:
            node: Where it runs.
            settings: What it was given.
            run_id: The job's name.
            record: Fields of its `Record` that are not as usual.
        """
        self.node, self.settings, self.run_id = node, settings, run_id
        token = f"{node.name}#{node.now:.9f}"
        usual = {"name": node.name, "token": token, "addr": f"addr-of-{node.name}", "port": 0}
        self.record = Record(**(usual | record))  # type: ignore[arg-type]
        self.reopen = False
        self.standing: Standing | None = None
        self.membership: Membership | None = None
        self.rounds: list[Assignment] = []
        self.events: list[tuple[float, str, dict[str, object]]] = []
        self.error: Exception | None = None
        self.on_change: Callable[[Agent], object] = lambda _: None
        self._joining: Task | None = None
        self._tending: Task | None = None

    def join(self) -> Task:
        """Go into the next round; then tend it."""
        membership, self.error = self._stop(), None
        self.record = replace(self.record, port=self.record.port + 1)
        job = f"{self.record.token} {self.record.port}"  # another one each time
        self.standing = Standing(self.run_id, self.settings, self.record, job, reopen=self.reopen, report=self.report)
        flow = next_round(self.standing, membership, self.node.now)
        self._joining = self.node.spawn(persist(flow, self.settings, self.node.now), self._joined)
        return self._joining

    def interrupt(self) -> None:
        """End its join as Ctrl-C does: it gets a moment to take its leave."""
        assert self._joining
        self._joining.interrupt(RendezvousError("it was ended by a KeyboardInterrupt"))

    def leave(self, reason: str = "done") -> Task:
        """Leave the round."""
        membership = self._stop()
        assert membership
        flow = leave(membership, reason, "today", self.node.now)
        return self.node.spawn(persist(flow, self.settings, self.node.now), lambda _: self.on_change(self))

    def close(self, why: str = "done") -> Task:
        """Close the job."""
        closed = Closed(self.node.name, why, "today")
        flow = close(self.run_id, self.settings, self.record.token, closed, self.node.now)
        return self.node.spawn(persist(flow, self.settings, self.node.now))

    @property
    def is_joining(self) -> bool:
        """Whether it is on its way into a round."""
        return self._joining is not None and not self._joining.done

    @property
    def is_evicted(self) -> bool:
        """Whether it knows that its round went on without it."""
        return self.membership is not None and bool(self.membership.evicted)

    @property
    def num_nodes_waiting(self) -> int:
        """For how many nodes the round should end."""
        return self.membership.num_nodes_waiting if self.membership else 0

    def times(self, kind: str) -> list[float]:
        """When it has reported something of that kind, on its node's clock."""
        return [at for at, reported, _ in self.events if reported == kind]

    def report(self, event: str, /, **facts: object) -> None:
        """Take what a flow reports."""
        self.events.append((self.node.now, event, facts))
        self.on_change(self)

    def _stop(self) -> Membership | None:
        if self._tending:
            self._tending.cancel()
        membership, self.membership, self._tending = self.membership, None, None
        return membership

    def _joined(self, task: Task) -> None:
        assert self.standing
        self.error = task.error
        if not task.error:
            member: Member = task.result
            self.rounds.append(member.assignment)
            self.membership = Membership(member, self.settings, self.standing.head.job, self.report)
            flow = persist(tend(self.membership, self.node.now), self.settings, self.node.now)
            self._tending = self.node.spawn(flow, self._tended)
        self.on_change(self)

    def _tended(self, task: Task) -> None:
        self.error = task.error
        self.on_change(self)
