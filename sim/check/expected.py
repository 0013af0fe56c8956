"""Whether a scenario came out as it was to: pure functions from what was seen, whichever arm has seen it.

Knows the expectation's values and the history's. What must hold of every run is in `sim.check.rounds`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.check.invariants import FAULTS_SHOWN_MAX, Check, counted, named
from sim.check.rounds import Bounds, Given
from sim.check.rounds import judge as judge_rounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.check.history import Meeting
    from sim.check.rounds import Fact
    from sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a run.

    Attributes:
        facts: What the nodes were given and what became of them, in order of time.
        meetings: The same meetings, with what was written and read in them.
        outcomes: How each rank has ended, by the number under which it was started.
        missing: Whom the errors name as missing.
        idle: The faults that never struck, in their short form.
        duration_s: How long all of it took, in seconds.
    """

    facts: tuple[Fact, ...]
    meetings: tuple[Meeting, ...]
    outcomes: tuple[str, ...]
    missing: frozenset[int]
    idle: tuple[str, ...]
    duration_s: float

    @property
    def rounds(self) -> tuple[int, ...]:
        """The sizes of the rounds that were met, in order."""
        sizes = {fact.round: fact.size for fact in self.facts if isinstance(fact, Given)}
        return tuple(sizes[number] for number in sorted(sizes))


def judge(scenario: Scenario, seen: Seen, bound_s: float, margin_s: float) -> tuple[Check, ...]:
    """The invariants of rounds, then the expectations.

    Args:
        scenario: What was to be.
        seen: What was.
        bound_s: After how long without a sign of life a node is dead, in seconds.
        margin_s: As in `sim.check.rounds.Bounds`.
    """
    expect, nodes = scenario.expect, scenario.nodes
    checks = [
        *judge_rounds(seen.facts, Bounds(nodes.min, nodes.max, bound_s, margin_s)),
        _check("values", _misread(seen.meetings), "what was read is what was written, in its round"),
        _check("outcomes", _surprises(scenario, seen), f"{counted(nodes.started, 'rank')} ended as expected"),
    ]
    if scenario.faults:
        never = (f"{fault} never struck" for fault in seen.idle)
        checks.append(_check("faults", never, f"{counted(len(scenario.faults), 'fault')} struck"))
    if expect.rounds is not None:
        checks.append(_same("rounds", seen.rounds, expect.rounds))
    if expect.missing is not None:
        checks.append(_same("missing", tuple(sorted(seen.missing)), expect.missing.among(nodes.started)))
    if expect.within_s is not None:
        is_in_time = seen.duration_s <= expect.within_s
        checks.append(Check("within", is_in_time, f"took {seen.duration_s:.2f} s, of at most {expect.within_s:g} s"))
    return tuple(checks)


def _misread(meetings: Sequence[Meeting]) -> Iterator[str]:
    written = {(meeting.round, meeting.rank): meeting.wrote for meeting in meetings if meeting.wrote}
    for meeting in meetings:
        for rank, value in meeting.reads:
            if value != (wrote := written.get((meeting.round, rank))):
                yield f"round {meeting.round}: node {meeting.node} read {value!r} of rank {rank}, which wrote {wrote!r}"


def _surprises(scenario: Scenario, seen: Seen) -> Iterator[str]:
    """Who ended otherwise, those of a kind together."""
    kinds: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank, outcome in enumerate(seen.outcomes):
        if outcome != (expected := scenario.outcome_of(rank)):
            kinds[outcome, expected].append(rank)
    for (outcome, expected), ranks in kinds.items():
        yield f"{named('rank', ranks)} ended with {outcome}, not {expected}"


def _same(name: str, seen: tuple[int, ...], expected: tuple[int, ...]) -> Check:
    shown = ", ".join(map(str, seen)) or "none"
    if seen == expected:
        return Check(name, passed=True, detail=shown)
    return Check(name, passed=False, detail=f"{shown}, not {', '.join(map(str, expected)) or 'none'}")


def _check(name: str, faults: Iterator[str], detail: str) -> Check:
    found = list(faults)
    more = [f"and {len(found) - FAULTS_SHOWN_MAX} more"] if len(found) > FAULTS_SHOWN_MAX else []
    return Check(name, not found, "; ".join(found[:FAULTS_SHOWN_MAX] + more) if found else detail)
