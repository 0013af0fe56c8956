"""A search of the meetings of fixed worlds, for what no scenario can say: two that claim one rank, and other runs.

Ranks come to one store, some late and some not at all, and some die. Beside them come processes that claim a rank of
another's, and such as have another run's name or another world size. Those who are let in must be of one run, one for
each rank; they meet if all have come, and else all are told the same of who is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdzv.core.meeting import Meeting, meet
from sim.virtual.streams import Streams
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdzv.core.meeting import Outcome
    from sim.virtual.streams import Stream
    from sim.virtual.task import Task

ON_THE_WAY_S = 0.5  # who has come so short a time before may have been heard of or not
OPERATIONS_MAX = 50  # of one process: who waits for five seconds looks about ten times
RUN_ID = "run"


@dataclass(slots=True)
class Comer:
    """A process that comes to a meeting.

    Attributes:
        run_id: The name of the run that it is of.
        size: The world size that it has.
        rank: The rank that it claims.
        at_s: When it comes.
        task: What it does there, once it has come.
    """

    run_id: str
    size: int
    rank: int
    at_s: float
    task: Task | None = None

    @property
    def outcome(self) -> Outcome | None:
        """What has come of it; ``None`` if it has died before it knew."""
        return self.task.result if self.task else None

    @property
    def is_in(self) -> bool:
        """Whether it was let in, as far as it knows."""
        return self.outcome is not None and not self.outcome.refused


class Gathering:
    """One store, and those who come to it."""

    def __init__(self, seed: int) -> None:
        streams = Streams(seed)
        chance: Stream = streams["gathering"]
        self.world = World(seed)
        self.timeout_s = chance.pick((2.0, 5.0))
        size = 1 + chance.below(4)
        self.comers = [
            Comer(RUN_ID, size, rank, self._moment(chance)) for rank in range(size) if size == 1 or chance.chance(0.9)
        ]
        for _ in range(chance.below(3)):
            kind, rank = chance.pick(("double", "run", "size")), chance.below(size)
            run_id, of_size = "other" if kind == "run" else RUN_ID, size + (kind == "size")
            self.comers.append(Comer(run_id, of_size, rank, self._moment(chance)))
        for number, comer in enumerate(self.comers):
            node = self.world.node(f"process {number}", offset_s=chance.between(-1e5, 1e5))
            self.world.at(comer.at_s, self._come, number)
            if chance.chance(0.1):
                self.world.at(self._moment(chance), node.crash)

    def _moment(self, chance: Stream) -> float:
        return chance.pick((0.0, 0.001, 1.0, self.timeout_s)) * chance.fraction()

    def _come(self, number: int) -> None:
        comer, node = self.comers[number], self.world.nodes[f"process {number}"]
        meeting = Meeting(comer.run_id, comer.rank, comer.size, node.name, node.now, node.now + self.timeout_s)
        comer.task = node.spawn(meet(meeting, node.now))

    def faults(self) -> Iterator[str]:
        """What is wrong."""
        self.world.run(3 * self.timeout_s)
        for number, comer in enumerate(self.comers):
            if comer.task and comer.task.error:
                yield f"process {number} failed with {comer.task.error!r}"
            if (asked := self.world.nodes[f"process {number}"].cost.operations) > OPERATIONS_MAX:
                yield f"process {number} has asked the store {asked} times"
        inside = [comer for comer in self.comers if comer.is_in]
        if len(runs := {(comer.run_id, comer.size) for comer in inside}) > 1:
            yield f"processes of {sorted(runs)} were let in"
        if len({comer.rank for comer in inside}) < len(inside):
            yield f"processes were let in as ranks {sorted(comer.rank for comer in inside)}"
        if len(told := {(outcome.met, outcome.missing) for comer in inside if (outcome := comer.outcome)}) > 1:
            yield f"of one meeting there is told {sorted(told)}"
        yield from self._needless(inside)
        for comer in inside:
            yield from self._misled(comer)

    def _needless(self, inside: list[Comer]) -> Iterator[str]:
        """Who was refused for nobody's sake."""
        for number, comer in enumerate(self.comers):
            others = [other for other in self.comers if other is not comer and other.task]
            rivals = [other for other in others if other.rank == comer.rank or other.run_id != comer.run_id]
            rivals += [other for other in others if other.size != comer.size]
            if comer.outcome and comer.outcome.refused and not rivals:
                yield f"process {number} was refused, beside {len(inside)} who were not: {comer.outcome.refused}"

    def _misled(self, comer: Comer) -> Iterator[str]:
        """Who has met without somebody, or was told of somebody that he is missing, and was there."""
        outcome = comer.outcome
        assert outcome
        peers = [peer for peer in self.comers if peer.task and (peer.run_id, peer.size) == (comer.run_id, comer.size)]
        absent = {*range(comer.size)} - {peer.rank for peer in peers}
        if outcome.met and absent:
            yield f"rank {comer.rank} has met, without {sorted(absent)}"
        if not outcome.met:
            decided_at = min(peer.at_s for peer in peers) + self.timeout_s  # not before
            here = {peer.rank for peer in peers if peer.outcome and peer.at_s < decided_at - ON_THE_WAY_S}
            if wrong := sorted((here & {*outcome.missing}) | (absent - {*outcome.missing})):
                yield f"rank {comer.rank} is told that {outcome.missing} are missing, which is wrong for {wrong}"


def check_world(seed: int) -> str:
    """What is wrong with a fixed world's meeting, as one seed shows it; empty if nothing is."""
    return next(Gathering(seed).faults(), "")
