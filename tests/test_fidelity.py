"""Both arms of the simulator, side by side: the same scenario comes out the same with processes and in virtual time.

Where they part, the virtual arm is wrong until shown otherwise. Where a fault waits for a step or a phase alone, every
seed of the virtual arm must give what the processes give; where time decides, one of its seeds must.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from sim.check.history import Meeting
from sim.check.invariants import exit_text
from sim.faults import FAULTS
from sim.plan import Plan, RunResult
from sim.process.messages import Failed
from sim.process.supervisor import run as run_processes
from sim.scenario import ANY, ENDED, OK, Expectation, Nodes, Planned, Scenario, Script, Step
from sim.scenario_file import find, names
from sim.scenario_text import Ranks
from sim.virtual.run import run as run_virtually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.process.messages import Message

SEEDS = range(8)
TIMEOUT_S = 20.0  # most are over long before
STATIC = "join write read leave"
ELASTIC = "join write rejoin write read leave"
OPTIONS = {
    "static": (("timeout", 2),),
    "c10d": (("keep_alive_interval", 1), ("keep_alive_max_attempt", 2), ("last_call_timeout", 1)),
}
CASES = {  # name: backend, steps, faults
    "a member dies": ("static", STATIC, "kill:2@read"),
    "the host dies": ("static", "join barrier write read leave", "kill:0@write"),
    "a crash": ("static", STATIC, "crash:1@read"),
    "a pause, and one who is slow": ("static", STATIC, "stop:1@write~300ms slow:2:200ms"),
    "a rank comes after the others": ("static", STATIC, "late:2@0.join"),
    "a connection is lost": ("static", STATIC, "lose:2@read"),
    "half an answer": ("static", STATIC, "truncate:2:down@read"),
    "garbage up": ("static", STATIC, "garbage:2:up@read"),
    "half open": ("static", STATIC, "half-open:2@join~300ms"),
    "cut off for a while": ("static", STATIC, "partition:0,1|2@write~300ms"),
    "a slow way": ("static", STATIC, "delay:1:20ms:5ms@write bandwidth:2:20kB@write refuse:1~200ms clock:0:120min"),
    "a stolen port": ("static", STATIC, "steal"),
    "a wrong name, and a late one": ("static", STATIC, "name-wrong:1 name-late:2:200ms"),
    "a host that does not know its own name": ("static", STATIC, "name-wrong:0 name-late:0:5s"),
    "a step that needs a round before it": ("static", "rejoin leave", ""),
    "the store dies": ("c10d", "join barrier rejoin leave", "kill-store@0.rejoin"),
    "the store is restarted": ("c10d", "join barrier rejoin leave", "kill-store@0.rejoin~100ms"),
    "rank 0 dies as it writes": ("c10d", ELASTIC, "kill:0@write"),
    "one is not heard": ("c10d", ELASTIC, "half-open:2@rejoin"),
    "one does not hear": ("c10d", ELASTIC, "partition:0,1>2@round1.full"),
}
TIMED = ("spare-steps-in",)


class Came(NamedTuple):
    """What came of a run, as far as both arms must agree on it."""

    outcomes: tuple[str, ...]
    sizes: tuple[int, ...]
    missing: frozenset[int]


class Listener:
    """Hears what ranks say, in either arm."""

    def __init__(self) -> None:
        self.failures: dict[int | None, Failed] = {}
        self.sizes: dict[int, int] = {}

    def hear(self, rank: int | None, message: Message) -> None:
        if isinstance(message, Failed):
            self.failures[rank] = message
        elif isinstance(message, Meeting):
            self.sizes[message.round] = message.world_size

    def came(self, result: RunResult) -> Came:
        outcomes = []
        for rank in result.ranks:
            failure, ending = self.failures.get(rank.rank), rank.ending
            kind = OK if ending.exit == 0 else failure.kind if failure else exit_text(ending.exit)
            outcomes.append(kind if ending.by_itself else ENDED)
        missing = frozenset(rank for failure in self.failures.values() for rank in failure.missing)
        return Came(tuple(outcomes), tuple(self.sizes[number] for number in sorted(self.sizes)), missing)


def scenario_of(name: str) -> Scenario:
    """One that ships, or one of the cases; there nobody is ended because somebody else has failed."""
    if name not in CASES:
        return find(name)
    backend, steps, faults = CASES[name]
    return Scenario(
        nodes=Nodes(3, 3) if backend == "static" or "barrier" in steps else Nodes(2, 3),
        backend=backend,
        options=OPTIONS[backend],
        scripts=(Script(Ranks(), tuple(map(Step, steps.split()))),),
        faults=tuple(map(Planned.parse, faults.split())),
        expect=Expectation(outcomes=((Ranks(), ANY),)),
        timeout_s=TIMEOUT_S,
    )


def with_processes(name: str) -> Came:
    """What comes of it in truth."""
    listener = Listener()
    return listener.came(run_processes(Plan.of(scenario_of(name)), listener.hear))


def virtually(name: str, seed: int) -> Came:
    """What comes of it in virtual time."""
    listener = Listener()
    result = run_virtually(scenario_of(name), seed, on_event=lambda _, rank, message: listener.hear(rank, message))
    return listener.came(result)


def truth(cases: Sequence[str]) -> dict[str, Came]:
    """What comes of them with processes. They mostly wait, so some run at once."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(cases, pool.map(with_processes, cases), strict=True))


def test_where_steps_and_phases_decide_both_arms_agree() -> None:
    """Outcome per rank, sizes of rounds, and who was named missing; whatever the seed."""
    cases = [name for name in (*names(), *CASES) if name not in TIMED]
    ends = {name: {virtually(name, seed) for seed in SEEDS} for name in cases}
    assert ends == {name: {came} for name, came in truth(cases).items()}


def test_where_time_decides_the_truth_is_among_what_seeds_give() -> None:
    """The virtual arm may know more ends of it than one run of processes shows, and must know that one."""
    for name, came in truth(TIMED).items():
        assert came in {virtually(name, seed) for seed in SEEDS}, name


def test_every_fault_is_in_a_case() -> None:
    """A new fault needs a case here, or nobody knows whether both arms mean the same by it."""
    tried = {planned.fault.name for name in (*names(), *CASES) for planned in scenario_of(name).faults}
    assert tried == FAULTS.keys()


def test_who_waits_for_its_first_round_is_said_to_be_in_it() -> None:
    """A launcher, too: rounds count from 1, in both arms."""
    waits = Scenario(
        backend="c10d",
        nodes=Nodes(2, 2),
        options=OPTIONS["c10d"],
        scripts=(Script(Ranks(), (Step("compute", seconds=10.0),)), Script(Ranks.of(0), (Step("launch"),))),
        expect=Expectation(outcomes=((Ranks(), ANY),)),
        timeout_s=1.5,
    )
    for result in (run_processes(Plan.of(waits)), run_virtually(waits, 1)):
        assert result.ranks[0].ending.phase == "the launch of round 1"
