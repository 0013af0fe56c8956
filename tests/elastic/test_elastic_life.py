"""What an elastic handler tells of itself, and what it leaves behind."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rdzv import HashStore, net
from rdzv.errors import (
    RendezvousClosedError,
    RendezvousTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

everywhere = pytest.mark.parametrize("job", ["tcp", "hash", "file", "prefix", "own", "silent"], indirect=True)


# What it tells


def test_status_of_a_member_names_all_members_and_their_beats(job) -> None:
    """A beat's age is known once it was seen to change."""
    nodes = [job.node(2) for _ in range(2)]
    ranks = [info.rank for info in job.meet(*nodes)]
    job.until(lambda: all(member.last_beat_s is not None for member in nodes[0].status().members))
    status = nodes[0].status()
    assert (status.run_id, status.phase, status.round, status.rank, status.world_size) == (
        "job",
        "member",
        0,
        ranks[0],
        2,
    )
    assert [member.rank for member in status.members] == [0, 1]
    assert {member.state for member in status.members} == {"alive"}
    assert set(status.phases_s) == {"enter", "wait", "host"}
    nodes[1].shutdown("for a change")
    job.until(lambda: nodes[0].num_nodes_waiting() == 1)
    assert [member.state for member in nodes[0].status().members if member.rank == ranks[1]] == ["left: for a change"]
    assert "for a change" in nodes[0].status().why


def test_status_of_a_node_that_waits_says_for_what_and_since_when(job) -> None:
    """From another thread than the one that waits."""
    node = job.node(3, join_timeout=2)
    assert node.status().phase == "idle"
    joins = job.join(node)
    job.until(lambda: "1 of at least 3" in node.status().why)
    status = node.status()
    assert status.phase == "joining"
    assert status.since_s > 0
    assert isinstance(job.error_of(joins), RendezvousTimeoutError)


def test_the_number_of_rounds_is_one_for_the_job(job) -> None:
    """In status and in events, for a node that came later too."""
    nodes = [job.node(1, 2, last_call_timeout=60) for _ in range(2)]
    job.meet(*nodes)
    job.meet(*nodes)
    nodes[1].shutdown()
    newcomer = job.node(1, 2, last_call_timeout=60)
    joins = job.join(newcomer)
    job.until(lambda: nodes[0].num_nodes_waiting() == 2)
    assert (nodes[0].next_rendezvous().rank, job.result(joins).rank) == (0, 1)
    assert [handler.status().round for handler in (nodes[0], newcomer)] == [2, 2]
    assert sorted(event["round"] for event in job.heard("met", at_least=6)) == [0, 0, 1, 1, 2, 2]


def test_events_are_lines_of_json_with_a_reason(job, caplog: pytest.LogCaptureFixture) -> None:
    """And lines of the log; what somebody wanted, such as to leave, is no warning there."""
    caplog.set_level(logging.INFO, "rdzv")
    nodes = [job.node(2) for _ in range(2)]
    job.meet(*nodes)
    nodes[0].shutdown("its lease is over")
    job.until(lambda: nodes[1].num_nodes_waiting() == 1)
    (told,) = [event for event in job.heard("end", at_least=2) if event["by"] == nodes[1]._progress.node]
    assert told["run_id"] == "job"
    assert told["node"] == nodes[0]._progress.node
    assert "its lease is over" in told["why"]
    assert {"at", "pid", "round"} <= told.keys()
    for met in job.heard("met", at_least=2):
        assert {"round", "rank", "size", "enter_s", "wait_s", "host_s"} <= met.keys()
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert any("its lease is over" in text and "'job'" in text for text in texts)
    assert any("met" in text for text in texts)
    nodes[1].shutdown()
    job.meet(*[job.node(2, reopen=True) for _ in range(2)])  # one of them looks for those who were there before
    gone = {(event["kind"], event["node"], event["why"]) for event in job.heard("gone", at_least=2)}
    assert ("left", nodes[0]._progress.node, "its lease is over") in gone
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_file_of_events_that_cannot_be_written_costs_a_line_in_the_log(
    job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job goes on."""
    monkeypatch.setenv("RDZV_EVENTS", "/nowhere/events.jsonl")
    assert job.node(1).next_rendezvous().world_size == 1
    assert "/nowhere/events.jsonl, which RDZV_EVENTS names: No such file" in caplog.text


# Ends


def test_a_join_can_be_ended_from_another_thread(job) -> None:
    """The node leaves the lobby, so the others are not sealed into a round with it."""
    gone = job.node(2)
    joins = job.join(gone)
    job.until(lambda: job.told("in lobby"))
    assert gone.shutdown()
    assert isinstance(job.error_of(joins), RendezvousClosedError)
    infos = job.meet(job.node(2), job.node(2))
    assert sorted(info.rank for info in infos) == [0, 1]


def test_a_join_that_a_signals_handler_ends_at_its_last_moment_leaves_the_round(job, request, caplog) -> None:
    """It went on: the node said that it was down, and beat, so that no other could ever begin a new round."""
    node, before = job.node(1, 2, last_call_timeout=1), job.tending()
    ends = OnEvent(": joined (", lambda: signal.raise_signal(signal.SIGUSR1))
    caplog.set_level(logging.INFO, "rdzv.elastic")
    logging.getLogger("rdzv.elastic").addHandler(ends)
    request.addfinalizer(lambda: logging.getLogger("rdzv.elastic").removeHandler(ends))
    usual = signal.signal(signal.SIGUSR1, lambda *_: node.shutdown("it was told to"))
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, usual))
    with pytest.raises(RendezvousClosedError, match="this handler was shut down"):
        node.next_rendezvous()
    assert node.is_closed()
    assert job.tending() == before
    with pytest.raises(RendezvousClosedError, match="all 1 nodes of round 0 have left"):
        job.node(1, 2, last_call_timeout=1).next_rendezvous()


class Slow(HashStore):
    """One that is silent for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.answers, self.is_asked = threading.Event(), threading.Event()
        self.answers.set()

    def compare_set(self, *arguments: object) -> bytes:
        """As any store's, once it answers."""
        if not self.answers.is_set():
            self.is_asked.set()
            assert self.answers.wait(60)
        return super().compare_set(*arguments)  # type: ignore[arg-type]


class Interrupt(BaseException):
    """As a KeyboardInterrupt, which would end the tests if it came at the wrong time."""


@pytest.mark.parametrize("job", ["hash"], indirect=True)
def test_a_shutdown_that_is_interrupted_can_be_made_again(job, request) -> None:
    """The node's thread beat on: neither a second shutdown nor a join of its own could end that round."""
    job._store = store = Slow()
    node, before, main = job.node(1, 2, last_call_timeout=1), job.tending(), threading.get_ident()

    def interrupt(*_: object) -> None:
        raise Interrupt

    def interrupt_as_it_stops() -> None:
        job.until(lambda: sys._current_frames()[main].f_code.co_name == "stop")
        signal.pthread_kill(main, signal.SIGUSR1)

    usual = signal.signal(signal.SIGUSR1, interrupt)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR1, usual))
    node.next_rendezvous()
    store.answers.clear()
    assert store.is_asked.wait(60)
    interrupts = job.run(interrupt_as_it_stops)
    with pytest.raises(Interrupt):
        node.shutdown()
    store.answers.set()
    job.result(interrupts)
    assert node.shutdown()
    assert job.tending() == before
    with pytest.raises(RendezvousClosedError, match="all 1 nodes of round 0 have left"):
        job.node(1, 2, last_call_timeout=1, join_timeout=10).next_rendezvous()


class OnEvent(logging.Handler):
    """Does something, once, when a line of the log says so."""

    def __init__(self, said: str, does: Callable[[], object]) -> None:
        super().__init__()
        self._said, self._does = said, [does]

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the line."""
        if self._does and self._said in record.getMessage():
            self._does.pop()()


@everywhere
def test_after_shutdown_nothing_is_left(job) -> None:
    """No thread, no socket, no listener."""
    job.meet(*[job.node(2) for _ in range(2)])  # what is made once in a process is there now
    job.end()
    threads, fds = len(job.tending()), open_fds()
    for _ in range(2):
        nodes = [job.node(2, reopen=True) for _ in range(2)]
        job.meet(*nodes)
        job.meet(*nodes)
        job.end()
    job.until(lambda: len(job.tending()) == threads and open_fds() <= fds)


@pytest.mark.parametrize("job", ["hash"], indirect=True)
def test_no_thread_outlives_a_shutdown_not_even_of_an_earlier_round(job) -> None:
    """A process that ends while one of them is in the midst of a store that was written in C++ ends with an abort."""
    before, node = job.tending(), job.node(1)
    for _ in range(3):
        node.next_rendezvous()
    node.shutdown()
    assert job.tending() == before


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_handler_that_nobody_shut_down_is_collected(job) -> None:
    """Its thread ends, its port is free, and the others hear of it as of any death."""
    dies, lives = job.node(2), job.node(2)
    place = job.meet(dies, lives)[0].bootstrap_store_info
    job.forget(dies)
    before = len(job.tending())
    del dies
    gc.collect()
    job.until(lambda: len(job.tending()) == before - 1)
    job.until(lambda: lives.num_nodes_waiting() == 1)
    assert [event["kind"] for event in job.heard("end")] == ["lost"]
    assert place


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_a_handler_may_be_collected_last_of_all(hosting: str) -> None:
    """When nothing can be imported any more: a program that ended well printed an ImportError of the host's."""
    program = f"""
import rdzv
options = {{"hosting": {hosting!r}, "keep_alive_interval": 1, "local_addr": "127.0.0.1"}}
handler = rdzv.get_rendezvous_handler(rdzv.RendezvousParameters("c10d", "127.0.0.1:0", "job", 1, 1, **options))
handler.itself = handler
print(handler.next_rendezvous().world_size)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "1\n"
    assert "Traceback" not in done.stderr


def test_the_host_of_the_store_may_be_a_node(job) -> None:
    """Who comes first hosts; the others go on until they have all left."""
    with net.bind("127.0.0.1", 0, 0.0)[0] as held:
        job.server.endpoint = f"127.0.0.1:{held.getsockname()[1]}"
        host, guest = (job.node(2, is_host=None) for _ in range(2))
    job.meet(host, guest)
    leaves = job.run(host.shutdown, "it has done its part")
    job.until(lambda: guest.num_nodes_waiting() == 1)
    assert guest.shutdown()
    assert job.result(leaves)
