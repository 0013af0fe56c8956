"""A plain torch program as the ranks of ``rdzv-sim``: it finds our store where torch's launcher would have its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.interop
pytest.importorskip("torch", reason="torch is not installed")

ROOT = Path(__file__).parents[2]
JOB = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(total)
dist.barrier()
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {total.item()}")
dist.destroy_process_group()
"""


def run_job(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Three ranks of a program, to their end."""
    job = tmp_path / "job.py"
    job.write_text(code)
    argv = [sys.executable, "-m", "sim", "run", "-n", "3", "--timeout", "90", "--", sys.executable, str(job)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_torch_ranks_meet_at_the_store_that_the_simulator_serves(tmp_path: Path) -> None:
    """init_process_group, all_reduce, barrier and destroy_process_group, without a word about us in the program."""
    done = run_job(tmp_path, JOB)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"[{rank}] rank {rank} of 3: 6" for rank in range(3)]


def test_a_torch_rank_that_fails_is_named_and_the_others_do_not_hang(tmp_path: Path) -> None:
    """The others wait for it in a collective that will never come about."""
    done = run_job(
        tmp_path, JOB.replace("dist.all_reduce", "assert dist.get_rank() != 1, 'on purpose'\ndist.all_reduce")
    )
    assert done.returncode == 1
    assert "rank 1 failed first, in the program: exit 1" in done.stderr
    assert "AssertionError: on purpose" in done.stderr
