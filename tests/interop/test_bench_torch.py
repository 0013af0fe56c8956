"""The bench with torch on the other side: everything is measured, if only for moments."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch.distributed", reason="torch is not installed")

from sim.bench import join
from sim.bench.join_results import JoinPlan
from sim.bench.store import run
from sim.bench.store_results import StorePlan, record

pytestmark = pytest.mark.interop


def test_torch_takes_part_in_every_measurement() -> None:
    """Its clients on our server, our client on its server, and its server in the process of a busy host."""
    plan = StorePlan(peer="torch", rounds=1, slice_s=0.02, clients=(1, 3), crowd=200, waiters=50, stored_mb=1)
    found = json.loads(json.dumps(record(run(plan))))
    assert len(found["cells"]) == len(found["null"]) == 8 + 2 * 10
    assert all(cell["per_s"] > 0 and cell["other_per_s"] > 0 for cell in found["cells"])
    assert found["rss_ratio"] < 1
    assert {latency["hosting"] for latency in found["latencies"]} == {"process", "thread", "other"}


def test_torchs_nodes_join_and_are_counted_as_ours_are() -> None:
    """On the same server and in the same windows; its polls are its join's, and nothing of it is a beat."""
    plan = JoinPlan(is_against_torch=True, rounds=1, beside=(2,), alone=(), virtual=())
    ours, theirs = join.run(plan).points
    assert (ours.who, theirs.who) == ("rdzv", "torch")
    assert 3 <= theirs.ops_per_node <= theirs.ops_most
    assert theirs.beats_per_node == 0
    assert theirs.bytes_per_node > 1000
