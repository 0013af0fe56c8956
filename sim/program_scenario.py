"""A scenario of ranks that are programs: they take no steps that anybody sees, so faults strike at a time.

Knows the faults. Must not know how it is run: that is `sim.process.directed_programs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.faults.triggers import AtTime
from sim.scenario import Nodes, Planned, Scenario, Script, Step
from sim.scenario_text import Ranks, ScenarioError

if TYPE_CHECKING:
    from collections.abc import Sequence


def scenario_of(program: tuple[str, ...], ranks: int, faults: Sequence[str], timeout_s: float) -> Scenario:
    """Ranks that run a program, beside a store that is served for them; and faults in their short form.

    Raises:
        ScenarioError: One is no fault, or cannot strike a program.
    """
    script = Script(Ranks(), (Step("run", argv=program),))
    for text in faults:
        _require_of_program(Planned.parse(text), f"fault {text}")
    calm = Scenario(nodes=Nodes(ranks, ranks), backend="c10d", scripts=(script,), timeout_s=timeout_s)
    return calm.with_faults(faults)


def _require_of_program(planned: Planned, key: str) -> None:
    fault = planned.fault
    if fault.not_for_programs:
        raise ScenarioError(f"{fault.name} cannot strike a program: {fault.not_for_programs}", key=key)
    if not isinstance(planned.at, AtTime):
        problem = f"a program takes no steps, and is in no rounds, that anybody sees: {planned.at} never comes"
        raise ScenarioError(problem, key=key, hint=f"write a time, as in {fault}@1.5s")
    if planned.at.after_s and fault.name == "slow":
        raise ScenarioError("only its start can be slow", key=key, hint=f"write {fault}, or stop:...~...")
