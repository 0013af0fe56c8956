"""Scenarios in virtual time: a run is a function of scenario and seed, and what goes wrong in it is told as it is.

That it comes out as with processes is for `test_fidelity`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sim.faults import FAULTS
from sim.report.failures import failures
from sim.report.record import record
from sim.scenario import ANY, ENDED, Expectation, Nodes, Planned, Scenario, Script, Step
from sim.scenario_file import find, names
from sim.scenario_text import Ranks, ScenarioError
from sim.virtual.agent import Agent
from sim.virtual.run import run

if TYPE_CHECKING:
    from sim.faults.fault import Fault
    from sim.plan import VirtualResult

ROOT = Path(__file__).parents[1]
STORM = """
from sim.scenario import *
from sim.scenario_text import Ranks
from sim.virtual.run import run
options = (("keep_alive_interval", 1), ("keep_alive_max_attempt", 2), ("last_call_timeout", 1))
faults = "kill:1@write stop:2@rejoin~500ms delay:1:5ms:5ms lose:3@write garbage:2@write#2 clock:3:90s"
steps = Script(Ranks(), tuple(map(Step, "join write read rejoin write read leave".split())))
for backend, nodes, given in (("static", Nodes(4, 4), ()), ("c10d", Nodes(2, 4), options)):
    planned = tuple(map(Planned.parse, faults.split()))
    scenario = Scenario(nodes=nodes, backend=backend, options=given, scripts=(steps,), faults=planned, timeout_s=20.0)
    print(run(scenario, 7, is_traced=True).digest)
"""  # as a program, since some interpreters here may lack what the tests are made with
ELASTIC = (("keep_alive_interval", 1), ("keep_alive_max_attempt", 2), ("last_call_timeout", 1))


def scenario(*faults: str, steps: str | list[str] = "join write read leave", **fields: Any) -> Scenario:
    """A scenario of three ranks that all do the same: steps of one word each, or a list."""
    script = Script(Ranks(), tuple(map(Step.parse, steps.split() if isinstance(steps, str) else steps)))
    faulty = tuple(map(Planned.parse, faults))
    return Scenario(scripts=(script,), faults=faulty, **{"nodes": Nodes(3, 3), **fields})


def elastic(*faults: str, **fields: Any) -> Scenario:
    """Likewise, of an elastic job whose dead are found soon."""
    fields = {"nodes": Nodes(2, 3), "options": ELASTIC, "steps": "join write rejoin write read leave", **fields}
    return scenario(*faults, backend="c10d", **fields)


def failed(result: VirtualResult) -> dict[str, str]:
    """The checks that do not hold, and why."""
    return {check.name: check.detail for check in result.checks if not check.passed}


@pytest.mark.parametrize("name", names())
def test_every_shipped_scenario_comes_out_as_it_says_whatever_the_seed(name: str) -> None:
    """They are examples, so they must be true in this arm, too."""
    assert {seed: failed(run(find(name), seed)) for seed in range(5)} == {seed: {} for seed in range(5)}


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    """All of it, as the digest says."""
    stormy = elastic("kill:1@write", "stop:2@rejoin~500ms", "delay:0:5ms:5ms", "lose:2@write#2")
    first, again, other = (run(stormy, seed, is_traced=True) for seed in (1, 1, 2))
    assert first == again
    assert first.digest
    assert first.digest != other.digest


def test_a_run_without_a_trace_is_the_same_run() -> None:
    """To look at it changes nothing."""
    stormy = elastic("kill:1@write", "half-open:2@rejoin~500ms")
    bare, traced = run(stormy, 3), run(stormy, 3, is_traced=True, on_event=lambda *_: None)
    assert bare.digest == ""
    assert (bare.ranks, bare.checks, bare.events) == (traced.ranks, traced.checks, traced.events)


def interpreters() -> list[str]:
    """This one, and whatever other versions answer to their names here."""
    found = [path for minor in range(10, 15) if (path := shutil.which(f"python3.{minor}"))]
    return [
        sys.executable,
        *(path for path in found if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0),
    ]


def test_another_process_python_or_hash_seed_gives_the_same_digest() -> None:
    """Nothing of a run comes from the machine, nor from the interpreter."""
    told = set()
    for number, interpreter in enumerate(interpreters()):
        environ = {**os.environ, "PYTHONHASHSEED": str(number + 1), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([interpreter, "-c", STORM], env=environ, capture_output=True, text=True, check=True)
        told.add(done.stdout)
    assert len(told) == 1
    assert len(told.pop().split()) == 2


@pytest.mark.parametrize(
    ("faults", "least_s"),
    [
        ("stop:1@write~400ms", 0.4),
        ("slow:*:400ms", 0.4),
        ("delay:*:20ms:5ms", 0.1),
        ("bandwidth:1:20kB", 0),
        ("partition:0|1,2@2.read~400ms", 0.4),
        ("half-open:2@join~400ms", 0.4),
        ("refuse:1~400ms", 0.4),
        ("name-late:*:400ms", 0.4),
        ("clock:0:120min", 0),
        ("stop:1@write~400ms stop:1@write~100ms", 0.4),
        ("delay:1:40ms delay:1:1ms~1ms", 0.2),
        ("partition:0|1,2@2.read~100ms partition:0,1|2@2.read~400ms", 0.4),
        ("half-open:2@join~100ms half-open:2@join~400ms", 0.4),
        ("refuse:1~400ms refuse:1~100ms", 0.4),
    ],
)
def test_a_static_world_outlives_a_fault_that_heals(faults: str, least_s: float) -> None:
    """Whatever only takes time harms nobody who has time; and time it takes, until the last of two alike is over."""
    result = run(scenario(*faults.split()), 1)
    assert failed(result) == {}
    assert least_s <= result.virtual_s < 1.5


def test_a_static_world_meets_time_and_again() -> None:
    """Each time at a store of its own: who comes to that of the last round is sent away, and comes again."""
    result = run(Scenario.of_rounds(5, 4), 1)
    assert failed(result) == {}
    assert [len(rank.meetings) for rank in result.ranks] == [4] * 5


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("kill:2@read", "SIGKILL"), ("crash:2@read", "Crash"), ("lose:2@read", "DistNetworkError")],
)
def test_how_a_rank_ends_has_the_name_that_the_process_arm_gives_it(fault: str, outcome: str) -> None:
    """So a scenario's expectations are for both."""
    expect = Expectation(outcomes=((Ranks.of(2), outcome),))
    assert failed(run(scenario(fault, expect=expect), 1)) == {}


def test_who_is_missing_is_named() -> None:
    """By the code that the real handlers use."""
    outcomes = ((Ranks.of(1), "SIGKILL"), (Ranks(), "RendezvousTimeoutError"))
    whole = scenario("kill:1@join", options=(("timeout", 2),), expect=Expectation(outcomes, missing=Ranks.of(1)))
    result = run(whole, 1)
    assert failed(result) == {}
    assert "rank 1 of 3 is missing at store:29400" in result.ranks[0].error
    assert record(result)["rounds"] == 0  # none was held, whatever there were to be


def test_a_rank_that_hangs_says_what_it_waits_for_and_what_is_in_its_way() -> None:
    """It had to be ended, and the deadline is the reason that the run is over."""
    result = run(elastic("stop:2@write", steps="join write barrier leave", nodes=Nodes(3, 3), timeout_s=30.0), 1)
    assert failed(result)["outcomes"].startswith("ranks 0-2 had to be ended, not ok")
    assert "(it is paused)" in result.ranks[2].stack
    assert any("(it is paused)" in paragraph for paragraph in failures(result))
    assert result.interruption == "the run's deadline of 30 s has passed"
    assert result.virtual_s == 30.0


def test_a_run_in_which_nothing_can_happen_any_more_says_so() -> None:
    """All ranks of a fixed world wait for one that stands still: no deadline of theirs would ever end that."""
    result = run(scenario("stop:2@write", steps="join write barrier leave"), 1)
    assert result.interruption == "nothing can happen any more, but ranks wait"
    assert result.ranks[0].stack.startswith("it waits to be let on since ")


def test_a_rank_that_hangs_names_its_keys_as_in_the_process_arm() -> None:
    """As they were written, in the line that says who was ended; what waits for its own rendezvous is left out."""
    result = run(elastic("partition:0,1|2@join", nodes=Nodes(3, 3), timeout_s=5.0), 1)
    for rank, key in ((0, "node/3"), (1, "outcome")):
        assert result.ranks[rank].keys == (f"rdzv/sim-1/0/{key}",)
        assert f"rank {rank} had to be ended in the join of round 1, waiting for the key 'rdzv/sim-1/0/{key}'" in (
            result.failure
        )
        assert len(result.ranks[rank].stack.splitlines()) == 1


def test_a_failure_that_nobody_expects_ends_the_run_soon() -> None:
    """After the grace that the process arm gives."""
    result = run(scenario("crash:1@write", expect=Expectation(outcomes=((Ranks.of(1), "ok"),))), 1)
    assert result.first_failed == result.ranks[1]
    assert result.virtual_s < 2
    assert not result.ranks[0].ending.by_itself


@pytest.mark.parametrize("kind", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("nodes", [4, 8])
def test_the_example_of_every_fault_strikes_the_usual_job(kind: type[Fault], nodes: int) -> None:
    """Who tries what the help shows is not told that it never struck."""
    job = Scenario.of_rounds(nodes, 3, kind.backends[0]).with_faults([kind.example])
    assert "faults" not in failed(run(job, 1))


@pytest.mark.parametrize(
    ("fault", "idle"),
    [
        ("partition:0,1|2,3@round9", "partition:0,1|2,3@round9 never struck"),
        ("slow:*:1ms@9s", "slow:*:1ms@9s never struck"),
        ("slow:2,3:1ms@leave", "slow:3:1ms@3.leave never struck"),
    ],
)
def test_a_fault_that_never_struck_is_named_as_it_was_written(fault: str, idle: str) -> None:
    """Once; but of one that has struck some of its ranks, what is left."""
    job = Scenario.of_rounds(4, 1).with_faults([fault, "crash:3@read"])
    assert failed(run(job, 1))["faults"] == idle


def test_a_launcher_is_a_member_whenever_that_is_possible() -> None:
    """It outlives failures that end a rank that only joins; at the end all who live are together."""
    outcomes = ((Ranks.of(1), "SIGKILL"), (Ranks(), ENDED))
    expect = Expectation(outcomes=outcomes, settled=True)
    faults = ("kill:1@5s", "half-open:2@8s~6s")
    result = run(elastic(*faults, steps=["launch 100ms"], nodes=Nodes(2, 4), timeout_s=60.0, expect=expect), 5)
    assert failed(result) == {}
    assert len(result.ranks[0].meetings) >= 3


def test_an_option_that_the_handler_refuses_is_refused_before_anything_runs() -> None:
    """In either arm, with the handler's own text."""
    with pytest.raises(ScenarioError, match=r"keep_alive_interval \(0 s\) must be positive"):
        elastic(options=(("keep_alive_interval", 0),))


def test_a_program_is_refused() -> None:
    """Before anything runs."""
    steps = (Step("join"), Step("run", argv=("true",)))
    with pytest.raises(ScenarioError, match="a program cannot run in virtual time"):
        run(Scenario(nodes=Nodes(2, 2), scripts=(Script(Ranks(), steps),)), 1)


def test_somebody_else_can_do_the_work_of_the_handlers() -> None:
    """Such as a model of another protocol, with a defect that is to be found."""

    class Deaf(Agent):
        num_nodes_waiting = 0

    expect = Expectation(outcomes=((Ranks(), ANY),))
    late = elastic("late:2@round1.full", expect=expect, timeout_s=20.0)
    assert run(late, 1).ranks[0].meetings[1].at < 5.0
    assert run(late, 1, launcher=Deaf).ranks[0].meetings[1].at > 19.0  # when it has lost its patience


def test_the_command_runs_it_and_tells_its_digest(tmp_path: Path) -> None:
    """The same one as from Python; and it draws it."""
    argv = [sys.executable, "-m", "sim", "run", "--virtual", "--scenario", "kill-a-member", "--seed", "7", "--json"]
    done = subprocess.run([*argv, "--report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    told, result = json.loads(done.stdout), run(find("kill-a-member"), 7, is_traced=True)
    assert (told["digest"], told["virtual_s"]) == (result.digest, result.virtual_s)
    drawn = json.loads((tmp_path / "report.json").read_text())
    assert drawn["command"] == "rdzv-sim run --seed 7 --scenario kill-a-member --virtual"
    assert [mark["at_s"] for mark in drawn["marks"] if mark["name"] == "exit"]
    assert max(span["end_s"] for span in drawn["spans"]) == pytest.approx(result.virtual_s, abs=1e-5)


def test_the_command_refuses_a_program() -> None:
    """In clear words, with the exit status of bad usage."""
    argv = [sys.executable, "-m", "sim", "run", "--virtual", "--", "true"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no virtual time can pass in a program" in done.stderr
