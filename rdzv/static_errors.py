"""What a failed meeting of a fixed world means to its caller: which run, where, who was missing, and after how long.

Makes errors of what `rdzv.core.meeting` and the store say, and raises none. Must not know a store, nor a clock.
"""

# Annotations are not put off here: for a named tuple each would be compiled by itself, and every start waits for that.
from typing import TYPE_CHECKING, NamedTuple

from rdzv.errors import (
    DistError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    RendezvousTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdzv.core.meeting import Outcome


class StaticErrors(NamedTuple):
    """Makes the errors of one rank of one run.

    Attributes:
        run_id: The run.
        rank: The rank, 0 to ``world_size - 1``.
        world_size: How many were to meet.
        endpoint: Where.
    """

    run_id: str
    rank: int
    world_size: int
    endpoint: str

    def unreachable(self, error: DistError, waited_s: float) -> RendezvousError:
        """The store cannot be hosted, or its host cannot be reached."""
        if self.rank == 0:
            text = f"rank 0 cannot host the store of run {self.run_id!r} at {self.endpoint}: {error}"
        else:
            text = (
                f"rank 0, which hosts the store of run {self.run_id!r}, is missing at {self.endpoint} "
                f"after {waited_s:.1f} s: {error}"
            )
        missing = (0,) if self.rank else ()
        return RendezvousConnectionError(text, endpoint=self.endpoint, waited_s=waited_s, missing=missing)

    def lost(self, error: DistError | ValueError, waited_s: float) -> RendezvousError:
        """The meeting broke off."""
        where = f"at {self.endpoint} while rank {self.rank} waited for the others, after {waited_s:.1f} s"
        if isinstance(error, DistError):
            text = f"the store of run {self.run_id!r} was lost {where}: {error}"
            return RendezvousConnectionError(text, endpoint=self.endpoint, waited_s=waited_s)
        text = f"a key of run {self.run_id!r} holds what no member writes, {where}: {error}"
        return RendezvousStateError(text, endpoint=self.endpoint, waited_s=waited_s)

    def missing(self, outcome: "Outcome", waited_s: float) -> RendezvousError:
        """Somebody's deadline has passed, maybe this rank's."""
        absent = len(outcome.missing) - outcome.unmarked
        who = _ranks(outcome.missing) if outcome.missing else "a rank that came and went"
        if outcome.unmarked:
            who = f"{absent} of the {who} (the rest runs torch's handler, which leaves a count and no rank)"
        verb = "are" if absent > 1 else "is"
        text = f"{who} of {self.world_size} {verb} missing at {self.endpoint} after {waited_s:.1f} s"
        if outcome.gave_up != self.rank:
            text += f" (the deadline of rank {outcome.gave_up} came first)"
        named = () if outcome.unmarked else outcome.missing
        return RendezvousTimeoutError(text, endpoint=self.endpoint, waited_s=waited_s, missing=named)

    def refused(self, why: str, waited_s: float) -> RendezvousError:
        """This rank cannot take part, whenever it came."""
        text = (
            f"{self.refusal(why)}, still after {waited_s:.1f} s: two jobs or two processes claim one place, or an "
            "earlier run has not ended"
        )
        return RendezvousStateError(text, endpoint=self.endpoint, waited_s=waited_s)

    def refusal(self, why: str) -> str:
        """Why this rank cannot take part, in a sentence."""
        return f"rank {self.rank} of {self.world_size} of run {self.run_id!r} cannot join at {self.endpoint}: {why}"


def _ranks(ranks: "Sequence[int]") -> str:
    """Ranks as text: runs of three or more as a range."""
    parts: list[str] = []
    first = 0
    for last in range(len(ranks)):
        if last + 1 < len(ranks) and ranks[last + 1] == ranks[last] + 1:
            continue
        run = ranks[first : last + 1]
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)
        first = last + 1
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(parts)}"
