"""The bench of the store: its arithmetic, its processes, the shape of what it prints. Never how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from sim.bench.cli import bench
from sim.bench.helper import Helper, HelperError
from sim.bench.machine import cpu_s, reverse_lookup_s, rss_bytes
from sim.bench.stats import geometric_mean, paired_ratio, percentile
from sim.bench.store import OPERATIONS, run
from sim.bench.store_results import StorePlan, StoreResult, record
from sim.bench.store_table import show
from sim.bench.throughput import rotated

if TYPE_CHECKING:
    from collections.abc import Iterator

speeds = st.floats(1.0, 1e6)
TINY = StorePlan(peer="rdzv", rounds=2, slice_s=0.02, clients=(1, 2), crowd=70, waiters=5, stored_mb=4, quick=True)


@pytest.fixture(scope="module")
def result() -> StoreResult:
    """A run against itself, so that no torch is needed."""
    return run(TINY)


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server of ours, in a process of its own."""
    with Helper("host", "Host") as host:
        yield host.ask("serve", kind="process")["port"]


@given(st.lists(st.tuples(speeds, speeds), min_size=1, max_size=30))
def test_a_ratio_lies_between_its_bounds(rounds: list[tuple[float, float]]) -> None:
    """And both bounds are ratios of rounds."""
    ours, theirs = zip(*rounds, strict=True)
    ratios = [mine / other for mine, other in rounds]
    found = paired_ratio(ours, theirs)
    assert found.ratio == median(ratios)
    assert found.low in ratios
    assert found.high in ratios
    assert found.low <= found.ratio <= found.high


@pytest.mark.parametrize(("rounds", "left_out"), [(1, 0), (3, 0), (7, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_bounds_leave_out_as_many_rounds_as_certainty_allows(rounds: int, left_out: int) -> None:
    """The sign test's table for 95 %: of nine rounds the outermost two need not be counted, of eight they must."""
    found = paired_ratio(range(1, rounds + 1), [1.0] * rounds)
    assert (found.low, found.high) == (1 + left_out, rounds - left_out)


def test_rounds_are_compared_in_pairs() -> None:
    """A machine that is half as fast in one round slows both down, and the ratio stays."""
    found = paired_ratio([20.0, 10.0, 40.0], [10.0, 5.0, 20.0])
    assert (found.low, found.ratio, found.high) == (2.0, 2.0, 2.0)


def test_the_mean_of_ratios_is_geometric() -> None:
    """Twice and half as fast is the same, together."""
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    """At the edges too."""
    hundred = list(range(1, 101))
    assert [percentile(hundred, share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([7], 0.99) == 7


def test_everybody_is_first_in_some_round() -> None:
    """So that no contender always runs on a machine that another has warmed."""
    orders = [rotated("abc", number) for number in range(4)]
    assert ["".join(order) for order in orders] == ["abc", "bca", "cab", "abc"]


def test_the_record_has_every_cell_and_every_name(result: StoreResult) -> None:
    """The interface of ``--json``: whoever reads it relies on these names, and on a plain JSON object."""
    found = json.loads(json.dumps(record(result)))
    shared = {"op", "clients", "ratio", "low", "high"}
    for cell in (*found["cells"], *found["null"]):
        assert shared < cell.keys()
        assert 0 < cell["low"] <= cell["ratio"] <= cell["high"]
    for cells in (found["cells"], found["null"]):
        first = {(cell["op"], cell["clients"]) for cell in cells if cell["half"] == 1}
        second = {(cell["server"], cell["op"], cell["clients"]) for cell in cells if cell["half"] == 2}
        assert first == {(op, clients) for op in OPERATIONS for clients in (1, 2)}
        ops = (*OPERATIONS, "set_sync")
        assert second == {(whose, op, clients) for whose in ("ours", "other") for op in ops for clients in (1, 2)}
    for name in ("geomean", "rss_ratio", "starved_p99_ratio", "fanout_ratio", "crowd_ratio"):
        assert found[name] > 0
    assert [(cell["op"], cell["clients"]) for cell in found["bare_client"]] == [("add", 1), ("add", 2)]
    assert found["plan"] == {field.name: getattr(TINY, field.name) for field in fields(TINY)} | {"clients": [1, 2]}
    assert found["crowd"]["clients"] == 70
    assert found["fanout"]["clients"] == 5
    cases = {(latency["hosting"], latency["load"]) for latency in found["latencies"]}
    assert cases == {(host, load) for host in ("process", "thread", "other") for load in ("idle", "compute", "calls")}
    for memory in found["memory"].values():
        assert memory["start"] > 1_000_000
        assert memory["per_stored_byte"] > 0.5


def test_every_cell_counts_its_server_s_work(result: StoreResult) -> None:
    """Operations were done, by clients and server alike."""
    for cell in (*result.first, *result.second["ours"], *result.bare["other"]):
        assert cell.per_s > 0
        assert cell.other_per_s > 0
        assert cell.server_cpu_us > 0


def test_the_tables_show_each_measurement_and_its_goal(
    result: StoreResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table each, what it means, what was wanted; and that this was only a quick look."""
    monkeypatch.setenv("COLUMNS", "400")
    show(result)
    printed = capsys.readouterr().out
    titles = (
        "First half",
        "Second half",
        "Noise",
        "Processor time",
        "What Python leaves",
        "What is left",
        "Memory",
        "Many clients",
        "Latency",
    )
    for title in titles:
        assert title in printed
    assert printed.count("Goal:") == 5
    assert printed.startswith("A quick look")


def test_a_run_leaves_no_process_behind(result: StoreResult) -> None:
    """Helpers, servers and clients end with the run."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children]
    assert [command for command in commands if any(b"sim.bench" in word for word in command)] == []


def test_a_helper_passes_on_why_it_failed() -> None:
    """With the traceback, and it can be asked again."""
    with Helper("host", "Host") as host:
        with pytest.raises(HelperError, match=r"host.Host failed:\n(?s:.)*KeyError: 'nonsense'"):
            host.ask("load", kind="nonsense", seconds=0)
        assert host.ask("load", kind="idle", seconds=0) is None


def test_a_helper_that_is_gone_is_named_with_its_status() -> None:
    """It was killed, and says so to whoever asks."""
    with Helper("crowd", "Crowd") as crowd:
        os.kill(crowd.pid, 9)
        with pytest.raises(HelperError, match=r"crowd.Crowd (ended with status -9|has ended)"):
            crowd.ask("dismiss", port=1)


def test_clients_are_told_from_each_other_by_what_they_do(server: int) -> None:
    """Each of the clients counts on a key of its own, so that what they did can be checked in the store."""
    from rdzv.store import TCPStore

    with Helper("pool", "Pool") as pool:
        pool.ask("start", clients=3, torch=False)
        done = pool.ask("run", operation="add", via="rdzv", port=server, clients=2, seconds=0.02)
        store = TCPStore("127.0.0.1", server)
        counted = [store.add(f"add{number}", 0) for number in range(3)]
        store.close()
    assert counted[2] == 0
    assert min(counted[:2]) > 0
    assert sum(counted) == done["operations"]
    assert done["elapsed_s"] >= 0.02


def test_a_client_that_cannot_connect_fails_the_run() -> None:
    """Rather than being left out of the count."""
    with Helper("pool", "Pool") as pool:
        pool.ask("start", clients=1, torch=False)
        with pytest.raises(HelperError, match="a client has ended"):
            pool.ask("run", operation="add", via="raw", port=1, clients=1, seconds=0.01)


def test_the_machine_tells_what_a_process_uses() -> None:
    """Some memory, and more processor time after some work."""
    before_s = cpu_s(os.getpid())
    sum(range(1_000_000))
    assert cpu_s(os.getpid()) > before_s
    assert rss_bytes(os.getpid()) > 1_000_000
    assert reverse_lookup_s(1) > 0


def test_the_command_says_that_torch_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started then."""
    import click

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(click.UsageError, match="torch is not installed") as raised:
        bench.main(["store", "--against", "torch"], standalone_mode=False)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--rounds", "6", "--against", "self"], "x>=7"), ([], "--against"), (["--against", "redis"], "redis")],
)
def test_bad_usage_ends_with_status_2(arguments: list[str], complaint: str) -> None:
    """Fewer than seven rounds are no bench."""
    argv = [sys.executable, "-m", "sim", "bench", "store", *arguments]
    done = subprocess.run(argv, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
