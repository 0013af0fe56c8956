"""Runs a scenario in virtual time, and returns what the process arm returns of it. Start reading the arm here.

A run is a function of its scenario and its seed. `sim.virtual.stage` carries it out; this file ends it, and says of
those who had to be ended what they waited for.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sim.check.history import Ending
from sim.plan import Plan, RankResult, VirtualResult
from sim.scenario_text import ScenarioError
from sim.virtual.agent import Agent
from sim.virtual.stage import VirtualStage
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.scenario import Scenario
    from sim.virtual.stage import Launcher, OnEvent


def run(
    scenario: Scenario,
    seed: int,
    *,
    timeout_s: float | None = None,
    is_traced: bool = False,
    launcher: Launcher = Agent,
    on_event: OnEvent | None = None,
) -> VirtualResult:
    """Run a scenario in virtual time.

    Args:
        scenario: What to run.
        seed: What all chance comes from.
        timeout_s: When the run is ended, in seconds of the world; if not given, as the scenario says.
        is_traced: Whether to keep a trace, for the digest.
        launcher: Makes who does the work of an elastic handler: as `sim.virtual.agent.Agent`, and called like it.
        on_event: Told of every message of a rank, of its end, and of faults, as by `sim.process.supervisor.run`; when
            it happens comes first, in seconds.

    Raises:
        ScenarioError: A rank is to run a program, which no virtual time can pass in.
    """
    if any(step.argv for script in scenario.scripts for step in script.steps):
        raise ScenarioError("a program cannot run in virtual time", key="steps", hint="run it in processes")
    plan = Plan.of(scenario, seed=seed, timeout_s=timeout_s)
    with _collector_paused():
        world = World(seed, is_traced=is_traced)
        stage = VirtualStage(plan, world, launcher, on_event)
        stage.begin()
        while len(stage.endings) < plan.world_size and world.kernel.now < stage.end_at:
            world.kernel.run(stage.end_at)
        return _result(stage)


def _result(stage: VirtualStage) -> VirtualResult:
    plan, world, over_at = stage.plan, stage.world, stage.now()
    waiting = {actor.rank: _waits(stage, actor.rank) for actor in stage.actors if actor.rank not in stage.endings}
    interruption = ""
    if waiting and not any(ending.exit for ending in stage.endings.values()):
        is_late = f"the run's deadline of {plan.timeout_s:g} s has passed"
        interruption = "nothing can happen any more, but ranks wait" if world.kernel.is_idle else is_late
    for rank in waiting:
        stage.on_ended(rank, over_at)
    endings = [
        stage.endings.get(actor.rank) or Ending(actor.rank, None, by_itself=False, phase=actor.phase, at=over_at)
        for actor in stage.actors
    ]
    ranks = tuple(
        RankResult(
            rank=actor.rank,
            pid=None,
            meetings=tuple(actor.meetings),
            ending=endings[actor.rank],
            error=stage.errors.get(actor.rank, ""),
            expected=stage.is_to_fail(actor.rank),
            **waiting.get(actor.rank, {}),
        )
        for actor in stage.actors
    )
    return VirtualResult(
        plan=plan,
        duration_s=over_at,
        ranks=ranks,
        checks=stage.verdicts(endings, over_at, over_at),
        interruption=interruption,
        digest=world.digest if world.trace is not None else "",
        events=world.kernel.events,
        trace=world.trace or (),
    )


def _waits(stage: VirtualStage, rank: int) -> dict[str, Any]:
    """What a rank that had to be ended waits for: the ``stack`` and the ``keys`` of its result, as its tasks say it."""
    tasks = list(stage.actors[rank].node.tasks)
    tasks = [task for task in tasks if not task.is_idle] or tasks  # those that wait for other tasks say nothing new
    keys = tuple(sorted({key for task in tasks for key in task.keys_awaited}))
    return {"stack": "\n".join(f"it {task.describe()}" for task in tasks) or "it was never started", "keys": keys}


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No looking for garbage meanwhile: a run makes little that is not gone by itself, and has a lot that stays."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
