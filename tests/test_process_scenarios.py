"""Scenarios with real processes: what each fault does to a run, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sim.plan import Plan, RunResult
from sim.process.messages import StartActor
from sim.process.supervisor import run
from sim.scenario import Expectation, Nodes, Planned, Scenario, Script, Step
from sim.scenario_file import find, names
from sim.scenario_text import Ranks

if TYPE_CHECKING:
    from sim.process.messages import Message

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 60.0  # for a busy machine; a run ends long before


def scenario(*faults: str, steps: str = "join write read leave", nodes: Nodes = Nodes(3, 3), **fields: Any) -> Scenario:  # noqa: B008
    """A scenario in which all ranks do the same."""
    script = Script(Ranks(), tuple(Step(name) for name in steps.split()))
    fields.setdefault("timeout_s", TIMEOUT_S)
    return Scenario(nodes=nodes, scripts=(script,), faults=tuple(map(Planned.parse, faults)), **fields)


def failed(result: RunResult) -> dict[str, str]:
    """The checks that do not hold, and why."""
    return {check.name: check.detail for check in result.checks if not check.passed}


def test_every_shipped_scenario_comes_out_as_it_says() -> None:
    """They are examples, so they must be true. They mostly wait, so some run at once."""

    def outcome(name: str) -> object:
        result = run(Plan.of(find(name), timeout_s=TIMEOUT_S))
        return failed(result) and (failed(result), [(rank.error, rank.stack) for rank in result.ranks])

    with ThreadPoolExecutor(3) as pool:
        assert dict(zip(names(), pool.map(outcome, names()), strict=True)) == {name: {} for name in names()}


@pytest.mark.parametrize(
    ("faults", "least_s"),
    [
        ("stop:1@write~400ms", 0.4),
        ("slow:*:400ms", 0.4),
        ("delay:*:20ms:5ms", 0.1),
        ("bandwidth:1:20kB", 0),
        ("partition:0,1|2@write~400ms", 0.4),
        ("partition:0,1>2@write~400ms", 0.4),
        ("partition:0|1,2@2.read~400ms", 0.4),
        ("partition:0,1<2@read~400ms", 0.4),
        ("half-open:2@join~400ms", 0.4),
        ("refuse:1~400ms", 0.4),
        ("name-late:*:400ms", 0.4),
        ("clock:1:-120min", 0),
        ("clock:0:120min", 0),
        ("stop:1@write~400ms stop:1@write~100ms", 0.4),
        ("partition:0|1,2@2.read~100ms partition:0,1|2@2.read~400ms", 0.4),
        ("half-open:2@join~100ms half-open:2@join~400ms", 0.4),
        ("refuse:1~400ms refuse:1~100ms", 0.4),
    ],
)
def test_a_static_world_outlives_a_fault_that_heals(faults: str, least_s: float) -> None:
    """Whatever only takes time harms nobody who has time; and time it takes, until the last of two alike is over."""
    result = run(Plan.of(scenario(*faults.split())))
    assert failed(result) == {}, [(rank.error, rank.stack) for rank in result.ranks]
    assert result.duration_s >= least_s


def test_a_rank_may_be_late_by_no_time_at_all() -> None:
    """It is started as the run begins, behind the others."""
    started = []

    def on_event(rank: int | None, message: Message) -> None:
        if isinstance(message, StartActor):
            started.append(rank)

    assert not failed(run(Plan.of(scenario("late:1"), seed=1), on_event))
    assert started[-1] == 1


@pytest.mark.parametrize(
    ("fault", "outcome", "text"),
    [
        ("kill:2@read", "SIGKILL", ""),
        ("crash:2@read", "Crash", "the scenario lets rank 2 fail here"),
        ("lose:2@read", "DistNetworkError", "is gone: Connection reset by peer"),
        ("truncate:2:down@read", "DistNetworkError", "is gone"),
        ("garbage:2@read", "DistNetworkError", ""),
        ("garbage:2:up@read", "DistNetworkError", ""),
    ],
)
def test_a_fault_that_a_rank_does_not_outlive_is_that_ranks_alone(fault: str, outcome: str, text: str) -> None:
    """It ends in the way that the scenario says; the others, who were done with it, end well."""
    expect = Expectation(outcomes=((Ranks.of(2), outcome),), rounds=(3,))
    others = Script(Ranks.of(0, 1), tuple(map(Step, ("join", "write", "leave"))))
    whole = scenario(fault, expect=expect, options=(("linger_s", 2),))
    result = run(Plan.of(replace(whole, scripts=(*whole.scripts, others))))
    assert failed(result) == {}, [(rank.error, rank.stack) for rank in result.ranks]
    assert text in result.ranks[2].error
    assert result.failure == ""


def test_a_stolen_port_is_named_by_the_host() -> None:
    """And the run is over soon, for that is not what was expected."""
    result = run(Plan.of(scenario("steal")))
    assert "rank 0 ended with RendezvousConnectionError, not ok" in failed(result)["outcomes"]
    assert "Address already in use" in result.ranks[0].error


def test_a_host_that_comes_when_the_port_is_free_again_finds_nothing_amiss() -> None:
    """The thief has let go of it before rank 0 is there."""
    assert failed(run(Plan.of(scenario("steal~100ms", "late:0@500ms")))) == {}


def test_a_name_that_resolves_wrongly_makes_a_missing_rank() -> None:
    """It never reaches the store, and says where it looked; the others name it."""
    outcomes = ((Ranks.of(0, 2), "RendezvousTimeoutError"), (Ranks.of(1), "RendezvousConnectionError"))
    expect = Expectation(outcomes=outcomes, missing=Ranks.of(0, 1))
    result = run(Plan.of(scenario("name-wrong:1", expect=expect, options=(("timeout", 2),))))
    assert failed(result) == {}, [(rank.error, rank.stack) for rank in result.ranks]
    assert "store.sim.invalid" in result.ranks[1].error


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("kill-store@0.rejoin", "RendezvousConnectionError"), ("kill-store@0.rejoin~100ms", "RendezvousStateError")],
    ids=["for good", "and restarted, empty"],
)
def test_the_loss_of_the_store_ends_an_elastic_job_in_words(fault: str, outcome: str) -> None:
    """Nobody hangs, and the error tells one case from the other."""
    options = (("keep_alive_interval", 1), ("keep_alive_max_attempt", 2))
    expect = Expectation(outcomes=((Ranks(), outcome),), rounds=(2,))
    steps = "join barrier rejoin leave"
    result = run(
        Plan.of(scenario(fault, steps=steps, nodes=Nodes(2, 2), backend="c10d", options=options, expect=expect))
    )
    assert failed(result) == {}, (result.failure, result.ranks)


def test_an_expectation_that_is_not_met_is_a_check_that_fails() -> None:
    """Each of them, and what was instead."""
    expect = Expectation(rounds=(3, 3), missing=Ranks.of(1), within_s=0.0, outcomes=((Ranks.of(1), "SIGKILL"),))
    result = run(Plan.of(scenario(expect=expect)))
    assert failed(result).keys() == {"rounds", "missing", "within", "outcomes"}
    assert failed(result)["rounds"] == "3, not 3, 3"
    assert failed(result)["missing"] == "none, not 1"
    assert failed(result)["outcomes"] == "rank 1 ended with ok, not SIGKILL"


def test_a_fault_that_never_struck_is_named() -> None:
    """A run that was over before proves nothing."""
    result = run(Plan.of(scenario("slow:1:1ms@write", "delay:2:1ms@30s", "stop:0@round2")))
    assert failed(result)["faults"] == "delay:2:1ms@30s never struck; stop:0@round2 never struck"


def test_launchers_are_judged_by_the_order_of_their_processes() -> None:
    """They start in an order that the seed draws, and have their ranks in that order."""
    job = Scenario(
        nodes=Nodes(4, 4),
        backend="c10d",
        scripts=(Script(Ranks(), (Step("launch", 0.1),)),),
        expect=Expectation(outcomes=((Ranks(), "any"),), settled=True),
        timeout_s=2.0,
    )
    for seed in (1, 2, 3):
        assert not failed(run(Plan.of(job, seed=seed)))


def test_a_failure_that_nobody_expects_ends_the_run_soon() -> None:
    """And is told as the first."""
    steps = (Step("join"), Step("run", argv=("sh", "-c", '[ "$RANK" != 1 ]')), Step("barrier"))
    waits = (Step("join"), Step("compute", seconds=TIMEOUT_S))
    scripts = (Script(Ranks(), steps), Script(Ranks.of(0), waits))
    result = run(Plan.of(Scenario(nodes=Nodes(3, 3), scripts=scripts, timeout_s=TIMEOUT_S)))
    assert result.failure.startswith("rank 1 failed first, in the run of round 1: exit 1")
    assert "CalledProcessError" in failed(result)["outcomes"]
    assert result.duration_s < TIMEOUT_S / 2


def test_a_program_gets_its_round_in_its_environment_and_its_output_is_heard() -> None:
    """What a rank's program prints is the rank's output."""
    printed: dict[int, bytes] = {}
    show = Step("run", argv=("sh", "-c", "echo $RANK of $WORLD_SIZE, again $TORCHELASTIC_RESTART_COUNT"))
    steps = (Step("join"), Step("rejoin"), show, Step("leave"))
    plan = Plan.of(Scenario(nodes=Nodes(2, 2), scripts=(Script(Ranks(), steps),), timeout_s=TIMEOUT_S))

    def on_output(rank: int, stream: str, lines: bytes) -> None:
        if stream == "stdout":
            printed[rank] = printed.get(rank, b"") + lines

    assert failed(run(plan, on_output=on_output)) == {}
    assert printed == {0: b"0 of 2, again 1\n", 1: b"1 of 2, again 1\n"}


def test_a_barrier_holds_all_until_the_last_who_lives_is_there() -> None:
    """One that is killed on its way is not waited for; one that is slow is."""
    order: list[tuple[str, int]] = []

    def on_event(rank: int, message: Message) -> None:
        order.append((f"{type(message).__name__} {getattr(message, 'name', '')}".strip(), rank))

    steps = tuple(map(Step, ("join", "barrier", "compute", "leave")))
    killed = Script(Ranks.of(2), tuple(map(Step, ("join", "write", "barrier"))))
    faults = (Planned.parse("kill:2@write"), Planned.parse("slow:1:100ms@barrier"))
    scripts = (Script(Ranks(), steps), killed)
    result = run(Plan.of(Scenario(nodes=Nodes(3, 3), scripts=scripts, faults=faults, timeout_s=TIMEOUT_S)), on_event)
    assert failed(result) == {}
    later = [place for place, (what, _) in enumerate(order) if what == "Phase compute"]
    assert len(later) == 2
    assert min(later) > max(order.index(("Phase barrier", rank)) for rank in (0, 1))
    assert min(later) > order.index(("Exited", 2))


def test_a_rank_at_whose_step_a_fault_waits_does_not_go_on_without_it() -> None:
    """However often: the rank that is killed at its write has never written."""
    steps = "join barrier write barrier leave"
    for seed in range(5):
        said: list[str] = []
        plan = Plan.of(scenario("kill:1@0.write", "kill:2@write", steps=steps), seed=seed)
        result = run(plan, lambda rank, message: said.append(f"{type(message).__name__} {rank}"))  # noqa: B023
        assert failed(result) == {}
        assert "Wrote 2" not in said


def test_the_command_runs_a_file_with_a_fault_more_and_says_what_came_of_it(tmp_path: Path) -> None:
    """The file's own name is the scenario's; a fault of the command line comes on top."""
    file = tmp_path / "two.toml"
    file.write_text('nodes = 2\ntimeout = "60s"\n[options]\nlinger_s = 2\n[expect]\nrounds = [2]\n')
    argv = [sys.executable, "-m", "sim", "run", "--scenario", str(file), "--fault", "kill:1@leave", "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["world_size"]) == (0, True, 2)
    assert [rank["exit"] for rank in told["ranks"]] == [0, -9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", ""], "there is no scenario ''"),
        (["--scenario", "kill-a-membre"], "there is no scenario 'kill-a-membre' (did you mean kill-a-member?)"),
        (
            ["--fault", "kill:1", "--fault", "kill:9@join"],
            "fault kill:9@join: there is no rank 9: those that are",
        ),
        (["--scenario", "kill-a-member", "-n", "4"], "--nranks is what the scenario says"),
        (["--scenario", "kill-a-member", "--backend", "c10d"], "--backend is what the scenario says"),
        (["--backend", "c10d", "--", "true"], "--backend is for the built-in job"),
        (["--scenario", "cut-off", "--", "true"], "--scenario and CMD do not go together"),
        (["--fault", "kill:1@join", "--", "true"], "a program takes no steps, and is in no rounds, that anybody sees"),
        (["--fault", "kill:9", "--", "true"], "fault kill:9: there is no rank 9: those that are started are 0 to 7"),
        (["--fault", "kill:1@round2", "--", "true"], "write a time, as in kill:1@1.5s"),
        (["--fault", "crash:1@join", "--", "true"], "crash cannot strike a program: it takes no steps"),
        (["--fault", "clock:1:1s", "--", "true"], "clock cannot strike a program: it has the machine's own clocks"),
        (["--fault", "name-late:1:1s", "--", "true"], "it has the machine's own resolver"),
        (["--fault", "steal", "--", "true"], "its store is served before it starts"),
        (["--fault", "slow:1:1s@2s", "--", "true"], "fault slow:1:1s@2s: only its start can be slow"),
    ],
)
def test_bad_usage_is_named_before_anything_starts(arguments: list[str], message: str) -> None:
    """With exit status 2."""
    argv = [sys.executable, "-m", "sim", "run", *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_help_lists_every_fault_and_every_scenario() -> None:
    """With an example of each fault."""
    from sim.faults import FAULTS

    argv = [sys.executable, "-m", "sim", "run", "--help"]
    text = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert [kind.example for kind in FAULTS.values() if f"  {kind.example}  " not in text] == []
    assert [name for name in names() if f"  {name}  " not in text] == []
