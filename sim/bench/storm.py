"""The helper that runs small scenarios under random faults, and looks for what each has left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from sim.plan import Plan
from sim.process import descendants
from sim.process.supervisor import run
from sim.scenario import Scenario
from sim.scenario_text import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 1.5  # of a run: what goes wrong must show, and need not heal
GRACE_S = 0.1
_KILL_S = 5.0
FAULTS = """
kill:RANK@STEP crash:RANK@STEP stop:RANK@STEP~TIME stop:RANK@STEP slow:*:TIME late:RANK@TIME kill:RANK@TIME
delay:*:TIME bandwidth:*:64kB lose:RANK@STEP refuse:RANK~TIME half-open:RANK@STEP~TIME half-open:RANK@STEP
truncate:RANK:up@STEP truncate:RANK:down@STEP garbage:RANK:up@STEP garbage:RANK:down@STEP partition:0|1@STEP~TIME
steal~TIME name-late:RANK:TIME name-wrong:RANK kill-store@round1.full~TIME kill-store@TIME clock:RANK:90s
""".split()


class Storms:
    """Runs one scenario after the other; all that they could leave falls to this process."""

    def __init__(self) -> None:
        descendants.adopt_orphans()
        self._scratch = tempfile.mkdtemp(prefix="rdzv-storms-")
        tempfile.tempdir = os.environ["TMPDIR"] = self._scratch

    def endure(self, seeds: Sequence[int]) -> dict[str, int]:
        """Run the scenarios of these seeds.

        Returns:
            How many were not as they should be, and what they have left in all: processes, open files and temporary
            files; by name.
        """
        found = {"not_ok": 0, "processes": 0}
        opened = _count("/proc/self/fd")
        for seed in seeds:
            result = run(replace(Plan.of(drawn(seed), seed=seed), grace_s=GRACE_S))
            found["not_ok"] += not result.ok
            found["processes"] += len(descendants.children())
            descendants.kill_all(_KILL_S)
        found["descriptors"] = _count("/proc/self/fd") - opened
        found["files"] = _count(self._scratch)
        return found

    def close(self) -> None:
        """Remove the folder, with what is in it."""
        shutil.rmtree(self._scratch)


def _count(directory: str) -> int:
    return sum(1 for _ in os.scandir(directory))


def drawn(seed: int) -> Scenario:
    """A scenario of 2 to 4 ranks that meet once or twice, with one or two faults that can strike it."""
    chance = Random(f"storm {seed}")  # noqa: S311 -- a seed is the point
    nodes = chance.randint(2, 4)
    calm = replace(Scenario.of_rounds(nodes, chance.randint(1, 2)), timeout_s=TIMEOUT_S)
    if chance.random() < 1 / 3:
        calm = replace(calm, backend="c10d")
    while True:
        words = {
            "RANK": str(chance.randrange(nodes)),
            "STEP": chance.choice(("join", "write", "read")),
            "TIME": f"{chance.randint(1, 300)}ms",
        }
        faults = chance.sample(FAULTS, chance.randint(1, 2))
        for word, value in words.items():
            faults = [fault.replace(word, value) for fault in faults]
        try:
            return calm.with_faults(faults)
        except ScenarioError:  # not for this backend, or not for this rank
            continue
