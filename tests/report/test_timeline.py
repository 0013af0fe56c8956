"""From what is heard of a run to spans and marks: the rules, without a process."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from sim.check.history import Ending, Meeting
from sim.plan import Plan
from sim.process.messages import Asks, Exited, Phase, Release, Started, StartJob, StartProgram, Struck
from sim.report import recorder as recorders
from sim.report.document import document
from sim.report.page import embedded
from sim.report.recorder import Recorder
from sim.report.tales import Tale, read_tales
from sim.report.timeline import Span, Timeline, timeline

BEGAN = datetime(2026, 1, 2, tzinfo=timezone.utc)


def drawn(result: Any, heard: list[tuple[float, int | None, Any]], *tales: Tale) -> Timeline:
    """The timeline of a run that began at 0."""
    recorder = Recorder(result.plan.world_size)
    recorder.began_at = 0.0
    recorder.heard = heard
    return timeline(result, recorder, tales, "rdzv-sim run", "/")


def start(rank: int) -> StartJob:
    return StartJob(rank, 2, 2, "host:1", "job", 60.0, 0.0)


def meeting(node: int, number: int, at: float) -> Meeting:
    return Meeting(node, number, node, 2, "job", "host", 1, 0.5, at=at)


def story(rank: int, number: int, at: float) -> list[tuple[float, int | None, Any]]:
    """A round of the built-in job: join at ``at``, then a step each second."""
    begun = zip((at, at + 1, at + 2), ("join", "exchange", "leave"), strict=True)
    phases = [(begun_at, rank, Phase(name, number, begun_at)) for begun_at, name in begun]
    return [*phases, (at + 3, rank, meeting(rank, number, at + 3))]


def names(spans: tuple[Span, ...], rank: int | None) -> list[tuple[str, int | None, float, float]]:
    return [(span.name, span.round, span.begin_s, span.end_s) for span in spans if span.rank == rank]


def test_a_rank_of_the_built_in_job_is_seen_to_spawn_connect_join_and_wait(made_result) -> None:
    """Every state ends where the next begins; the end of the connection comes from what the node tells."""
    heard = [(0.5, 0, start(0)), (1.0, 0, Started(100, 1.0)), *story(0, 1, 2.0), (6.0, 0, Release(2, 0.0))]
    heard += [*story(0, 2, 6.5)]
    result = made_result(Plan(world_size=1, rounds=2))
    run = drawn(result, heard, Tale(2.25, "connected", "rank 0", 100, None, ""))
    assert names(run.spans, 0) == [
        ("spawn", None, 0.5, 1.0),
        ("connect", 1, 2.0, 2.25),
        ("join", 1, 2.25, 3.0),
        ("exchange", 1, 3.0, 4.0),
        ("leave", 1, 4.0, 5.0),
        ("barrier", 1, 5.0, 6.0),
        ("connect", 2, 6.5, 7.5),
        ("exchange", 2, 7.5, 8.5),
        ("leave", 2, 8.5, 9.5),
    ]
    assert names(run.spans, None) == [("round", 1, 2.0, 5.0), ("round", 2, 6.5, 9.5)]
    assert [(mark.name, mark.text, mark.at_s) for mark in run.marks] == [("exit", "exit 0", 10.0)]


def test_last_words_that_come_after_the_end_are_put_in_their_time(made_result) -> None:
    """The keeper may tell of the end before the rank's own messages are read."""
    heard = [(0.0, 0, start(0)), (10.0, 0, Exited(0, 100, 0, 10.0))]
    heard += [(1.0, 0, Started(100, 1.0)), (9.0, 0, Phase("join", 1, 9.0))]
    run = drawn(made_result(Plan(world_size=1, rounds=1)), heard)
    assert names(run.spans, 0) == [("spawn", None, 0.0, 1.0), ("connect", 1, 9.0, 10.0)]


def test_what_a_rank_was_doing_when_it_was_killed_ends_with_it(made_result) -> None:
    """And the mark says how it ended, and in what."""
    plan = Plan(world_size=1, rounds=1)
    rank = made_result(plan).ranks[0]._replace(ending=Ending(0, -9, True, "the join of round 1", 4.0))
    run = drawn(made_result(plan, ranks=(rank,)), [(1.0, 0, Started(100, 1.0)), (2.0, 0, Phase("join", 1, 2.0))])
    assert names(run.spans, 0) == [("connect", 1, 2.0, 4.0)]
    assert [(mark.name, mark.text) for mark in run.marks] == [("failed", "SIGKILL in the join of round 1")]


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        ({"expected": True}, "exit", "exit 1 in the end, as the scenario has it: Error: why"),
        ({"error": ""}, "failed", "exit 1 in the end"),
        ({"ending": Ending(0, -9, False, "the end", 4.0)}, "ended", "had to be ended in the end: SIGKILL"),
        ({"ending": Ending(0, None, False, "the end", 4.0)}, "ended", "had to be ended in the end"),
    ],
)
def test_an_end_says_whose_doing_it_was(made_result, changes, name: str, text: str) -> None:
    """A rank's own, the scenario's, or the supervisor's."""
    plan = Plan(world_size=1)
    ending, error = Ending(0, 1, True, "the end", 4.0), "Traceback\nError: why\n"
    rank = made_result(plan).ranks[0]._replace(ending=ending, error=error)
    run = drawn(made_result(plan, ranks=(rank._replace(**changes),)), [])
    assert [(mark.name, mark.text) for mark in run.marks] == [(name, text)]


def test_an_elastic_program_is_drawn_from_what_its_nodes_tell(made_result) -> None:
    """Spans where they change its state, and marks for the rest; a child of the rank is known by its node's name."""
    heard = [(0.0, 0, StartProgram(0, ("x",), ())), (1.0, 0, Started(100, 1.0))]
    tales = [
        Tale(2.0, "in lobby", "n", 100, 0, "ticket 1"),
        Tale(3.0, "waiting", "n", 100, 0, "too few"),
        Tale(4.0, "met", "n", 999, 0, ""),
        Tale(6.0, "end", "n", 100, 0, "over"),
        Tale(7.0, "gone", "stranger", 1, 0, "who"),
        Tale(11.0, "met", "n", 999, 1, "the child lives on"),
    ]
    run = drawn(made_result(Plan(world_size=1, program=("x",))), heard, *tales)
    assert names(run.spans, 0) == [
        ("spawn", None, 0.0, 1.0),
        ("program", None, 1.0, 2.0),
        ("join", 0, 2.0, 4.0),
        ("member", 0, 4.0, 6.0),
        ("program", None, 6.0, 10.0),
    ]
    marks = [(mark.rank, mark.name) for mark in run.marks]
    assert marks == [(0, "waiting"), (0, "end"), (None, "gone"), (0, "exit")]


def test_faults_are_marks_on_whom_they_are_about(made_result) -> None:
    """One rank, or all."""
    heard = [(1.0, 1, Struck("kill:1", False)), (2.0, None, Struck("partition:0|1", False))]
    run = drawn(made_result(Plan(world_size=2)), [*heard, (3.0, None, Struck("partition:0|1", True))])
    assert [(mark.rank, mark.name, mark.text) for mark in run.marks[:3]] == [
        (1, "fault", "kill:1"),
        (None, "fault", "partition:0|1"),
        (None, "heal", "partition:0|1"),
    ]


def test_a_rank_that_joins_another_round_than_it_asked_for_does_not_stretch_that(made_result) -> None:
    """A round lasts for those that were in it; the wait for the next one is not part of it."""
    heard = [(1.0, 0, Phase("join", 1, 1.0)), (1.5, 0, Asks(1)), (2.0, 0, meeting(0, 1, 2.0))]
    heard += [(3.0, 0, Phase("rejoin", 2, 3.0)), (6.0, 0, Asks(2)), (7.0, 0, meeting(0, 2, 7.0))]
    heard += [(2.0, 1, Phase("join", 1, 2.0)), (2.0, 1, Asks(1)), (7.0, 1, meeting(1, 2, 7.0))]
    plan = Plan(world_size=2, rounds=2)
    ranks = [
        rank._replace(
            meetings=tuple(what for _, number, what in heard if isinstance(what, Meeting) and number == rank.rank)
        )
        for rank in made_result(plan).ranks
    ]
    run = drawn(made_result(plan, ranks=tuple(ranks)), heard)
    assert names(run.spans, None)[0] == ("round", 1, 1.0, 2.0)
    assert names(run.spans, None)[1][2] == 6.0


def test_what_is_told_in_no_known_way_is_passed_over() -> None:
    """Programs under test write to that file too."""
    good = b'{"at": "2026-01-02T00:00:01.500000+00:00", "event": "met", "by": "n", "pid": 7, '
    good += b'"round": 2, "why": "so", "x": 1}\n'
    bad = [b"", b"\xff", b"[]", b"null", b"{}", b'{"at": 1}', good.replace(b"+00:00", b""), good.replace(b"7", b'"x"')]
    told = list(read_tales([*bad, good, b"[" * 100_000], BEGAN))
    assert told == [Tale(1.5, "met", "n", 7, 2, "so, x 1")]
    later = list(read_tales([good.replace(b"+00:00", b"+01:00")], BEGAN - timedelta(hours=2)))
    assert later[0].at_s == 3601.5


def test_of_a_rank_that_prints_too_much_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank cannot fill the memory of who listens, nor take the room of another."""
    monkeypatch.setattr(recorders, "LOG_BYTES_MAX", 2000)
    monkeypatch.setattr(recorders, "LOG_BYTES_MIN", 10)
    recorder = Recorder(2)
    recorder.on_output(1, "stdout", b"mine\n")
    for number in range(100):
        recorder.on_output(0, "stderr", b"line %02d\nmore\n" % number)
    kept = [line.text for line in recorder.lines() if line.rank == 0]
    assert kept[-2:] == ["line 99", "more"]
    assert (len(kept), recorder.cut_bytes) == (14, {0: 93 * 13})
    assert [line.text for line in recorder.lines() if line.rank == 1] == ["mine"]


def test_what_a_rank_prints_in_short_lines_takes_no_more_room_in_the_page(
    monkeypatch: pytest.MonkeyPatch, made_result
) -> None:
    """Each line has its time and its stream there, which are many times as long as it is."""
    monkeypatch.setattr(recorders, "LOG_BYTES_MAX", 1 << 18)
    recorder = Recorder(1)
    for _ in range(100):
        recorder.on_output(0, "stdout", b"y\n" * 1000)
    data = document(timeline(made_result(Plan(world_size=1)), recorder, [], "", ""))
    assert (1 << 17) < len(embedded(data["lines"])) < (1 << 18)
    assert 2 * len(data["lines"]) + data["ranks"][0]["cut_bytes"] == 200_000
