"""What the bench of the process arm is asked for and what it found, as values, and as plain data for ``--json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    Who = Literal["rdzv", "bare", "library", "mpiexec", "torch"]

BARE_GOALS = {1000: 1.5}  # by number of ranks, how many times what bare forks take
MPIEXEC_GOALS = {2: 1.0, 64: 15.0}  # by number of ranks, how many times as fast
TORCH_GOALS = {16: 100.0}
PRIVATE_MB_GOAL = 3.0
FAILURE_REPORT_S_GOAL = 2.0

INCLUDED = (
    "From nothing to all gone: the command starts, as many processes as there are ranks start, meet once, and end, and "
    "the command ends. Ours is `rdzv-sim run -n N --rounds 1 --json`, an interpreter's start, deadlines, keeper, logs "
    "and checks included. Bare forks of one interpreter meet by three requests on bare sockets, with nothing else to "
    "do; those by the library make its calls, and do nothing else. With mpiexec it is a C program whose ranks call "
    "MPI_Barrier; with torch each rank is a fresh interpreter that imports torch, and meets by its static handler. "
    "Memory is what is a rank's alone (private clean and dirty pages) when all have met: the median of the ranks, ours "
    "without the one that hosts the store; for all but torch from another run."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnPlan:
    """What to measure, and how often.

    Attributes:
        rounds: By number of ranks, how often ours is timed.
        forks: Likewise forks of one interpreter that do nothing but meet, by bare sockets and by the library.
        mpiexec: Likewise mpiexec, which takes half a minute for 256 ranks; none, if it is not wanted.
        torch: Likewise torch.
        kills: How often the time from a killed rank to the report is taken.
        storms: How many runs under random faults.
        quick: Whether this is less than the whole bench; only told.
    """

    rounds: Mapping[int, int] = field(default_factory=lambda: {2: 9, 8: 5, 16: 5, 64: 5, 256: 3, 1000: 3})
    forks: Mapping[int, int] = field(default_factory=lambda: {64: 5, 1000: 3})
    mpiexec: Mapping[int, int] = field(default_factory=dict)
    torch: Mapping[int, int] = field(default_factory=dict)
    kills: int = 3
    storms: int = 1000
    quick: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What it took to bring up so many ranks once.

    Attributes:
        n: How many ranks.
        who: Who started them: ``rdzv``, ``mpiexec``, ``torch``; ``bare``, ``library``: forks that do nothing but meet.
        wall_s: From nothing to all gone, the median of the rounds, in seconds.
        private_mb: Memory that a rank shares with nobody, while all have met: the median, in millions of bytes.
        wall_least_s: The fastest round.
        wall_most_s: The slowest.
    """

    n: int
    who: Who
    wall_s: float
    private_mb: float
    wall_least_s: float
    wall_most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What runs under random faults have left behind.

    Attributes:
        runs: How many there were.
        not_ok: In how many of them a check did not hold, as is to be expected of faults.
        processes: Processes left, of all runs; so the next two.
        descriptors: Sockets and other open files.
        files: Temporary files and folders.
        runs_per_s: How many runs in a second.
    """

    runs: int
    not_ok: int
    processes: int
    descriptors: int
    files: int
    runs_per_s: float


@dataclass(slots=True)
class SpawnResult:
    """What was found.

    Attributes:
        plan: What was asked for.
        load_before: How many processes wanted to run before, on average (the load of the last minute).
        interpreter_s: What an interpreter takes that does nothing, in seconds: below this no command in Python can be.
        points: In order of measuring.
        failure_report_s: From a killed rank to the end of the command with its report written, in seconds.
        random_faults: What random faults have left behind.
    """

    plan: SpawnPlan
    load_before: float
    interpreter_s: float = 0.0
    points: list[Point] = field(default_factory=list)
    failure_report_s: float = 0.0
    random_faults: Left | None = None

    def at(self, n: int, who: Who) -> Point | None:
        """The point of so many ranks, if it was measured."""
        return next((point for point in self.points if (point.n, point.who) == (n, who)), None)

    def speedup(self, n: int, who: Who) -> float | None:
        """How many times as fast as this one we are with so many ranks; ``None`` if it was not measured."""
        ours, theirs = self.at(n, "rdzv"), self.at(n, who)
        return theirs.wall_s / ours.wall_s if ours and theirs else None


def record(result: SpawnResult) -> dict[str, Any]:
    """The result as nested dicts and lists. The names are an interface: whoever reads the JSON relies on them."""
    return {
        "points": [asdict(point) for point in result.points],
        **{f"times_bare_{n}": 1 / speedup if (speedup := result.speedup(n, "bare")) else None for n in BARE_GOALS},
        **{f"speedup_over_mpiexec_{n}": result.speedup(n, "mpiexec") for n in MPIEXEC_GOALS},
        **{f"speedup_over_torch_{n}": result.speedup(n, "torch") for n in TORCH_GOALS},
        "interpreter_s": result.interpreter_s,
        "failure_report_s": result.failure_report_s,
        "random_faults": asdict(result.random_faults) if result.random_faults else None,
        "included": INCLUDED,
        "plan": asdict(result.plan),
        "load_before": result.load_before,
    }
