"""What the bench of the join is asked for and what it found, as values, and as plain data for ``--json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    Who = Literal["rdzv", "torch"]
    Arm = Literal["real", "virtual"]

NODES_COMPARED = 64  # where torch is asked to be left behind, and what our largest real job is held against
NODES_LARGEST = 1024
_ARMS: tuple[Arm, ...] = ("real", "virtual")

INCLUDED = (
    "All nodes call next_rendezvous at once, min = max = n, in a first round. In the real arm each is a thread with a "
    "handler and a store client of its own, connected before; the time, each on its own server, ends when the last "
    "call has returned with the address of the job's own store. Counts are from another run, on one server of ours "
    "for both. An operation is one call of the store's API, a request what the client makes of it on the wire (to "
    "wait, ours looks, waits and looks again; torch's get waits, then reads); bytes are those of requests and "
    "replies, without the handshakes of connections. A join is all that a node asks until it is in. Beats are counted "
    "apart: with ours what shows and watches life in the lobby, and all that its thread asks from then on, until the "
    "last node is in; with torch's what comes after the call has returned, since its keep-alive thread is silent for "
    "the first 5 s, and its polls before are how it joins. Torch sleeps for up to 0.3 s before a first join. The "
    "virtual arm runs the real handlers' flows and the real store core in virtual time: there the time is what that "
    "takes to compute, a wait is one request, and the document is not in base64."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """What to measure, and how often.

    Attributes:
        is_against_torch: Whether torch's rendezvous is measured beside ours.
        rounds: How often the time is taken; medians are told.
        beside: Numbers of nodes for ours, and for torch's if wanted.
        alone: Numbers of nodes for ours alone, with real handlers.
        virtual: Numbers of nodes in virtual time.
        quick: Whether this is less than the whole bench; only told.
    """

    is_against_torch: bool = False
    rounds: int = 3
    beside: tuple[int, ...] = (4, 16, 64)
    alone: tuple[int, ...] = (256, 1024)
    virtual: tuple[int, ...] = (4, 16, 64, 256, 1024, 10_000, 100_000)
    quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one join of a number of nodes took.

    Attributes:
        n: How many nodes.
        who: Whose rendezvous: ``rdzv`` or ``torch``.
        arm: ``real`` handlers on sockets, or ``virtual``: their flows in virtual time.
        wall_s: From the call to the last return, the median of the rounds, in seconds; for the virtual arm what it
            takes to compute.
        ops_per_node: Store operations of a node, the mean.
        ops_most: Of the node that had the most.
        bytes_per_node: Bytes of a node's requests and replies, the mean.
        bytes_most: Of the node that had the most.
        beats_per_node: Operations that only showed or watched life, the mean; not among the others.
        requests_per_node: Requests on the wire, the mean.
        wall_least_s: The fastest round.
        wall_most_s: The slowest.
        virtual_s: What the join takes in virtual time.
        peak_mb: The peak of memory of the process that computed it, in millions of bytes.
        events_per_node: Deliveries and timers that it took there, the mean.
    """

    n: int
    who: Who
    arm: Arm
    wall_s: float
    ops_per_node: float
    ops_most: int
    bytes_per_node: float
    bytes_most: int
    beats_per_node: float
    requests_per_node: float | None = None
    wall_least_s: float | None = None
    wall_most_s: float | None = None
    virtual_s: float | None = None
    peak_mb: float | None = None
    events_per_node: float | None = None


@dataclass(slots=True)
class JoinResult:
    """What was found.

    Attributes:
        plan: What was asked for.
        load_before: How many processes wanted to run before, on average (the load of the last minute).
        points: In order of measuring.
    """

    plan: JoinPlan
    load_before: float
    points: list[Point] = field(default_factory=list)

    def at(self, n: int, who: Who, arm: Arm = "real") -> Point | None:
        """The point of so many nodes, if it was measured."""
        return next((point for point in self.points if (point.n, point.who, point.arm) == (n, who, arm)), None)

    @property
    def ops_spread(self) -> dict[Arm, float]:
        """By arm, the largest mean of operations over the smallest, of all our points: 1 is flat."""
        return {arm: _spread(point.ops_per_node for point in self._ours(arm)) for arm in _ARMS if self._ours(arm)}

    @property
    def bytes_spread(self) -> dict[Arm, float]:
        """Likewise of bytes."""
        return {arm: _spread(point.bytes_per_node for point in self._ours(arm)) for arm in _ARMS if self._ours(arm)}

    @property
    def speedup(self) -> float | None:
        """Torch's time over ours for `NODES_COMPARED` nodes."""
        return self._over_torch(NODES_COMPARED, inverted=True)

    @property
    def largest_over_torch(self) -> float | None:
        """Our time for `NODES_LARGEST` nodes over torch's for `NODES_COMPARED`."""
        return self._over_torch(NODES_LARGEST)

    def _ours(self, arm: Arm) -> list[Point]:
        return [point for point in self.points if (point.who, point.arm) == ("rdzv", arm)]

    def _over_torch(self, n: int, *, inverted: bool = False) -> float | None:
        ours, theirs = self.at(n, "rdzv"), self.at(NODES_COMPARED, "torch")
        if not ours or not theirs:
            return None
        return theirs.wall_s / ours.wall_s if inverted else ours.wall_s / theirs.wall_s


def record(result: JoinResult) -> dict[str, Any]:
    """The result as nested dicts and lists. The names are an interface: whoever reads the JSON relies on them.

    What a point does not have, such as ``peak_mb`` of the real arm, is left out of it.
    """
    return {
        "points": [
            {name: value for name, value in asdict(point).items() if value is not None} for point in result.points
        ],
        "ops_spread": result.ops_spread,
        "bytes_spread": result.bytes_spread,
        f"speedup_{NODES_COMPARED}": result.speedup,
        f"wall_{NODES_LARGEST}_over_torch_{NODES_COMPARED}": result.largest_over_torch,
        "included": INCLUDED,
        "plan": asdict(result.plan),
        "load_before": result.load_before,
    }


def _spread(means: Iterable[float]) -> float:
    listed = list(means)
    return max(listed) / min(listed)
