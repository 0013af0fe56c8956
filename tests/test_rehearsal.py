"""What a keeper does for many ranks at once: it takes part in their job first, and lets them inherit nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sim.check.history import Meeting
from sim.plan import Plan
from sim.process.messages import Started
from sim.process.rehearsal import WORTH_IT_FROM
from sim.process.supervisor import run

if TYPE_CHECKING:
    import pytest

    from sim.process.messages import Message

ROOT = Path(__file__).parents[1]


def said_by(code: str) -> str:
    """What a fresh process prints that can rehearse."""
    head = """
import os, resource
from sim.process import descendants
from sim.process.rank import run_job
from sim.process.rehearsal import rehearse

def play(job, channel, *fds):
    run_job(job, channel, None, *fds)
    return 0
"""
    argv = [sys.executable, "-c", head + code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout


def test_a_rehearsal_leaves_no_process_and_no_descriptor() -> None:
    """The ranks would inherit them."""
    look = "print(sorted(os.listdir('/proc/self/fd')), descendants.children())\n"
    before, after = said_by(f"{look}rehearse(play)\n{look}").splitlines()
    assert before == after
    assert before.endswith("[]")


def test_what_goes_wrong_with_a_rehearsal_does_not_matter() -> None:
    """Here there are no descriptors for it; the ranks do without, and say themselves what they lack."""
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))\n"
    assert said_by(f"{limit}rehearse(play)\nprint(descendants.children())\n") == "[]\n"


def test_nobody_hears_of_a_rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The events of a run are those of its ranks."""
    monkeypatch.setenv("RDZV_EVENTS", str(tmp_path / "events"))
    result = run(Plan(world_size=WORTH_IT_FROM, rounds=1, seed=7))
    assert result.ok, result.failure or result.checks
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert {event["run_id"] for event in told} == {"sim-7"}
    assert {event["by"] for event in told} == {f"rank {rank}" for rank in range(WORTH_IT_FROM)}


def test_a_rank_holds_no_other_rank_s_descriptors() -> None:
    """Many are forked together; once it has left its store, each has its channel and what every process has."""
    held: dict[int, int] = {}
    pids: dict[int, int] = {}

    def on_event(rank: int | None, message: Message) -> None:
        if isinstance(message, Started):
            pids[rank or 0] = message.pid
        elif isinstance(message, Meeting) and message.round == 1 and rank:  # rank 0 hosts the store
            held[rank] = sum(1 for _ in Path(f"/proc/{pids[rank]}/fd").iterdir())

    assert run(Plan(world_size=20, rounds=2), on_event).ok
    assert held == dict.fromkeys(range(1, 20), 4)
