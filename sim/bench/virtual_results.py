"""What the bench of the virtual arm is asked for and what it found, as values, and as plain data for ``--json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.bench.stats import Ratio

EVENTS_PER_S_GOAL = 300_000
KERNEL_EVENTS_PER_S_GOAL = 1_000_000
SIMPY_RATIO_GOAL = 2
SCHEDULES_PER_S_GOAL = 200
NODES_LARGEST, WALL_S_GOAL, PEAK_MB_GOAL = 100_000, 60, 2_000
SPREAD_GOAL = 1.2

INCLUDED = (
    "An event is one delivery or one timer, with the step of the protocol that it causes: requests and replies go as "
    "bytes through the real store core. Rates are of processor time, on one core, the medians of rounds in which all "
    "of them took their turns. Both lines of messages are the same generators in a ring; simpy's send by its quickest "
    "way. In the static worlds 1,000 ranks meet; in the elastic one 100 nodes join, then beat and watch each other "
    "for half a minute of virtual time. A schedule is a whole run of five nodes from the start to the verdict: they "
    "join, one is cut off for a second, one is killed, the others go on in another round."
)
POINTS_INCLUDED = (
    "All begin at the same time; messages travel 0.1 to 1 ms. Each line is a process of its own, and its time is that "
    "on the wall. An operation is one request to the store; bytes are those of requests and replies; what only shows "
    "life is not among them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualPlan:
    """What to measure, and how often.

    Attributes:
        rounds: How often each rate is measured; medians are told.
        nodes: Of the joins.
        is_against_simpy: Whether simpy is here to compare with.
        quick: Whether this is less than the whole bench; only told.
    """

    rounds: int = 9
    nodes: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    is_against_simpy: bool = True
    quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualPoint:
    """What one join of an elastic job of so many nodes took.

    Attributes:
        n: How many nodes.
        wall_s: How long it took to compute, in seconds.
        ops_per_node: Store operations of a node, the mean.
        bytes_per_node: Bytes of a node's requests and replies, the mean.
        events_per_node: Deliveries and timers, the mean.
        peak_mb: The peak of memory of the process, in millions of bytes.
    """

    n: int
    wall_s: float
    ops_per_node: float
    bytes_per_node: float
    events_per_node: float
    peak_mb: float


@dataclass(slots=True)
class VirtualResult:
    """What was found. Rates are for a second of processor time.

    Attributes:
        plan: What was asked for.
        load_before: How many processes wanted to run before, on average (the load of the last minute).
        rates: The median of each rate, by the name of the method of `sim.bench.virtual_helpers.Rates`.
        simpy_ratio: Messages of our kernel over simpy's; ``None`` without it.
        points: In ascending order of nodes.
    """

    plan: VirtualPlan
    load_before: float
    rates: dict[str, float] = field(default_factory=dict)
    simpy_ratio: Ratio | None = None
    points: list[VirtualPoint] = field(default_factory=list)

    def spread(self, name: str) -> float:
        """Of a mean per node, the largest over the smallest of all points: 1 is flat."""
        means = [getattr(point, name) for point in self.points]
        return float(max(means) / min(means))


SPREADS = ("ops_per_node", "bytes_per_node", "events_per_node")


def record(result: VirtualResult) -> dict[str, Any]:
    """The result as nested dicts and lists. The names are an interface: whoever reads the JSON relies on them."""
    ratio = result.simpy_ratio
    return {
        "events_per_s": result.rates["meeting"],
        "elastic_events_per_s": result.rates["elastic"],
        "kernel_events_per_s": result.rates["kernel"],
        "simpy_events_per_s": result.rates.get("simpy"),
        "simpy_ratio": ratio and ratio.ratio,
        "schedules_per_s": result.rates["schedules"],
        "points": [asdict(point) for point in result.points],
        "spread": {name: result.spread(name) for name in SPREADS},
        "included": f"{INCLUDED} {POINTS_INCLUDED}",
        "plan": asdict(result.plan),
        "load_before": result.load_before,
    }
