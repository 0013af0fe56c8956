"""Where a store is served: in a thread, in a process, on which addresses, for how long, and with whom it is shared."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from rdzv import net
from rdzv.errors import DistNetworkError
from rdzv.store import StoreServer, TCPStore
from rdzv.store.host import StoreProcess
from sim.process.descendants import children

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things
ROOT = Path(__file__).parents[1]
LISTENS = "0A"
HOSTS = {
    "0100007F": "127.0.0.1",
    "0200007F": "127.0.0.2",
    "00000000": "0.0.0.0",
    "00000000000000000000000001000000": "::1",
    "0" * 32: "::",
}


@pytest.fixture(params=[StoreServer, StoreProcess], ids=["thread", "process"])
def kind(request):
    return request.param


def client(host, port):
    return closing(TCPStore(host, port, timeout=GRACE_S))


def until(is_so):
    """Look again and again until it is so."""
    deadline_at = time.monotonic() + GRACE_S
    while not is_so():
        assert time.monotonic() < deadline_at, "it did not come to pass"
        time.sleep(0.001)


def listeners(port: int) -> set[str]:
    """The addresses on which somebody listens on that port, as the system has them."""
    return set(sockets(port).values())


def our_listeners(port: int) -> set[str]:
    """Those on which this process and its children do: others may have the same port on another address."""
    ours = [open_ for pid in (os.getpid(), *children()) for open_ in open_files(pid)]
    return {address for inode, address in sockets(port).items() if f"socket:[{inode}]" in ours}


def sockets(port: int) -> dict[str, str]:
    """Those that listen on a port: the number of each, and its address."""
    found = {}
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                    found[inode] = HOSTS.get(local.rpartition(":")[0], local)
    return found


def open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(link.readlink()))
    return found


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def has_ipv6() -> bool:
    try:
        net.bind("::1", 0, 0.0)[0].close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


# Addresses


@pytest.mark.parametrize(
    ("host", "addresses", "local_host"),
    [
        ("127.0.0.1", {"127.0.0.1"}, "127.0.0.1"),
        ("127.0.0.2", {"127.0.0.2"}, "127.0.0.2"),
        ("0.0.0.0", {"0.0.0.0"}, "127.0.0.1"),
        pytest.param("localhost", {"127.0.0.1", "::1"}, "127.0.0.1", marks=needs_ipv6),
        pytest.param("::1", {"::1"}, "::1", marks=needs_ipv6),
        pytest.param("::", {"::"}, "::1", marks=needs_ipv6),
    ],
)
def test_e23_it_listens_on_what_it_was_given_and_on_nothing_wider(kind, host, addresses, local_host):
    """The port is known at once, and it is one for both families; who connects from this machine is served."""
    with kind(host) as server:
        assert our_listeners(server.port) == addresses
        assert server.local_host == local_host
        assert server.endpoint == net.join_host_port(host, server.port)
        assert f"{server.endpoint} up" in repr(server)
        both = {"127.0.0.1"} if host == "::" else set()
        for address in addresses - {"0.0.0.0", "::"} | {local_host} | both:
            with client(address, server.port) as store:
                store.add("n", 1)
    assert our_listeners(server.port) == set()
    assert "stopped" in repr(server)


def test_a_port_can_be_served_again_at_once(kind):
    """Though connections of before are still in the system's memory."""
    with kind() as server, client("127.0.0.1", server.port) as store:
        store.set("k", "v", sync=True)
        server.stop()
        with kind(port=server.port) as again, client("127.0.0.1", again.port) as other:
            assert other.num_keys() == 0


def test_a_port_that_is_taken_is_an_error_that_has_the_address(kind):
    with StoreServer() as server:
        with pytest.raises(OSError, match=f"127.0.0.1:{server.port}"):
            kind(port=server.port)
        with pytest.raises(DistNetworkError, match=f"127.0.0.1:{server.port}"):
            TCPStore("127.0.0.1", server.port, is_master=True)


def test_an_address_of_another_machine_is_an_error_that_has_it(kind):
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        kind("192.0.2.1")


@pytest.mark.parametrize("port", [-1, 65536, True, "80"])
def test_what_is_no_port_is_refused_as_a_store_refuses_it(kind, port):
    with pytest.raises(TypeError, match=f"a port must be an int .*not {port!r}"):
        kind(port=port)
    with pytest.raises(TypeError, match=f"a port must be an int .*not {port!r}"):
        TCPStore("127.0.0.1", port)


@pytest.mark.parametrize("listens", [False, True])
def test_a_socket_that_is_bound_already_is_served_and_stays_the_callers(kind, listens):
    """So that nobody can take the port in between; it may even have clients waiting."""
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock, ExitStack() as stack:
        port = sock.getsockname()[1]
        if listens:
            sock.listen()
            early = stack.enter_context(net.connect("127.0.0.1", port, time.monotonic() + GRACE_S))
            early.sendall(b"\x00\xce\xf7\x85\x3c\x0d\x01\x02\x03\x04")
        with kind(listen_fd=sock.fileno()) as server:
            assert server.port == port
            if listens:
                early.settimeout(GRACE_S)
                assert early.recv(4) == b"\x01\x02\x03\x04"
            with client("127.0.0.1", port) as store:
                assert store.num_keys() == 0
        assert sock.getsockname()[1] == port
        with kind(port=port, listen_fd=sock.fileno()), client("127.0.0.1", port) as store:
            assert store.num_keys() == 0


def test_a_descriptor_that_cannot_be_served_is_an_error_and_nothing_leaks(kind, tmp_path):
    with ExitStack() as stack:
        (bound,) = net.bind("127.0.0.1", 0, 0.0)
        stack.enter_context(bound)
        sockets = [
            stack.enter_context(socket.socket(family, socket_type))
            for family, socket_type in [
                (socket.AF_INET, socket.SOCK_STREAM),
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            ]
        ]
        file = stack.enter_context((tmp_path / "file").open("w"))
        fds = open_fds()
        for fd, port in [*[(sock.fileno(), 0) for sock in sockets], (file.fileno(), 0), (9999, 0), (bound.fileno(), 1)]:
            with pytest.raises(OSError, match=f"descriptor {fd} "):
                kind(port=port, listen_fd=fd)
            with pytest.raises(DistNetworkError):
                TCPStore("127.0.0.1", port, is_master=True, master_listen_fd=fd, timeout=1.0)  # and it takes none over
        assert open_fds() == fds


# The end


def test_who_is_still_connected_when_it_stops_is_told_to_the_log(caplog, capfd, kind):
    with kind() as server, client("127.0.0.1", server.port) as store:
        name = net.join_host_port(*store.client._commands._sock.getsockname())
        with caplog.at_level(logging.WARNING, "rdzv.store"):
            server.stop()
        said = caplog.text if kind is StoreServer else capfd.readouterr().err
        assert f"stopped while still connected: {name}" in said
        assert server.endpoint in said
        with pytest.raises(DistNetworkError, match="stopped or died"):
            store.num_keys()


def test_a_server_that_lingers_serves_until_the_last_one_leaves(kind, caplog, capfd):
    """Also connections that are new: a client that is still here may need one more, to wait on."""
    with kind() as server, client("127.0.0.1", server.port) as store:
        stops = threading.Thread(target=server.stop, args=(GRACE_S,))
        stops.start()
        with client("127.0.0.1", server.port) as other:
            assert other.add("n", 1) == 1
        assert store.add("n", 1) == 2
        assert stops.is_alive()
        store.close()
        stops.join(GRACE_S)
        assert not stops.is_alive()
        assert "still connected" not in caplog.text + capfd.readouterr().err


def test_a_server_lingers_no_longer_than_it_was_told(kind):
    with kind() as server, client("127.0.0.1", server.port) as store:
        started_at = time.monotonic()
        server.stop(0.1)
        assert 0.1 <= time.monotonic() - started_at < GRACE_S
        with pytest.raises(DistNetworkError):
            store.num_keys()


def test_a_server_that_is_dropped_stops(kind):
    server = kind()
    port = server.port
    del server
    gc.collect()
    until(lambda: listeners(port) == set())


def test_a_server_leaves_nothing_behind(kind):
    threads, fds = threading.active_count(), open_fds()
    for _ in range(3):
        with kind("localhost") as server, client("127.0.0.1", server.port) as store:
            store.set("k", "v")
    until(lambda: (threading.active_count(), open_fds()) == (threads, fds))


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_what_a_program_does_at_its_exit_finds_the_store(hosting):
    """As with upstream's, also if that was registered before the store was made; and nobody is warned of the host."""
    program = f"""
import atexit
from rdzv import TCPStore
atexit.register(lambda: print(store.add("n", 2), store.get("n")))
store = TCPStore("127.0.0.1", 0, is_master=True, hosting={hosting!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=GRACE_S)
    assert (done.stdout, done.stderr) == ("2 b'2'\n", "")


OWNER = """
import os, sys, time
from rdzv.store.host import StoreProcess
server = StoreProcess()
child = os.fork() if sys.argv[1] == "forks" else -1
if child == 0:
    time.sleep(60)
    os._exit(0)
print(server.pid, server.port, child, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("forks", ["alone", "forks"])
def test_the_process_ends_when_its_owner_is_killed(forks):
    """Though a child of the owner lives on: it does not hold what ties the two together."""
    arguments = [sys.executable, "-c", OWNER, forks]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        _, port, child = map(int, owner.stdout.readline().split())
        try:
            with client("127.0.0.1", port) as store:
                assert store.num_keys() == 0
                owner.kill()
                until(lambda: listeners(port) == set())
                with pytest.raises(DistNetworkError):
                    store.num_keys()
        finally:
            owner.kill()
            if child > 0:
                os.kill(child, signal.SIGKILL)


def test_a_process_whose_owner_is_gone_before_it_serves_ends_without_a_word():
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock:
        sock.listen()
        ours, theirs = socket.socketpair()
        ours.close()
        with theirs:
            argument = json.dumps([[sock.fileno()], "127.0.0.1:0", {}, True, []])
            argv = [sys.executable, "-c", "from rdzv.store.host import main; main()", argument]
            done = subprocess.run(
                argv, stdin=theirs, stderr=-1, pass_fds=[sock.fileno()], cwd=ROOT, text=True, timeout=60, check=False
            )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_does_not_start_in_time_is_an_error_that_says_so():
    fds = open_fds()
    with pytest.raises(DistNetworkError, match=r"the process to serve 127.0.0.1:\d+ did not start within 0.001 s"):
        TCPStore("127.0.0.1", 0, is_master=True, hosting="process", timeout=0.0001)
    assert open_fds() == fds


def test_a_ctrl_c_for_the_ranks_does_not_reach_the_process():
    with StoreProcess() as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_a_process_of_its_own_may_have_as_many_connections_as_the_system_lets_it():
    """Though its owner goes by less: ten thousand clients are more than most shells allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    try:
        with StoreProcess() as server:
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_was_killed_is_no_obstacle_to_stopping():
    with StoreProcess() as server, client("127.0.0.1", server.port):
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
    assert our_listeners(server.port) == set()


# Masters


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_a_master_hosts_until_it_is_closed(hosting):
    with closing(TCPStore("127.0.0.1", 0, is_master=True, hosting=hosting, timeout=GRACE_S)) as master:
        assert master.hosts
        assert isinstance(master._server, StoreProcess if hosting == "process" else StoreServer)
        with client("127.0.0.1", master.port) as worker:
            master.set("k", "v")
            assert worker.get("k") == b"v"
    assert our_listeners(master.port) == set()


def test_a_master_may_listen_elsewhere_than_where_it_is_reached():
    with closing(TCPStore("localhost", 0, is_master=True, bind="127.0.0.2", timeout=GRACE_S)) as master:
        assert our_listeners(master.port) == {"127.0.0.2"}
        assert master.num_keys() == 0
        with closing(master.clone()) as clone:
            assert clone.num_keys() == 0


def test_there_are_two_ways_of_hosting():
    with pytest.raises(ValueError, match=r"'thread'.*'process'.*'cloud'"):
        TCPStore("127.0.0.1", 0, is_master=True, hosting="cloud")


def test_a_master_that_fails_leaves_no_server_behind():
    threads = threading.active_count()
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock:
        port = sock.getsockname()[1]
        with pytest.raises(DistNetworkError) as raised:
            TCPStore("127.0.0.1", port, is_master=True, listen_fd=sock.fileno(), timeout=0)
        assert threading.active_count() == threads
        assert raised.value.__traceback__  # which holds the store: it is not its being dropped that stops the server
