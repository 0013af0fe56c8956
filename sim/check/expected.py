"""Whether a scenario came out as it was to: pure functions from what was seen, whichever arm has seen it.

Knows the expectation's values and the history's. What must hold of every run is in `sim.check.rounds`.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rdzv
from sim.check.invariants import Check, counted, named, verdict
from sim.check.named import hasty, misnamed
from sim.check.prompt import Course, Haste
from sim.check.rounds import Bounds, Given, Out, judge as judge_rounds
from sim.check.settled import calm_since, patience_s, unsettled
from sim.scenario import ANY, ENDED, OK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.check.history import Meeting
    from sim.check.named import Failure
    from sim.check.rounds import Fact
    from sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a run.

    Attributes:
        facts: What the nodes were given and what became of them, in order of time.
        meetings: The same meetings, with what was written and read in them.
        outcomes: How each rank has ended, by the number under which it was started.
        failures: Which ranks have failed, and whom their errors name as missing.
        idle: The faults that never struck, in their short form.
        duration_s: How long all of it took, in seconds.
        struck_at: When a fault last struck or healed, on the clock of the facts; if none did, when the run began.
        struck: When anything struck or healed, each time, but the faults of `sim.check.prompt.PLAIN`.
        over_at: When the run was over, and the ranks that still lived were ended, on the same clock.
        lost_at: When the store was killed, and when an empty one served, whose rounds count anew; each time.
    """

    facts: tuple[Fact, ...]
    meetings: tuple[Meeting, ...]
    outcomes: tuple[str, ...]
    failures: tuple[Failure, ...]
    idle: tuple[str, ...]
    duration_s: float
    struck_at: float = 0.0
    struck: tuple[float, ...] = ()
    over_at: float = 0.0
    lost_at: tuple[tuple[float, float], ...] = ()

    @property
    def rounds(self) -> tuple[int, ...]:
        """The sizes of the rounds that were met, in order."""
        sizes = {fact.round: fact.size for fact in self.facts if isinstance(fact, Given)}
        return tuple(sizes[number] for number in sorted(sizes))


def judge(scenario: Scenario, seen: Seen) -> tuple[Check, ...]:
    """The invariants of rounds, then the expectations: what was to be, and what was."""
    expect, nodes = scenario.expect, scenario.nodes
    checks = [
        *_of_stores(seen, Bounds(nodes.min, nodes.max, scenario.bound_s)),
        verdict("values", _misread(seen), "what was read is what was written, in its round"),
        verdict("outcomes", _surprises(scenario, seen), f"{counted(nodes.started, 'rank')} ended as expected"),
    ]
    if expect.settled:
        checks.append(_settled(scenario, seen))
        checks.append(verdict("prompt", _late(scenario, seen), "nothing was late, or without need"))
    if scenario.faults:
        never = (f"{fault} never struck" for fault in seen.idle)
        checks.append(verdict("faults", never, f"{counted(len(scenario.faults), 'fault')} struck"))
    if scenario.backend == "static" and not seen.struck:
        found = [*misnamed(seen.failures, seen.facts, nodes.started), *hasty(seen.facts, nodes.started)]
        if found or seen.failures:
            checks.append(verdict("named", found, f"of {counted(nodes.started, 'rank')} those who were missing"))
    if expect.rounds is not None:
        checks.append(_same("rounds", seen.rounds, expect.rounds))
    if expect.missing is not None:
        missing = {rank for failure in seen.failures for rank in failure.missing}
        checks.append(_same("missing", tuple(sorted(missing)), expect.missing.among(nodes.started)))
    if expect.within_s is not None:
        is_in_time = seen.duration_s <= expect.within_s
        checks.append(Check("within", is_in_time, f"took {seen.duration_s:.2f} s, of at most {expect.within_s:g} s"))
    return tuple(checks)


def _of_stores(seen: Seen, bounds: Bounds) -> list[Check]:
    """The invariants of rounds, for each store by itself; of a check that fails for some, the first of these.

    Who had asked for its place before the store was replaced may be given one by either, and counts for neither.
    """
    judged, since, asked_at = [], float("-inf"), _asked_at(seen.facts)
    for killed_at, served_at in (*seen.lost_at, (float("inf"), 0.0)):
        facts = [
            fact
            for fact in seen.facts
            if not isinstance(fact, Given) or (since <= asked_at[fact] and fact.at_s < killed_at)
        ]
        judged.append(judge_rounds(facts, bounds))
        since = served_at
    return [min(checks, key=lambda check: check.passed) for checks in zip(*judged, strict=True)]


def _asked_at(facts: Sequence[Fact]) -> dict[Given, float]:
    """When each place was asked for."""
    since: dict[str, float] = {}
    asked_at = {}
    for fact in facts:
        if isinstance(fact, Given):
            asked_at[fact] = since.get(fact.node, fact.at_s)
        elif isinstance(fact, Out):
            since[fact.node] = fact.at_s
    return asked_at


def _misread(seen: Seen) -> Iterator[str]:
    """What was not read as it was written; rounds of two stores cannot be told from each other here."""
    meetings = () if seen.lost_at else seen.meetings
    written = {(meeting.round, meeting.rank): meeting.wrote for meeting in meetings if meeting.wrote}
    for meeting in meetings:
        for rank, value in meeting.reads:
            if value != (wrote := written.get((meeting.round, rank))):
                yield f"round {meeting.round}: node {meeting.node} read {value!r} of rank {rank}, which wrote {wrote!r}"


def _surprises(scenario: Scenario, seen: Seen) -> Iterator[str]:
    """Who ended otherwise, those of a kind together."""
    kinds: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, outcome in enumerate(seen.outcomes):
        if not _is_as((expected := scenario.outcome_of(rank)), outcome):
            kinds[outcome, expected].append(rank)
    for (outcome, expected), ranks in kinds.items():
        how = "had to be ended" if outcome == ENDED else f"ended with {outcome}"
        yield f"{named('rank', ranks)} {how}, not {expected}"


def _is_as(expected: str, outcome: str) -> bool:
    """Whether an outcome is the expected one; of any, that a user may be told of it."""
    if expected != ANY:
        return outcome == expected
    is_error = isinstance(kind := getattr(rdzv, outcome, None), type) and issubclass(kind, Exception)
    return outcome in (OK, ENDED, "Crash") or is_error or outcome in signal.Signals.__members__


def _settled(scenario: Scenario, seen: Seen) -> Check:
    """Whether the launchers are together in the end, if they have had the time to come together."""
    facts = [fact for fact in seen.facts if not (isinstance(fact, Out) and fact.at_s >= seen.over_at)]
    calm_s, needed_s = seen.over_at - calm_since(facts, seen.struck_at), patience_s(scenario)
    if calm_s < needed_s:
        return Check("settled", passed=True, detail=f"not judged: calm for {calm_s:.1f} s only, of {needed_s:g} s")
    ranks = [rank for rank, outcome in enumerate(seen.outcomes) if outcome == ENDED]
    begun = {fact.node for fact in seen.facts if fact.at_s < seen.over_at}
    launches = (f"rank {rank}" for rank in ranks if scenario.steps_of(rank)[-1].name == "launch")
    launchers = [name for name in launches if name in begun]
    apart = unsettled(facts, launchers, (scenario.nodes.min, scenario.nodes.max))
    return verdict("settled", apart, "all who launched were together in the end")


def _late(scenario: Scenario, seen: Seen) -> Iterator[str]:
    """What was late or needless, where the job had but one store."""
    if not seen.lost_at:
        yield from Course(seen.facts, Haste.of(scenario), seen.struck).faults()


def _same(name: str, seen: tuple[int, ...], expected: tuple[int, ...]) -> Check:
    shown = ", ".join(map(str, seen)) or "none"
    if seen == expected:
        return Check(name, passed=True, detail=shown)
    return Check(name, passed=False, detail=f"{shown}, not {', '.join(map(str, expected)) or 'none'}")
