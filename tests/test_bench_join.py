"""The bench of the join: what it counts, exactly, and the shape of what it prints. Never how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rdzv.store import TCPStore
from sim.bench.cli import bench
from sim.bench.helper import Helper, HelperError
from sim.bench.join import run
from sim.bench.join_results import JoinPlan, JoinResult, Point, record
from sim.bench.join_table import show
from sim.bench.tally import Tally
from sim.bench.virtual_helpers import Virtual

HOST = "127.0.0.1"
POINT = Point(
    n=64,
    who="rdzv",
    arm="real",
    wall_s=0.1,
    ops_per_node=5.0,
    ops_most=8,
    bytes_per_node=1000.0,
    bytes_most=9000,
    beats_per_node=1.0,
)


@pytest.fixture(scope="module")
def result() -> JoinResult:
    """A small run of both arms, without torch."""
    return run(JoinPlan(rounds=1, beside=(4,), alone=(16,), virtual=(4, 16), quick=True))


@pytest.fixture
def tally():
    """A server that counts."""
    served = Tally()
    yield served
    served.close()


def counted(tally, node, done_at=float("inf")):
    """What a node has asked for, from the beginning up to a time."""
    return tally.count([[0.0, done_at]] * (node + 1))[node]


def test_a_join_is_five_operations_and_the_leader_has_three_more() -> None:
    """Head, ticket, record, outcome, assignment; the leader reads the records, plans and tells as well."""
    for nodes in (4, 16, 64):
        found = Virtual().join(nodes)
        assert found["ops_per_node"] == 5 + 3 / nodes
        assert found["ops_most"] == 8


def test_a_virtual_join_costs_the_same_from_4_to_1024_nodes() -> None:
    """Within 20 %, operations and bytes; and the largest world took the most memory."""
    found = [Virtual().join(nodes) for nodes in (4, 64, 1024)]
    for name in ("ops_per_node", "bytes_per_node"):
        means = [one[name] for one in found]
        assert max(means) <= 1.2 * min(means)
    assert found[-1]["peak_mb"] >= found[0]["peak_mb"] > 1
    assert 0 < found[0]["virtual_s"] < found[-1]["virtual_s"] < 1


@pytest.mark.parametrize("n", [4, 16])
def test_real_handlers_ask_for_exactly_what_the_virtual_ones_do(result: JoinResult, n: int) -> None:
    """One counts on the wire, the other in the flows: so both count right, and neither arm is a model of its own."""
    real, virtual = result.at(n, "rdzv"), result.at(n, "rdzv", "virtual")
    assert real
    assert virtual
    assert (real.ops_per_node, real.ops_most) == (virtual.ops_per_node, virtual.ops_most)
    assert virtual.bytes_per_node < real.bytes_per_node < 1.6 * virtual.bytes_per_node
    assert real.requests_per_node
    assert real.ops_per_node < real.requests_per_node < real.ops_per_node + 3


def test_the_record_has_every_point_by_its_names(result: JoinResult) -> None:
    """The interface of ``--json``: whoever reads it relies on these names, and on a plain JSON object."""
    found = json.loads(json.dumps(record(result)))
    assert [(point["arm"], point["n"]) for point in found["points"]] == [
        ("virtual", 4),
        ("virtual", 16),
        ("real", 4),
        ("real", 16),
    ]
    shared = {"n", "who", "arm", "wall_s", "ops_per_node", "ops_most", "bytes_per_node", "bytes_most", "beats_per_node"}
    for point in found["points"]:
        more = {
            "real": {"requests_per_node", "wall_least_s", "wall_most_s"},
            "virtual": {"virtual_s", "peak_mb", "events_per_node"},
        }
        assert point.keys() == shared | more[point["arm"]]
        assert point["who"] == "rdzv"
        assert point["wall_s"] > 0
    assert 1 <= found["ops_spread"]["real"] <= 1.2
    assert 1 <= found["bytes_spread"]["virtual"] <= 1.2
    assert found["speedup_64"] is None
    assert found["included"]
    assert found["plan"]["beside"] == [4]


def test_ours_is_held_against_torchs_64_nodes() -> None:
    """Both figures are of medians, and missing as long as one of them is."""
    found = JoinResult(JoinPlan(), 0.0, [POINT, replace(POINT, n=1024, wall_s=5.0)])
    assert found.speedup is found.largest_over_torch is None
    found.points.append(replace(POINT, who="torch", wall_s=20.0, ops_per_node=33.0))
    assert found.speedup == pytest.approx(200)
    assert found.largest_over_torch == 0.25
    assert found.ops_spread == {"real": 1.0}  # which is about our own nodes


def test_the_table_shows_each_point_and_each_goal(
    result: JoinResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is included, and that this was only a quick look."""
    monkeypatch.setenv("COLUMNS", "400")
    theirs = replace(POINT, who="torch", wall_s=20.0)
    show(JoinResult(result.plan, 0.0, [*result.points, POINT, replace(POINT, n=1024), theirs]))
    printed = capsys.readouterr().out
    assert printed.startswith("A quick look")
    assert printed.count("ours, real") == 4
    assert printed.count("ours, virtual") == 2
    assert "5.75 / 8" in printed
    assert "64 nodes: 200 times as fast as torch's" in printed
    assert printed.count("Goal:") == 4


def test_a_call_counts_once_however_many_requests_it_makes(tally: Tally) -> None:
    """Handshakes are no operations; to wait is one, whether the key is there or comes."""
    port, other_port = tally.serve(2)
    with_key, waiting = TCPStore(HOST, port), TCPStore(HOST, other_port)
    assert tally.count([[0.0, 1e18]] * 2) == [{"operations": 0, "requests": 0, "bytes": 0, "beats": 0}] * 2
    with_key.set("key", "value", sync=True)
    waiting.wait(["key"])
    assert waiting.get("key") == b"value"
    found = counted(tally, 1)
    assert found["operations"] == found["requests"] == 2  # a look that sufficed; the value
    key_bytes, value_bytes, command = 8 + len("/key"), 8 + len("value"), 1
    look = command + 8 + key_bytes + 1
    assert found["bytes"] == look + command + key_bytes + value_bytes
    with_key.close()
    waiting.close()


def test_what_shows_life_counts_apart(tally: Tally) -> None:
    """A beat, and to wait once more for what did not come; the first wait is the join's."""
    (port,) = tally.serve(1)
    store = TCPStore(HOST, port)
    store.add("/rdzv/run/0/ticket", 1)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            store.wait(["/rdzv/run/0/outcome"], 0.01)
        store.compare_set("/rdzv/run/0/beat/1", "0", "1")
    found = counted(tally, 0)
    assert found["operations"] == 2
    assert found["beats"] >= 5
    store.close()


def test_a_crew_that_cannot_join_says_why(tally: Tally) -> None:
    """Its handlers' error comes through, with the text."""
    ports = tally.serve(1)
    with Helper("crew", "Crew") as crew, pytest.raises(HelperError, match=r"crew\.Crew failed(?s:.)*non-empty"):
        crew.ask("gather", who="rdzv", run_id="", size=1, ports=ports, is_watched=False)


def test_a_crew_whose_bench_is_gone_goes_too(tally: Tally) -> None:
    """Though its nodes still wait for the start: the process ends by itself, and none has to kill it."""
    with Helper("crew", "Crew") as crew:
        crew.ask("gather", who="rdzv", run_id="gone", size=2, ports=tally.serve(2), is_watched=False)
    assert crew._process.returncode == 0


def test_the_command_says_that_torch_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started then."""
    import click

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(click.UsageError, match="torch is not installed") as raised:
        bench.main(["join", "--against", "torch"], standalone_mode=False)
    assert raised.value.exit_code == 2


def test_bad_usage_ends_with_status_2() -> None:
    """Nobody else is there to compare with."""
    argv = [sys.executable, "-m", "sim", "bench", "join", "--against", "redis"]
    done = subprocess.run(argv, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "redis" in done.stderr
