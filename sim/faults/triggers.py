"""When a fault strikes: at a step of a rank, in a phase of a round, or at a time. Values, and the text of each.

`EXAMPLES` has one text of each kind. A rank that begins a step at which a fault waits goes on only when the fault is
there: no race decides. Rounds and steps are counted from 1. Knows no run: who carries one out tells what happens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sim.scenario_text import ScenarioError, is_span, seconds, seconds_text, unknown

STEPS = ("join", "barrier", "write", "read", "compute", "leave", "rejoin", "launch", "run")
PHASES = ("join", "met", "full")

EXAMPLES = {
    "join": "The fault's own rank begins its first step of that name.",
    "3.join#2+20ms": "20 ms after rank 3 began its second one.",
    "round2.met": "The first rank is in round 2; round2.join: the first asks for it; round2.full: all are in.",
    "1.5s": "So long after the start; the start itself, if nothing is said.",
}

_STEP = re.compile(r"(?:([0-9]{1,6})\.)?([a-z_]+)(?:#([1-9][0-9]{0,5}))?", re.ASCII)
_ROUND = re.compile(r"round([1-9][0-9]{0,5})(?:\.([a-z_]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class AtStep:
    """A rank begins a step.

    Attributes:
        step: Which, one of `STEPS`.
        rank: Whose; ``None`` for the ranks that the fault is about.
        count: Its first step of that name, its second and so on, from 1.
        after_s: How much later, in seconds.
    """

    step: str
    rank: int | None = None
    count: int = 1
    after_s: float = 0.0

    def __str__(self) -> str:
        whose = "" if self.rank is None else f"{self.rank}."
        return f"{whose}{self.step}{'' if self.count == 1 else f'#{self.count}'}{_later(self.after_s)}"


@dataclass(frozen=True, slots=True)
class AtRound:
    """A round comes to a phase.

    Attributes:
        round: Which, from 1.
        phase: ``join``: the first rank asks for it; ``met``: the first is in; ``full``: all members are in.
        after_s: How much later, in seconds.
    """

    round: int
    phase: str = "met"
    after_s: float = 0.0

    def __str__(self) -> str:
        return f"round{self.round}{'' if self.phase == 'met' else f'.{self.phase}'}{_later(self.after_s)}"


@dataclass(frozen=True, slots=True)
class AtTime:
    """So long after the start of the run.

    Attributes:
        after_s: How long, in seconds.
    """

    after_s: float = 0.0

    def __str__(self) -> str:
        return seconds_text(self.after_s)


Trigger = AtStep | AtRound | AtTime
START = AtTime()


def parse_trigger(text: str) -> Trigger:
    """Read one of the texts above.

    Raises:
        ScenarioError: It is none of them; the nearest step or phase is named.
    """
    event, plus, later = text.strip().partition("+")
    if is_span(event) and not plus:
        return AtTime(seconds(event))
    after_s = seconds(later) if plus else 0.0
    if match := _ROUND.fullmatch(event):
        phase = match[2] or "met"
        if phase not in PHASES:
            raise unknown("phase of a round", phase, PHASES)
        return AtRound(int(match[1]), phase, after_s)
    if not (match := _STEP.fullmatch(event)):
        raise ScenarioError(f"{text!r} is no moment", hint="write join, 3.join#2, round2.full+1s or 1.5s")
    if match[2] not in STEPS:
        raise unknown("step", match[2], STEPS)
    return AtStep(match[2], None if match[1] is None else int(match[1]), int(match[3] or 1), after_s)


def _later(after_s: float) -> str:
    return f"+{seconds_text(after_s)}" if after_s else ""
