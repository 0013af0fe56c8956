"""The bench of starting ranks: what it measures, what it counts as left behind, and the shape of what it prints."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import click
import pytest

from sim.bench import storm
from sim.bench.cli import bench
from sim.bench.machine import private_mb
from sim.bench.spawn import run
from sim.bench.spawn_contenders import ROOT, Forks, Mpiexec, Ours, Torch
from sim.bench.spawn_results import Left, Point, SpawnPlan, SpawnResult, record
from sim.bench.spawn_table import show

if TYPE_CHECKING:
    from pathlib import Path

POINT = Point(n=64, who="rdzv", wall_s=0.2, private_mb=2.5, wall_least_s=0.1, wall_most_s=0.3)
LEFT = Left(runs=1000, not_ok=700, processes=1, descriptors=2, files=3, runs_per_s=8.0)


@pytest.fixture(scope="module")
def result() -> SpawnResult:
    """A small run of everything but the others."""
    return run(SpawnPlan(rounds={2: 1}, forks={}, kills=1, storms=6, quick=True))


def test_the_record_has_every_point_by_its_names(result: SpawnResult) -> None:
    """The interface of ``--json``: whoever reads it relies on these names, and on a plain JSON object."""
    found = json.loads(json.dumps(record(result)))
    (point,) = found["points"]
    assert point.keys() == {"n", "who", "wall_s", "private_mb", "wall_least_s", "wall_most_s"}
    assert (point["n"], point["who"]) == (2, "rdzv")
    assert point["wall_s"] > found["interpreter_s"] > 0
    assert 0.1 < point["private_mb"] < 50
    assert found["failure_report_s"] > 0
    assert found["speedup_over_mpiexec_64"] is found["speedup_over_mpiexec_2"] is found["speedup_over_torch_16"] is None
    assert found["times_bare_1000"] is None
    assert found["included"]
    assert found["plan"]["storms"] == 6


def test_runs_under_random_faults_leave_nothing_behind(result: SpawnResult) -> None:
    """No process, no socket, no file; and the faults do strike."""
    left = result.random_faults
    assert left
    assert (left.runs, left.processes, left.descriptors, left.files) == (6, 0, 0, 0)
    assert left.runs_per_s > 0


def test_what_a_run_leaves_behind_is_found(tmp_path: Path) -> None:
    """Else nothing would be found where there is something: a process, a descriptor, a file."""
    code = (
        "import subprocess, tempfile\n"
        "from sim.bench import storm\n"
        "def leaky(plan):\n"
        "    subprocess.Popen(['true']).returncode = 0\n"  # and nobody waits for it
        "    tempfile.mkstemp()\n"
        "    return run(plan)\n"
        "run, storm.run = storm.run, leaky\n"
        "storms = storm.Storms()\n"
        "found = storms.endure([1, 2])\n"
        "print(found['processes'], found['descriptors'], found['files'])\n"
        "storms.close()\n"
    )
    argv = [sys.executable, "-c", code]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("2 2 2\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_seed_draws_the_same_faults_again_and_all_kinds_come_up() -> None:
    """Every kind of fault that there is, and both backends."""
    drawn = [storm.drawn(seed) for seed in range(400)]
    assert drawn[7] == storm.drawn(7)
    kinds = {planned.fault.name for scenario in drawn for planned in scenario.faults}
    assert kinds == {text.partition(":")[0].partition("~")[0].partition("@")[0] for text in storm.FAULTS}
    assert {scenario.backend for scenario in drawn} == {"static", "c10d"}
    assert {scenario.nodes.started for scenario in drawn} == {2, 3, 4}


def test_private_memory_is_what_a_process_has_written() -> None:
    """A block of 8 MB shows once it is filled, and not before."""
    with mmap.mmap(-1, 8_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:  # not of the heap's free space
        before = private_mb(os.getpid())
        block[::1000] = b"x" * 8000
        assert 7 < private_mb(os.getpid()) - before < 10


def test_ours_is_held_against_the_others() -> None:
    """How many times as fast, and missing as long as one figure is."""
    found = SpawnResult(SpawnPlan(), 0.0, points=[POINT])
    assert found.speedup(64, "mpiexec") is None
    found.points.append(replace(POINT, who="mpiexec", wall_s=3.0))
    assert found.speedup(64, "mpiexec") == pytest.approx(15)


def test_the_table_shows_each_point_and_each_goal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is included, what was left behind, and that this was only a quick look."""
    monkeypatch.setenv("COLUMNS", "400")
    points = [POINT, replace(POINT, who="mpiexec", wall_s=3.0), replace(POINT, n=1000, wall_s=1.1)]
    points.append(replace(POINT, n=1000, who="bare", wall_s=0.5))
    points += [replace(POINT, n=16), replace(POINT, n=16, who="torch", wall_s=18.0, private_mb=150.0)]
    show(SpawnResult(SpawnPlan(quick=True), 0.0, 0.012, points, 1.5, LEFT))
    printed = capsys.readouterr().out
    assert printed.startswith("A quick look")
    assert "64 ranks: 15.0 times as fast as mpiexec" in printed
    assert "1,000 ranks take 2.2 times what bare forks do" in printed
    assert "16 ranks: 90.0 times as fast as torch" in printed
    assert "1 processes, 2 open files, 3 temporary files" in printed
    assert printed.count("Goal:") == 6


@pytest.mark.parametrize("who", ["bare", "library"])
def test_forks_meet_and_say_what_they_occupy(who: Literal["bare", "library"], tmp_path: Path) -> None:
    """Those that do nothing else, in the environment of ours."""
    forks = Forks(who, Ours(tmp_path))
    assert forks.wall_s(3) > 0
    assert [0.1 < memory < 50 for memory in forks.private_mb(3)] == [True] * 3


@pytest.mark.parametrize("who", ["bare", "library"])
def test_forks_that_fail_are_no_figure(
    who: Literal["bare", "library"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each says why, and the command that it has failed."""
    forks = Forks(who, Ours(tmp_path))
    monkeypatch.setattr(forks, "command", "from sim.bench import forks; forks._tell_memory = None; " + forks.command)
    with pytest.raises(subprocess.CalledProcessError):
        forks.private_mb(3)
    said = capfd.readouterr().err
    assert "TypeError: 'NoneType' object is not callable" in said
    assert said.count("in _fork\n") == 3  # the others may find the store gone
    assert "3 of 3 ranks failed" in said


@pytest.mark.skipif(not shutil.which("mpicc"), reason="MPICH is not installed")
def test_mpiexecs_ranks_meet_and_say_what_they_occupy(tmp_path: Path) -> None:
    """The program in C, compiled."""
    mpiexec = Mpiexec(tmp_path)
    assert mpiexec.wall_s(2) > 0
    assert [0.1 < memory < 100 for memory in mpiexec.private_mb(2)] == [True, True]


@pytest.mark.interop
def test_torchs_ranks_meet_and_say_what_they_occupy() -> None:
    """Two fresh interpreters that import torch."""
    pytest.importorskip("torch")
    torch = Torch()
    assert torch.wall_s(2) > 0
    found = torch.private_mb(2)
    assert len(found) == 2
    assert min(found) > 10


def test_a_run_that_fails_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that did not meet were not fast."""
    ours = Ours(tmp_path)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(subprocess.CalledProcessError):
        ours.wall_s(2)


@pytest.mark.parametrize("peers", ["mpiexec", "mpiexec,torch"])
def test_the_command_says_that_mpiexec_is_missing(peers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started then."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(click.UsageError, match="mpiexec is not installed") as raised:
        bench.main(["spawn", "--against", peers], standalone_mode=False)
    assert raised.value.exit_code == 2


def test_the_command_knows_whom_to_compare_with() -> None:
    """Who is not known is named, and those that are."""
    with pytest.raises(click.BadParameter, match="'slurm' is none of mpiexec, torch"):
        bench.main(["spawn", "--against", "mpiexec,slurm"], standalone_mode=False)
