"""What a node of an elastic job can tell about it: how far it has come, and a value for people and for programs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdzv import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from rdzv.core.survey import MemberStatus
    from rdzv.tending import Tending


@dataclass(slots=True)
class Progress:
    """How far a node has come. It is told what happens, notes it, and passes it on as an event.

    Attributes:
        run_id: The job's name.
        node: The node's.
        phase: As in `RendezvousStatus`.
        why: Likewise.
        since: Since when it is in this phase, on the clock of `time.monotonic`, in seconds.
        phases_s: As in `RendezvousStatus`.
        has_met: Whether it has been a member of any round.
    """

    run_id: str
    node: str
    phase: str = "idle"
    why: str = ""
    since: float = field(default_factory=time.monotonic)
    phases_s: dict[str, float] = field(default_factory=dict)
    has_met: bool = False

    def enter(self, phase: str, why: str = "") -> None:
        """Note that another phase begins."""
        self.phase, self.why, self.since = phase, why, time.monotonic()

    def report(self, event: str, **facts: object) -> None:
        """Note what has happened, and tell."""
        elapsed_s = time.monotonic() - self.since
        if event == "in lobby":
            self.phases_s = {"enter": elapsed_s}
        elif event == "joined":
            self.has_met = True
            self.phases_s["wait"] = elapsed_s - self.phases_s["enter"]
        elif event in ("waiting", "spare"):
            self.why = str(facts["why"])
        events.emit(event, self.run_id, self.node, **facts)


@dataclass(frozen=True, slots=True)
class RendezvousStatus:
    """What a node knows of its job.

    Attributes:
        run_id: The job's name.
        phase: ``idle``, ``joining``, ``member``, ``evicted``, ``closed``, ``left`` or ``store lost``.
        why: What it waits for, or why it is in this phase.
        since_s: For how long it has been in this phase, in seconds.
        round: The round that it is in, from 0; so it is also how often the job has been restarted. ``None`` unless this
            node is a member.
        rank: Its rank there; likewise.
        world_size: How many members that round has; likewise.
        waiting: As `DynamicRendezvousHandler.num_nodes_waiting`.
        members: All members of the round; empty unless this node is one.
        phases_s: How long the parts of the last join took, in seconds: ``enter`` (to stand in the lobby), ``wait``
            (there), ``host`` (to serve the bootstrap store).
    """

    run_id: str
    phase: str
    why: str
    since_s: float
    round: int | None
    rank: int | None
    world_size: int | None
    waiting: int
    members: tuple[MemberStatus, ...]
    phases_s: dict[str, float]

    @classmethod
    def of(
        cls,
        progress: Progress,
        tending: Tending | None,
        members: Sequence[MemberStatus],
        failure: Exception | None = None,
    ) -> Self:
        """The status of a node; if it is a member, what its membership knows, or a failed store, is the better word."""
        run_id, phase, why, phases_s = progress.run_id, progress.phase, progress.why, dict(progress.phases_s)
        since_s = time.monotonic() - progress.since
        if tending is None:
            return cls(run_id, phase, why, since_s, None, None, None, 0, (), phases_s)
        membership, assignment = tending.membership, tending.membership.member.assignment
        end, waiting = membership.end, membership.num_nodes_waiting
        if end:
            phase, why = "closed" if end.kind == "closed" else phase, str(end)
        if membership.evicted:
            phase, why = "evicted", membership.evicted
        if failure:
            phase, why = "store lost", str(failure)
        where = assignment.round, assignment.rank, assignment.size
        return cls(run_id, phase, why, since_s, *where, waiting, tuple(members), phases_s)
