"""The static rendezvous on real sockets: ranks as threads, and as processes where a process has to die."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

import rdzv
from rdzv import events
from rdzv.static import create_rdzv_handler

HOME = Path(__file__).parents[1]
GRACE_S = 5.0  # for a machine under load; a deadline proper is tested in virtual time


def parameters(rank, world_size, endpoint, **options):
    options = {"rank": rank, "timeout": 20, "hosting": "thread", "linger_s": 10} | options
    return rdzv.RendezvousParameters("static", endpoint, "job", world_size, world_size, **options)


def held_port(host="127.0.0.1"):
    """A socket that holds a port for rank 0 to listen on."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    return sock


def in_threads(world_size, body, ranks=None):
    """Run ``body(rank)`` in a thread for each rank; what each returned or raised."""
    results = {}

    def run(rank):
        try:
            results[rank] = body(rank)
        except Exception as error:  # noqa: BLE001 -- the test looks at it
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in ranks or range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


def meet_at(endpoint, world_size, ranks=None, **options):
    """Let ranks meet, exchange values, meet again and leave; what each saw."""

    def body(rank):
        own = options if rank == 0 else {name: value for name, value in options.items() if name == "timeout"}
        handler = create_rdzv_handler(parameters(rank, world_size, endpoint, **own))
        try:
            info = handler.next_rendezvous()
            info.store.set(f"from/{rank}", str(rank))
            seen = [info.store.get(f"from/{other}") for other in range(world_size)]
            again = handler.next_rendezvous()
            assert (again.rank, again.world_size) == (info.rank, info.world_size)
            assert again.store.get("from/0") == b"0"
            return info.rank, info.world_size, seen, info.bootstrap_store_info
        finally:
            handler.shutdown()

    return in_threads(world_size, body, ranks)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_all_ranks_meet_and_read_what_the_others_wrote(host, hosting):
    """Four ranks meet at an endpoint, whichever family its host is of, wherever its server lives."""
    port = rdzv.get_free_port()
    results = meet_at(f"{host}:{port}", 4, hosting=hosting)
    for rank, (seen_rank, world_size, values, bootstrap) in results.items():
        assert (seen_rank, world_size, values) == (rank, 4, [b"0", b"1", b"2", b"3"])
        assert bootstrap == rdzv.RendezvousStoreInfo(host.strip("[]"), port)


def test_a_socket_that_its_owner_holds_is_served_without_a_port_race():
    """Rank 0 listens on a descriptor that was bound beforehand, for several meetings in a row."""
    with held_port() as sock:
        for _ in range(3):
            results = meet_at(f"127.0.0.1:{sock.getsockname()[1]}", 3, listen_fd=sock.fileno())
            assert all(result[1] == 3 for result in results.values())


def test_port_0_is_chosen_by_the_system_and_told():
    """The host of a world binds port 0, and its bootstrap info has the real port."""
    handler = create_rdzv_handler(parameters(0, 1, "127.0.0.1:0"))
    info = handler.next_rendezvous()
    assert info.bootstrap_store_info.master_port > 0
    with closing(socket.create_connection(("127.0.0.1", info.bootstrap_store_info.master_port), timeout=GRACE_S)):
        pass
    handler.shutdown()


@pytest.mark.parametrize(
    ("host", "elsewhere"), [("127.0.0.1", "::1"), ("127.0.0.2", "127.0.0.1"), ("[::1]", "127.0.0.1")]
)
def test_the_server_listens_on_the_endpoints_address_and_nowhere_else(host, elsewhere):
    """A store that was asked for on one address is not to be reached on another."""
    handler = create_rdzv_handler(parameters(0, 1, f"{host}:0"))
    port = handler.next_rendezvous().bootstrap_store_info.master_port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((elsewhere, port), timeout=GRACE_S)
    handler.shutdown()


def test_bind_says_what_to_listen_on_where_the_endpoint_does_not():
    """A wildcard is served when it is asked for by name."""
    handler = create_rdzv_handler(parameters(0, 1, "127.0.0.1:0", bind="0.0.0.0"))
    port = handler.next_rendezvous().bootstrap_store_info.master_port
    with closing(socket.create_connection(("127.0.0.3", port), timeout=GRACE_S)):
        pass
    handler.shutdown()


def test_three_of_four_ranks_fail_by_their_deadline_and_name_the_fourth(caplog):
    """Whoever is missing is named to every one that came, with the endpoint and the time, and in the host's log."""
    with held_port() as sock, caplog.at_level(logging.ERROR, "rdzv.static"):
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        started_at = time.monotonic()
        results = meet_at(endpoint, 4, ranks=[0, 1, 2], listen_fd=sock.fileno(), timeout=2)
        assert time.monotonic() - started_at < 2 + GRACE_S
    for error in results.values():
        assert isinstance(error, rdzv.RendezvousTimeoutError)
        assert error.missing == (3,)
        assert error.endpoint == endpoint
        assert f"rank 3 of 4 is missing at {endpoint} after" in str(error)
    assert "rank 3 of 4 is missing" in caplog.text


def test_a_missing_host_is_named():
    """Ranks whose host never comes say that it is rank 0, where, and how long they knocked."""
    with held_port() as sock:  # bound but not listening: nobody can take the port meanwhile
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        results = meet_at(endpoint, 3, ranks=[1, 2], timeout=1)
    for error in results.values():
        assert isinstance(error, rdzv.RendezvousConnectionError)
        assert isinstance(error.__cause__, rdzv.DistNetworkError)
        assert error.missing == (0,)
        assert "rank 0" in str(error)
        assert endpoint in str(error)


def test_a_listener_that_never_answers_does_not_hold_a_rank_past_its_deadline():
    """A peer that accepts and stays silent ends in an error by the deadline."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        started_at = time.monotonic()
        results = meet_at(f"127.0.0.1:{silent.getsockname()[1]}", 2, ranks=[1], timeout=1)
        assert time.monotonic() - started_at < 1 + GRACE_S
    assert isinstance(results[1], rdzv.RendezvousConnectionError)
    assert "did not answer" in str(results[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_name_that_does_not_resolve_is_tried_until_the_deadline(rank):
    """The resolver's refusal is not final, since names may come late; but the deadline is. So too for who hosts."""
    started_at = time.monotonic()
    results = meet_at("no-such-host.invalid:29500", 2, ranks=[rank], timeout=1)
    assert 1 <= time.monotonic() - started_at < 1 + GRACE_S
    assert isinstance(results[rank], rdzv.RendezvousConnectionError)
    assert "no-such-host.invalid" in str(results[rank])


def test_a_taken_port_is_an_error_at_once_that_names_the_address():
    """The host does not wait for a port that another process listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        handler = create_rdzv_handler(parameters(0, 2, f"127.0.0.1:{port}"))
        with pytest.raises(rdzv.RendezvousConnectionError, match=f"127.0.0.1:{port}.*in use"):
            handler.next_rendezvous()


def test_an_address_of_another_machine_cannot_be_hosted():
    """Rank 0 on the wrong machine says so, and how to say what to listen on."""
    handler = create_rdzv_handler(parameters(0, 2, "192.0.2.1:29500"))
    with pytest.raises(rdzv.RendezvousConnectionError, match=r"listen on \(bind\)"):
        handler.next_rendezvous()


HOST_THAT_DIES = """
import os, sys, rdzv
options = {"rank": 0, "hosting": sys.argv[3], "listen_fd": int(sys.argv[2])}
params = rdzv.RendezvousParameters("static", sys.argv[1], "job", 3, 3, **options)
handler = rdzv.get_rendezvous_handler(params)
import threading
threading.Timer(0.0, lambda: (sys.stdin.read(1), os._exit(9))).start()
handler.next_rendezvous()
"""


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_the_death_of_the_host_is_told_at_once(hosting):
    """Ranks that wait when rank 0 is killed do not wait for their own deadline."""
    with held_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        command = [sys.executable, "-c", HOST_THAT_DIES, endpoint, str(sock.fileno()), hosting]
        host = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, pass_fds=[sock.fileno()])
        sock.close()  # the host's copies are the last: with them the port dies
        handler = create_rdzv_handler(parameters(1, 3, endpoint, timeout=60))

        def kill_when_connected():
            rank_2 = rdzv.TCPStore("127.0.0.1", int(endpoint.rpartition(":")[2]), timeout=30.0)
            rank_2.wait(["rdzv/3/job/rank/1"])  # it has come, and waits
            host.stdin.write(b"x")
            host.stdin.close()
            rank_2.close()

        killer = threading.Thread(target=kill_when_connected)
        killer.start()
        started_at = time.monotonic()
        with pytest.raises(rdzv.RendezvousConnectionError, match="was lost"):
            handler.next_rendezvous()
        assert time.monotonic() - started_at < 30
        killer.join(30)
        assert host.wait(30) == 9


def test_the_host_waits_for_the_others_to_leave():
    """Rank 0's shutdown returns when the last of the others has left, and not before."""
    left = threading.Event()
    with held_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        host_is_leaving = threading.Event()

        def body(rank):
            handler = create_rdzv_handler(
                parameters(rank, 2, endpoint, **({"listen_fd": sock.fileno()} if rank == 0 else {}))
            )
            info = handler.next_rendezvous()
            if rank == 0:
                host_is_leaving.set()
                handler.shutdown()
                return left.is_set()
            assert host_is_leaving.wait(GRACE_S)
            info.store.set("late", "value")
            value = info.store.get("late")  # works: the host is still there
            with pytest.raises(rdzv.StoreTimeoutError):  # and so does what needs one more connection
                info.store.wait(["never"], 0.1)
            left.set()
            handler.shutdown()
            return value

        assert in_threads(2, body) == {0: True, 1: b"value"}


def test_the_host_waits_no_longer_than_it_lingers(caplog):
    """A member that never leaves does not hold the host for ever, and is named."""
    with held_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        stays = []

        def body(rank):
            options = {"listen_fd": sock.fileno(), "linger_s": 0.2} if rank == 0 else {}
            handler = create_rdzv_handler(parameters(rank, 2, endpoint, **options))
            stays.append((handler, handler.next_rendezvous()))
            return rank == 0 and handler.shutdown()

        assert in_threads(2, body)[0] is True
        assert "still connected: 127.0.0.1:" in caplog.text
        for handler, _ in stays:
            handler.shutdown()


def test_a_rank_that_runs_ahead_meets_in_the_new_world_and_not_in_the_old():
    """Rank 1 comes for the next meeting before the host has left the last one: it waits for the new host."""
    with held_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        ahead = threading.Event()

        def body(rank):
            options = {"listen_fd": sock.fileno()} if rank == 0 else {}
            tokens = []
            for meeting in range(2):
                handler = create_rdzv_handler(parameters(rank, 2, endpoint, **options))
                if rank == 1 and meeting == 1:
                    ahead.set()
                info = handler.next_rendezvous()
                if rank == 0:
                    info.store.set("world", f"{meeting}")
                tokens.append(info.store.get("world"))
                if rank == 0 and meeting == 0:
                    assert ahead.wait(GRACE_S)
                handler.shutdown()
            return tokens

        assert in_threads(2, body) == {0: [b"0", b"1"], 1: [b"0", b"1"]}


def test_two_processes_that_claim_one_rank_are_told(caplog):
    """The second to claim a rank is told who holds it, in the log at once and in the error at its deadline."""
    with held_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        host = create_rdzv_handler(parameters(0, 2, endpoint, listen_fd=sock.fileno()))
        first, second = (create_rdzv_handler(parameters(1, 2, endpoint, timeout=t)) for t in (20, 1))
        results = in_threads(2, lambda rank: [host, first][rank].next_rendezvous().rank)
        assert results == {0: 0, 1: 1}
        with pytest.raises(
            rdzv.RendezvousStateError, match=f"rank 1 of 2 of run 'job'.*held by.*process {os.getpid()}"
        ):
            second.next_rendezvous()
        assert "is held by" in caplog.text
        first.shutdown()
        host.shutdown()


def test_a_rank_of_the_next_run_does_not_meet_in_the_store_of_the_last():
    """A host that lingers for its own run is no host for a rank of another, which waits for its own and says so."""
    with held_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        old = [
            create_rdzv_handler(parameters(rank, 2, endpoint, **({"listen_fd": sock.fileno()} if rank == 0 else {})))
            for rank in range(2)
        ]
        assert in_threads(2, lambda rank: old[rank].next_rendezvous().rank) == {0: 0, 1: 1}
        params = rdzv.RendezvousParameters("static", endpoint, "next", 2, 2, rank=1, timeout=1)
        with pytest.raises(rdzv.RendezvousStateError, match="the store there is that of run 'job' of 2"):
            create_rdzv_handler(params).next_rendezvous()
        old[1].shutdown()
        old[0].shutdown()


def test_shutting_down_ends_a_meeting_that_is_under_way():
    """From another thread: the rank that waits gets an error at once, and not at its deadline."""
    with held_port() as sock:
        handler = create_rdzv_handler(
            parameters(0, 2, f"127.0.0.1:{sock.getsockname()[1]}", timeout=60, listen_fd=sock.fileno())
        )
        rank_1_only = threading.Thread(
            target=lambda: results.append(in_threads(1, lambda _: handler.next_rendezvous()))
        )
        results = []
        rank_1_only.start()
        watcher = rdzv.TCPStore("127.0.0.1", sock.getsockname()[1], timeout=30.0)
        watcher.wait(["rdzv/2/job/rank/0"])
        assert handler.shutdown()
        rank_1_only.join(30)
        assert isinstance(results[0][0], rdzv.RendezvousClosedError)
        watcher.close()


SHUT_DOWN_BY_A_SIGNAL = """
import signal, sys, rdzv
params = rdzv.RendezvousParameters("static", "127.0.0.1:0", "job", 2, 2, rank=0, timeout=60, hosting="thread")
handler = rdzv.get_rendezvous_handler(params)
signal.signal(signal.SIGALRM, lambda *_: handler.shutdown())
signal.setitimer(signal.ITIMER_REAL, 0.3)
try: handler.next_rendezvous()
except rdzv.RendezvousClosedError as error: print(error)
"""


@pytest.mark.parametrize("rank", [0, 1], ids=["that hosts", "that waits for the host"])
def test_a_signals_handler_may_shut_down(rank):
    """The handler that interrupts a meeting ends it, and does not wait for it; also where rank 0 is not there yet."""
    program = SHUT_DOWN_BY_A_SIGNAL
    if rank:
        program = program.replace("127.0.0.1:0", f"127.0.0.1:{rdzv.get_free_port()}").replace("rank=0", "rank=1")
        program = program.replace(', hosting="thread"', "")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, timeout=50, check=False
    )
    assert "was shut down by this process" in done.stdout, done.stderr


def test_nothing_is_left_behind():
    """After a meeting and a failure, no thread and no descriptor more than before."""

    def open_fds():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    meet_at(f"127.0.0.1:{rdzv.get_free_port()}", 2)
    fds, threads = open_fds(), threading.active_count()
    for hosting in ("thread", "process"):
        meet_at(f"127.0.0.1:{rdzv.get_free_port()}", 2, hosting=hosting)
        meet_at(f"127.0.0.1:{rdzv.get_free_port()}", 2, ranks=[0], hosting=hosting, timeout=1)
    assert (open_fds(), threading.active_count()) == (fds, threads)


def test_a_rank_whose_meeting_is_broken_into_as_it_is_told_has_met(caplog, monkeypatch, request):
    def break_in(record):
        assert ": met (" not in record.getMessage()
        return True

    caplog.set_level(logging.INFO, events.static_logger.name)
    monkeypatch.setattr(events.static_logger, "filters", [break_in])
    handler = create_rdzv_handler(parameters(0, 1, "127.0.0.1:0"))
    request.addfinalizer(handler.shutdown)
    with pytest.raises(AssertionError, match="met"):
        handler.next_rendezvous()
    assert handler.next_rendezvous().world_size == 1
