"""What a run has shown: nothing, or a finding, whose *cause* is a short text that does not change with the numbers.

Findings of one cause are counted together, and a scenario is shrunk as long as the cause stays the same. What must hold
is for `sim.check` to say; a run that cannot be carried out at all is a finding, too, be it about the simulator.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.check.linearizable import contradiction
from sim.check.stale import stale
from sim.search.calls import check_calls
from sim.search.jobs import check_job
from sim.search.operations import accesses, operations
from sim.search.worlds import check_world
from sim.virtual.kernel import Stalled

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from sim.scenario import Scenario

    Run: TypeAlias = Callable[..., Any]  # `sim.virtual.run.run`, or what is called like it and returns the like

FORGERIES = ("kill-store", "garbage")
JOB_EVERY = 4  # seeds
TRACED = _LINEARIZABLE, _STALE = "linearizable", "stale"  # the causes that a run shows only if it is traced
NOT_HELD_AGAINST = ("faults",)  # a drawn fault need not find its moment
_ENDED_WITH = re.compile(r"(?:ended with|had to be) (\S+),")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong.

    Attributes:
        cause: In a few words: a check's name, or an error's and where it was raised.
        detail: What was seen, for people.
    """

    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One run, judged.

    Attributes:
        finding: What is wrong; ``None`` if nothing is.
        digest: What its trace came to; empty if it was not traced, or broke off.
        virtual_s: How long it took in virtual time, in seconds.
        result: What the run gave; ``None`` if it broke off.
    """

    finding: Finding | None
    digest: str
    virtual_s: float
    result: Any


def beside(seed: int) -> Finding | None:
    """What a seed shows where no scenario leads: in a store's life, a world's meeting and, of some seeds, a job's life.

    A job's, with hints, Ctrl-C and closing, takes many times as long; so a search spends about as long on each.
    """
    if detail := check_calls(seed):
        return Finding("store", detail)
    if detail := check_world(seed):
        return Finding("world", detail)
    if seed % JOB_EVERY == 0 and (detail := check_job(seed)):
        return Finding("job", detail)
    return None


def tried(run: Run, scenario: Scenario, seed: int, *, is_traced: bool = False) -> Trial:
    """Run a scenario, and judge that; a traced run also by what the store's clients were told."""
    try:
        result = run(scenario, seed, is_traced=is_traced)
    except Stalled as stalled:
        return Trial(Finding("stalled", str(stalled)), "", stalled.at_s, None)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is what has come of it
        return Trial(Finding(_place_of(error), "".join(traceback.format_exception(error)).rstrip()), "", 0.0, None)
    finding = _failed(result) or (_contradicted(scenario, result) if is_traced else None)
    return Trial(finding, result.digest if is_traced else "", result.virtual_s, result)


def _failed(result: Any) -> Finding | None:
    """The first check that fails."""
    failed = next((check for check in result.checks if not check.passed and check.name not in NOT_HELD_AGAINST), None)
    return Finding(_cause(failed.name, failed.detail), failed.detail) if failed else None


def _contradicted(scenario: Scenario, result: Any) -> Finding | None:
    """What the calls on the store show, if it was one store all along, and nobody put words in its mouth.

    That is, calls that no order explains, or that are about a round that was over.
    """
    if scenario.backend != "c10d" or any(planned.fault.name in FORGERIES for planned in scenario.faults):
        return None
    if found := contradiction(operations(result.trace)):
        return Finding(_LINEARIZABLE, str(found))
    given = {f"rank {rank.rank}": [(met.at, met.round) for met in rank.meetings] for rank in result.ranks}
    what = next(stale(accesses(result.trace), given), "")
    return Finding(_STALE, what) if what else None


def _cause(name: str, detail: str) -> str:
    match = _ENDED_WITH.search(detail)
    return f"{name}: {match[1]}" if name == "outcomes" and match else name


def _place_of(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).stem}.{place.name}"
