"""The bench of the process arm: how fast ranks come up, meet and go, and what they occupy; ours beside others.

And what happens when they fail: how long from a killed rank to the whole report, and what is left behind by very many
runs under random faults. What is asked and found, and what exactly is timed: `sim.bench.spawn_results`. Who starts the
ranks: `sim.bench.spawn_contenders`. The runs under faults: `sim.bench.storm`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sim.bench.helper import Helper
from sim.bench.spawn_contenders import ROOT, TIMEOUT_S, Forks, Mpiexec, Ours, Torch
from sim.bench.spawn_results import Left, Point, SpawnResult
from sim.bench.throughput import rotated

if TYPE_CHECKING:
    from collections.abc import Callable

    from sim.bench.spawn_contenders import Contender
    from sim.bench.spawn_results import SpawnPlan

STORMS_AT_ONCE = 6  # most of the time a run waits for a deadline
_STORM_S = 600.0
_KILLED, _WORLD = 5, 8
_MEMBER = """
import os, sys
sys.path[:] = sys.argv[1].split(":")
from rdzv import TCPStore
store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
print(os.environ["RANK"], os.getpid(), flush=True)
store.wait(["never"])
"""


def run(plan: SpawnPlan, on_stage: Callable[[str], None] = lambda _: None) -> SpawnResult:
    """Measure everything.

    Args:
        plan: What, and how often.
        on_stage: Is called with what begins, in words.

    Raises:
        CalledProcessError: Ranks did not meet.
        HelperError: A process of the bench failed.
    """
    result = SpawnResult(plan, os.getloadavg()[0])
    with tempfile.TemporaryDirectory(prefix="rdzv-bench-") as scratch:
        ours = Ours(Path(scratch))
        result.interpreter_s = median(ours.interpreter_s() for _ in range(9))
        contenders: list[Contender] = [ours, Forks("bare", ours), Forks("library", ours)]
        if plan.mpiexec:
            contenders.append(Mpiexec(Path(scratch)))
        if plan.torch:
            contenders.append(Torch())
        rounds = {
            "rdzv": plan.rounds,
            "bare": plan.forks,
            "library": plan.forks,
            "mpiexec": plan.mpiexec,
            "torch": plan.torch,
        }
        for n in plan.rounds:
            wanted = {contender: rounds[contender.who][n] for contender in contenders if n in rounds[contender.who]}
            result.points += _measure(n, wanted, on_stage)
        on_stage("a rank is killed: how soon the report is there")
        result.failure_report_s = median(_failure_report_s(Path(scratch)) for _ in range(plan.kills))
    if plan.storms:
        on_stage(f"{plan.storms:,} runs under random faults: what they leave behind")
        result.random_faults = _left_by(plan.storms)
    return result


def _measure(n: int, wanted: dict[Contender, int], on_stage: Callable[[str], None]) -> list[Point]:
    """What so many ranks take, for each contender, who is timed so often; one after the other, again and again."""
    walls_s: dict[Contender, list[float]] = {contender: [] for contender in wanted}
    for number in range(max(wanted.values())):
        for contender in rotated(list(wanted), number):
            if number < wanted[contender]:
                on_stage(f"{n:,} ranks, {contender.who}, round {number + 1} of {wanted[contender]}")
                walls_s[contender].append(contender.wall_s(n))
    points = []
    for contender, taken_s in walls_s.items():
        on_stage(f"{n:,} ranks, {contender.who}, memory")
        points.append(
            Point(
                n=n,
                who=contender.who,
                wall_s=median(taken_s),
                private_mb=median(contender.private_mb(n)),
                wall_least_s=min(taken_s),
                wall_most_s=max(taken_s),
            )
        )
    return points


def _failure_report_s(scratch: Path) -> float:
    """From the kill of one rank of a program, while all wait in the store, to the end of the command."""
    report = Path(tempfile.mkdtemp(dir=scratch))
    command = [
        sys.executable,
        "-m",
        "sim",
        "run",
        "-n",
        str(_WORLD),
        "--timeout",
        str(TIMEOUT_S),
        "--report",
        str(report),
    ]
    member = [sys.executable, "-c", _MEMBER, ":".join(sys.path)]
    with ExitStack() as stack:
        running = stack.enter_context(
            subprocess.Popen(
                [*command, "--", *member], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        )
        stack.callback(running.terminate)
        assert running.stdout
        said = [running.stdout.readline().split() for _ in range(_WORLD)]
        pid = next(int(pid) for _, rank, pid in said if int(rank) == _KILLED)
        os.kill(pid, signal.SIGKILL)  # it lives, and waits: nobody else would end it
        killed_at = time.perf_counter()
        running.communicate(timeout=TIMEOUT_S)
        took_s = time.perf_counter() - killed_at
    if f"rank {_KILLED} failed first" not in (report / "report.html").read_text():
        raise RuntimeError(f"the report does not say that rank {_KILLED} failed first")
    return took_s


def _left_by(storms: int) -> Left:
    """What runs under random faults leave behind, several at a time."""
    started_at = time.perf_counter()
    with ExitStack() as stack:
        helpers = [stack.enter_context(Helper("storm", "Storms", _STORM_S)) for _ in range(STORMS_AT_ONCE)]
        for number, helper in enumerate(helpers):
            helper.tell("endure", seeds=list(range(number, storms, STORMS_AT_ONCE)))
        left = [helper.answer() for helper in helpers]
        took_s = time.perf_counter() - started_at
    sums = {name: sum(part[name] for part in left) for name in left[0]}
    return Left(runs=storms, runs_per_s=storms / took_s, **sums)
