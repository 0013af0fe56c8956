"""The search finds what is wrong, makes it small, and can show it again; of what is right it finds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rdzv.core import wire
from rdzv.core.documents import Keys
from rdzv.core.effects import Effect
from rdzv.core.join import read
from sim import scenario_file
from sim.cli import main
from sim.scenario import Nodes, Scenario, Script, Step
from sim.scenario_text import Ranks
from sim.search import cli
from sim.search.explore import EndlessSearchError, Found, Report, Search, explore, look
from sim.search.judge import Finding, tried
from sim.search.token import Token
from sim.virtual.agent import Agent
from sim.virtual.run import run
from sim.virtual.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rdzv.core.effects import Flow
    from rdzv.core.wire import Request
    from sim.virtual.task import Task


class Deaf(Agent):
    """A node that does not want to know of newcomers, nor of deaths."""

    num_nodes_waiting = 0


deaf_run = partial(run, launcher=Deaf)


def test_a_planted_bug_is_found_and_made_small() -> None:
    """From nothing but seeds, down to the few nodes and faults that it needs; the real node passes there."""
    (found,) = explore(Search(seeds=200, run=deaf_run), processes=1).found
    assert found.finding.cause == "settled"
    assert "does not end" in found.finding.detail
    scenario = found.scenario
    assert scenario.nodes.started <= 2
    assert len(scenario.faults) + len(scenario.scripts) <= 2
    assert all(len(script.steps) == 1 for script in scenario.scripts)
    assert tried(run, scenario, found.seed).finding is None


def test_a_scenario_to_start_from_is_given_the_time_to_be_judged() -> None:
    """Its own deadline may come before the trouble is over, and then nobody need be together."""
    base = Scenario(nodes=Nodes(1, 2), backend="c10d", scripts=(Script(Ranks(), (Step("launch", seconds=0.1),)),))
    (found,) = explore(Search(seeds=20, base=base, run=deaf_run, shrinks_max=0), processes=1).found
    assert found.finding.cause == "settled"


def test_a_token_of_a_finding_shows_it_again() -> None:
    """To the same digest."""
    search = Search(seeds=20, run=deaf_run, shrinks_max=30)
    (found,) = explore(search, processes=1).found
    token = Token.parse(found.token)
    assert (token.scenario, token.seed) == (found.scenario, found.seed)
    again = tried(deaf_run, token.scenario, token.seed, is_traced=True)
    assert (again.finding, again.digest) == (found.finding, found.digest)
    assert found.digest.startswith(token.digest)


def test_findings_are_collected_by_their_cause() -> None:
    """Each with all seeds that have shown it, the first of which is made small."""
    report = explore(Search(seeds=20, run=deaf_run, keeps_going=True, shrinks_max=0), processes=1)
    assert report.schedules == 20
    (found,) = report.found
    assert len(found.seeds) > 2
    assert found.seed == min(found.seeds)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """All schedules are run then."""
    report = explore(Search(seeds=25), processes=1)
    assert (report.schedules, report.found) == (25, [])
    assert report.virtual_s > 25


def test_the_same_seeds_come_to_the_same_digests() -> None:
    """Whatever was run before."""
    search = Search(seeds=10)

    def digests(seeds: list[int]) -> dict[int, str]:
        return {seed: tried(run, search.scenario(seed), seed, is_traced=True).digest for seed in seeds}

    forward, backward = digests(list(range(10))), digests(list(range(9, -1, -1)))
    assert forward == backward
    assert len(set(forward.values())) == 10


def test_many_cores_find_what_one_finds() -> None:
    """Seeds are drawn and judged by themselves; they are told in their order."""
    search = Search(seeds=60, first_seed=3, base=scenario_file.find("missing-rank"), kinds=("slow",))
    told: list[list[Any]] = [[], []]
    reports = [explore(search, told[processes - 1].append, processes=processes) for processes in (1, 2)]
    assert told[0] == told[1]
    assert [looked.count for looked in told[0]] == [20, 20, 20]
    assert reports[0].virtual_s == reports[1].virtual_s


def test_a_deadlock_is_found_and_says_who_waits_for_what() -> None:
    """Two flows that each wait for what the other would do next."""

    def wait(mine: bytes, other: bytes) -> Flow[None]:
        yield Effect([(wire.WAIT, [other])], float("inf"), float("inf"))
        yield Effect([(wire.SET, mine, b"1")], float("inf"))

    def deadlock(scenario: Scenario, seed: int, *, is_traced: bool) -> None:
        world = World(seed)
        for name, mine, other in (("anna", b"a", b"b"), ("bert", b"b", b"a")):
            world.node(name).spawn(wait(mine, other))
        world.run()

    trial = tried(deadlock, Scenario.of_rounds(2, 1), 0)
    assert trial.finding
    assert trial.finding.cause == "stalled"
    assert "anna (wait) waits for WAIT [b'b']" in trial.finding.detail
    assert "bert (wait) waits for WAIT [b'a']" in trial.finding.detail


def test_an_error_of_the_run_itself_is_a_finding_with_its_place() -> None:
    """So that a mistake of the simulator is not taken for a run without faults."""

    def broken(scenario: Scenario, seed: int, *, is_traced: bool) -> None:
        raise KeyError("nothing")

    finding = tried(broken, Scenario.of_rounds(2, 1), 0).finding
    assert finding
    assert finding.cause == "KeyError in test_search.broken"
    assert "KeyError: 'nothing'" in finding.detail


def test_a_search_that_does_not_keep_going_ends_with_the_first_finding() -> None:
    """Seeds behind it are not run."""
    looked = look(Search(seeds=100, run=deaf_run), range(100))
    assert looked.count < 100
    ((seed, _),) = looked.findings
    assert seed == looked.count - 1


# The commands


@pytest.fixture(name="token")
def _token() -> Iterator[str]:
    scenario = replace(scenario_file.find("kill-a-member"), nodes=Nodes(2, 3))
    trial = tried(run, scenario, 5, is_traced=True)
    return str(Token(scenario, 5, trial.digest))  # type: ignore[return-value]


@pytest.mark.parametrize("hash_seed", ["0", "123"])
def test_a_token_replays_in_another_process_to_the_same_digest(token: str, hash_seed: str) -> None:
    """With another order of hashes."""
    command = [sys.executable, "-m", "sim", "replay", token, "--json"]
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True, timeout=60)
    told = json.loads(done.stdout)
    assert told["is_same"]
    assert told["cause"] is None
    assert told["digest"].startswith(Token.parse(token).digest)
    assert told["virtual_s"] > 1


def test_a_replay_of_what_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """By its status, too; and that the code is not what it was, if the digest is another."""
    scenario = scenario_file.find("missing-rank")
    wrong = replace(scenario, expect=replace(scenario.expect, missing=None, outcomes=()))
    token = str(Token(wrong, 1, "0" * 16))
    assert main(["replay", token]) == 1
    told = capsys.readouterr().out
    assert "outcomes: RendezvousTimeoutError: ranks 0-1 ended with RendezvousTimeoutError, not ok" in told
    assert "not quite the run that the token is of" in told


def test_a_replay_that_breaks_off_promises_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one of a token that somebody made of a scenario which no virtual time can pass in."""
    scenario = scenario_file.loads('nodes = 1\nsteps = {"*" = ["join", "run true"]}\n', file="a scenario")
    assert main(["replay", str(Token(scenario, 1, "0" * 16)), "--report", str(tmp_path / "report")]) == 1
    assert capsys.readouterr().err == "rdzv-sim: there is no report: the run broke off\n"
    assert not (tmp_path / "report").exists()


def test_a_directory_that_cannot_be_written_is_told_before_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after hours, with what was found."""
    (tmp_path / "file").write_text("")
    assert main(["search", "--seeds", "1000000", "--into", str(tmp_path / "file" / "below")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_a_token_that_is_none_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with it is said."""
    assert main(["replay", "rdzv1-AAAA"]) == 2
    assert "its checksum is another" in capsys.readouterr().err


def test_the_search_tells_what_it_did_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0: nothing was found."""
    words = ["search", "--scenario", "missing-rank", "--faults", "slow,stop", "--seeds", "30", "--json"]
    assert main([*words, "--into", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schedules"], told["found"]) == (30, [])
    assert told["schedules_per_s"] == pytest.approx(told["schedules"] / told["wall_s"])


def test_what_another_search_has_found_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be of the same seed, and of another scenario. What the same one has found needs no second file."""
    base = tmp_path / "hasty.toml"
    base.write_text('nodes = 3\nsteps = {"*" = ["join", "write", "read"]}\n')
    words = ["search", "--scenario", str(base), "--first-seed", "18", "--seeds", "1", "--json", "--into", str(tmp_path)]
    files = []
    for kept in (False, False, True):
        if kept:
            (tmp_path / "found-18.toml").write_bytes(b"another one's, and no UTF-8: \xff")
        assert main(words) == 1
        files.append(Path(json.loads(capsys.readouterr().out)["found"][0]["scenario"]).name)
    assert files == ["found-18.toml", "found-18.toml", "found-18-2.toml"]
    assert (tmp_path / "found-18.toml").read_bytes().startswith(b"another one's")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--scenario", "kill-a-membre"], "did you mean kill-a-member"),
        (["--faults", "kill,stopp"], "did you mean stop"),
        (
            ["--scenario", "missing-rank", "--faults", "stop,kill-store"],
            "kill-store is for the backend c10d, not static",
        ),
        (["--seeds", "0"], "not in the range"),
        (["--within", "0"], "not in the range"),
        (["--within", "nan"], "nan is no number"),
    ],
)
def test_bad_usage_is_told(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what was probably meant."""
    assert main(["search", *words]) == 2
    assert problem in capsys.readouterr().err


def test_a_fault_that_launchers_are_spared_is_not_said_to_be_searched_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would never be drawn, and nothing found."""
    base = tmp_path / "launchers.toml"
    base.write_text('backend = "c10d"\nnodes = 2\nsteps = {"*" = ["launch 100ms"]}')
    words = ["search", "--scenario", str(base), "--seeds", "1", "--into", str(tmp_path), "--faults"]
    assert main([*words, "stop,garbage"]) == 2
    assert "garbage spares ranks that launch" in capsys.readouterr().err
    assert main([*words, "all"]) == 0


def test_an_interrupted_search_ends_at_once_and_leaves_nobody() -> None:
    """Its workers, which a Ctrl-C may not reach, go with it; nothing is printed but what was."""
    command = [sys.executable, "-m", "sim", "search", "--seeds", "1000000", "--keep-going"]
    search = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        workers = _until(lambda: _children_of(search.pid))
        os.kill(search.pid, signal.SIGINT)
        _, errors = search.communicate(timeout=30)
        assert search.returncode == 128 + signal.SIGINT
        assert b"Traceback" not in errors
        assert _until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    finally:
        search.kill()
        search.communicate()


def test_workers_end_when_nobody_waits_for_them() -> None:
    """The search itself was killed."""
    command = [sys.executable, "-m", "sim", "search", "--seeds", "1000000", "--keep-going"]
    search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        workers = _until(lambda: [pid for pid in _children_of(search.pid) if len(_children_of(search.pid)) > 1])
    finally:
        search.kill()
        search.wait(30)
    assert _until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def _children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def _until(look: Callable[[], Any], within_s: float = 30.0) -> Any:
    """What a look gives that is true, looked for again and again."""
    deadline_at = time.monotonic() + within_s
    while time.monotonic() < deadline_at:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s")


# What a trace says of the store


def test_a_store_that_forgets_a_write_is_found_by_its_clients_calls() -> None:
    """With the few calls that disagree."""
    scenario = Scenario(backend="c10d", nodes=Nodes(2, 2))

    def forgetful(scenario: Scenario, seed: int, *, is_traced: bool) -> Any:
        result = run(scenario, seed, is_traced=is_traced)
        tickets = [entry for entry in result.trace if entry[2] == "get" and entry[4] == [[2]]]
        trace = [(*entry[:4], [[1]]) if entry in tickets else entry for entry in result.trace]
        assert tickets
        return result._replace(trace=trace)

    assert tried(run, scenario, 1, is_traced=True).finding is None
    finding = tried(forgetful, scenario, 1, is_traced=True).finding
    assert finding
    assert finding.cause == "linearizable"
    assert finding.detail.count("/ticket', 1) -> 1") == 2


class Nostalgic(Agent):
    """A node that still looks into its first round when it is in another."""

    def _joined(self, task: Task) -> None:
        super()._joined(task)
        if self.rounds[1:]:
            self.node.spawn(_asks(read(Keys(self.run_id, self.rounds[0].round).key("end"))))


def _asks(request: Request) -> Flow[None]:
    yield Effect([request], float("inf"))


def test_who_acts_on_an_earlier_round_is_found() -> None:
    """By what it asks of the store."""
    scenario = scenario_file.find("kill-a-member")
    assert tried(run, scenario, 1, is_traced=True).finding is None
    finding = tried(partial(run, launcher=Nostalgic), scenario, 1, is_traced=True).finding
    assert finding
    assert finding.cause == "stale"
    assert "which was given round 2, asked for end of round 1" in finding.detail


def test_of_what_only_a_replay_looks_into_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """All checks of a run of the scenario hold."""
    for cause, is_in_replay_alone in (("stale", True), ("outcomes: ok", False)):
        found = Found(3, Finding(cause, "it was seen"), Scenario(nodes=Nodes(2, 2)), "digest", "token", (3,))
        cli._show(Report(1, 1.0, 1.0, [found]), [Path("found-3.toml")])
        assert ("with --seed 3, which only a replay looks into\n" in capsys.readouterr().out) == is_in_replay_alone


def test_a_search_that_comes_to_no_verdict_ends_and_names_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that runs on for ever must not hold up whoever searches."""
    monkeypatch.setattr("sim.search.explore.PATIENCE_S", 0.3)
    search = Search(seeds=1, run=partial(_rests, 60.0))
    with pytest.raises(EndlessSearchError, match=r"seeds 0 to 0: no verdict after 0\.3 s"):
        explore(search, processes=2)


def _rests(for_s: float, *_: object, **__: object) -> None:
    time.sleep(for_s)
