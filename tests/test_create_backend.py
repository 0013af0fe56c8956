"""Opening the store of a c10d backend: who hosts it, where it listens, what the options mean, and what is refused."""

from __future__ import annotations

import fcntl
import logging
import socket
import sys
import threading
import time
from base64 import b64encode
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rdzv
from rdzv import net
from rdzv.c10d import create_backend
from rdzv.errors import DistError, DistStoreError, EndpointError, RendezvousConnectionError, RendezvousError
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GRACE_S = 30.0  # for what takes milliseconds, on a machine that is busy with other things
KEY = "torch.rendezvous.job"


def parameters(endpoint: str | None, *, run_id: str = "job", max_nodes: int = 1, **options: object):
    options = {"hosting": "thread", "read_timeout": 20} | options
    return rdzv.RendezvousParameters("c10d", endpoint, run_id, 1, max_nodes, **options)


@contextmanager
def opened(endpoint: str | None, **options: object) -> Iterator[rdzv.TCPStore]:
    """The store of a backend that has just been made and works."""
    backend, store = create_backend(parameters(endpoint, **options))
    with closing(store):
        assert backend.name == "c10d"
        backend.set_state(b"document")
        assert store.get(KEY) == b64encode(b"document")
        yield store


@pytest.fixture
def port() -> Iterator[int]:
    """A port of localhost. It is held, so that nobody else is given it, and can be listened on all the same."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(sock) for sock in net.bind("localhost", 0, 0.0)]
        yield sockets[0].getsockname()[1]


def open_fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bytes]]:
    """Instead of the machine's own: knows these hosts by their addresses, each once it was asked so many times."""

    def install(late: int = 0, **hosts: str) -> list[bytes]:
        asked: list[bytes] = []

        def getaddrinfo(host: bytes, port: int, **_: object) -> list[tuple[object, ...]]:
            asked.append(host)
            if host.decode() not in hosts or len(asked) <= late:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            address = hosts[host.decode()]
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
        return asked

    return install


# Who hosts


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.8.9.10", "localhost", "LocalHost", "localhost."])
def test_loopback_is_this_machine_without_asking_a_resolver(host: str, resolver: Callable[..., list[bytes]]) -> None:
    """Upstream knows ``localhost`` by these letters alone."""
    asked = resolver()
    assert net.is_local(host, 0.0)
    assert asked == []


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "0.0.0.0", "::"])
def test_other_machines_and_wildcards_are_not_this_machine(host: str) -> None:
    """The addresses are those that are kept for documentation, which no machine has."""
    assert not net.is_local(host, 0.0)


def test_a_name_is_this_machine_if_one_of_its_addresses_is(resolver: Callable[..., list[bytes]]) -> None:
    """Whichever of its names and network cards that is; the machine's own name does not matter."""
    resolver(alias="127.0.0.3", other="192.0.2.1")
    deadline_at = time.monotonic() + GRACE_S
    assert net.is_local("alias", deadline_at)
    assert not net.is_local("other", deadline_at)


def test_who_finds_the_endpoint_on_its_own_machine_hosts(port: int, resolver: Callable[..., list[bytes]]) -> None:
    """And listens on that address and on no other."""
    resolver(alias="127.0.0.3")
    with opened(f"alias:{port}") as store:
        assert store.hosts
        assert (store.host, store.port) == ("alias", port)
        net.connect("127.0.0.3", port, time.monotonic() + GRACE_S).close()
        with pytest.raises(ConnectionRefusedError):
            net.connect("127.0.0.1", port, time.monotonic() + GRACE_S)


def test_one_of_many_processes_of_a_machine_hosts(port: int) -> None:
    """All may come at the same time; the rest join it, and all of them see one document."""
    pairs = together(*[lambda: create_backend(parameters(f"localhost:{port}"))] * 6)
    with ExitStack() as stack:
        for _, store in sorted(pairs, key=lambda pair: pair[1].hosts):
            stack.callback(store.close)
        assert sorted(store.hosts for _, store in pairs) == [False] * 5 + [True]
        assert sum(is_written for _, _, is_written in [backend.set_state(b"%d" % id(backend)) for backend, _ in pairs])
        assert len({backend.get_state() for backend, _ in pairs}) == 1


def test_a_name_that_is_known_late_is_waited_for(
    port: int, resolver: Callable[..., list[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    """Name services of clusters take their time; a node that gave up hosting by then would leave nobody to host."""
    resolver(late=2, alias="127.0.0.3")
    with opened(f"alias:{port}") as store:
        assert store.hosts
    assert "the host 'alias' is not known: unknown: asking again for" in caplog.text


def test_a_name_that_nobody_knows_is_an_error_in_time(resolver: Callable[..., list[bytes]]) -> None:
    """It is the resolver's, and no other kind of error than for any other failure."""
    resolver()
    with pytest.raises(RendezvousConnectionError) as raised:
        create_backend(parameters("nowhere:29400", read_timeout=1))
    assert isinstance(raised.value.__cause__, socket.gaierror)
    assert raised.value.__cause__.strerror == "the host 'nowhere' is not known: unknown"
    assert raised.value.waited_s < 1 + GRACE_S


def test_a_host_that_cannot_listen_joins_and_tells_why_it_did_if_that_fails_too(port: int) -> None:
    """What listens at the endpoint is no store, and does not answer."""
    with net.bind("127.0.0.1", port, 0.0)[0] as sock:
        sock.listen()
        with pytest.raises(RendezvousConnectionError) as raised:
            create_backend(parameters(f"127.0.0.1:{port}", read_timeout=1))
    cause = str(raised.value.__cause__)
    assert "no store answered" in cause
    assert "this process cannot host it" in cause
    assert raised.value.endpoint == f"127.0.0.1:{port}" in cause


def test_where_nobody_hosts_the_error_says_how_one_would(resolver: Callable[..., list[bytes]]) -> None:
    """Behind a service address no node finds itself; all of them would wait for each other."""
    resolver(service="192.0.2.1")
    with pytest.raises(RendezvousConnectionError) as raised:
        create_backend(parameters("service:29400", read_timeout=1))
    assert "is_host=1 and bind=" in str(raised.value.__cause__)


@pytest.mark.parametrize("is_host", [True, "yes", "1"])
def test_who_must_host_does_or_fails(port: int, is_host: object) -> None:
    """It does not join whoever has taken its port."""
    endpoint = f"127.0.0.1:{port}"
    with opened(endpoint, is_host=is_host) as store:
        assert store.hosts
        with pytest.raises(RendezvousConnectionError) as raised:
            create_backend(parameters(endpoint, is_host=is_host))
        assert "in use" in str(raised.value.__cause__)


def test_who_must_not_host_joins_or_fails(port: int) -> None:
    """Though the endpoint is this machine's."""
    endpoint = f"127.0.0.1:{port}"
    with pytest.raises(RendezvousConnectionError) as raised:
        create_backend(parameters(endpoint, is_host="no", read_timeout=1))
    assert str(raised.value) == "The connection to the C10d store has failed. See inner exception for details."
    if sys.version_info >= (3, 11):
        assert raised.value.__notes__ == [f"the store at {endpoint} failed after {raised.value.waited_s:.1f} s"]
    with opened(endpoint, is_host=True), opened(endpoint, is_host="no") as joined:
        assert not joined.hosts


# How it hosts


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_the_store_lives_until_it_is_closed_and_lets_others_leave_first(hosting: str, port: int) -> None:
    """The handler closes it with a time to linger."""
    endpoint = f"127.0.0.1:{port}"
    with opened(endpoint, hosting=hosting) as store, closing(store.clone()) as other:
        closing_thread = threading.Thread(target=store.close, args=(GRACE_S,))
        closing_thread.start()
        assert other.get(KEY) == b64encode(b"document")
        other.close()
        closing_thread.join(GRACE_S)
        assert not closing_thread.is_alive()
    with pytest.raises(RendezvousConnectionError):
        create_backend(parameters(endpoint, is_host=False, read_timeout=1))


def test_a_host_may_listen_elsewhere_than_where_it_is_reached(port: int) -> None:
    """So it is behind a service address, or NAT."""
    with opened(f"192.0.2.1:{port}", is_host=True, bind="127.0.0.2") as store, opened(f"127.0.0.2:{port}") as joined:
        assert store.host == "192.0.2.1"
        assert not joined.hosts


def test_a_socket_that_is_bound_already_is_listened_on() -> None:
    """So that nobody takes its port in between."""
    with net.bind("127.0.0.1", 0, 0.0)[0] as sock:
        port = sock.getsockname()[1]
        with opened(f"127.0.0.1:{port}", is_host=True, listen_fd=str(sock.fileno())) as store:
            assert store.port == port


def test_the_read_timeout_is_the_stores_though_opening_took_some_of_it(port: int) -> None:
    """A minute, if it is not given; longer than the system can wait is as long as it can."""
    endpoint = f"127.0.0.1:{port}"
    params = parameters(endpoint)
    del params.config["read_timeout"]
    with closing(create_backend(params)[1]) as store:
        assert store.timeout == timedelta(seconds=60)
        for given, seconds in [("10", 10), (10**30, 2_000_000)]:
            with opened(endpoint, read_timeout=given) as joined:
                assert not joined.hosts
                assert joined.timeout == timedelta(seconds=seconds)


def test_the_default_port_can_be_set(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's tests do, for the usual one may be taken."""
    monkeypatch.setattr("rdzv.c10d.DEFAULT_PORT", port)
    for endpoint in ("localhost", "", " ", None):
        with opened(endpoint) as store:
            assert (store.host, store.port) == ("localhost", port)


# Warnings


@pytest.mark.parametrize(
    ("endpoint", "options", "warning"),
    [
        ("", {}, "no endpoint was given"),
        ("127.0.0.1:0", {}, "nobody else knows that the system chose port"),
        ("127.0.0.1:0", {"is_host": True}, ""),
        ("alias:{port}", {}, "this machine takes 'alias' for 127.0.1.1: give bind="),
        ("alias:{port}", {"is_host": True}, "this machine takes 'alias' for 127.0.1.1: give bind="),
        ("alias:{port}", {"is_host": True, "bind": "127.0.0.1"}, ""),
        ("127.0.0.1:{port}", {}, ""),
        ("localhost:{port}", {}, ""),
    ],
)
def test_a_host_that_others_cannot_reach_says_so(
    endpoint: str,
    options: dict[str, object],
    warning: str,
    port: int,
    caplog: pytest.LogCaptureFixture,
    resolver: Callable[..., list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless it is alone anyway, or loopback was written out. Many a machine takes its own name for 127.0.1.1."""
    monkeypatch.setattr("rdzv.c10d.DEFAULT_PORT", port)
    resolver(alias="127.0.1.1")
    endpoint = endpoint.format(port=port)
    for max_nodes in (1, 2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rdzv"), opened(endpoint, max_nodes=max_nodes, **options):
            pass
        said = [record.getMessage() for record in caplog.records if record.name == "rdzv.c10d"]
        assert len(said) == (max_nodes == 2 and bool(warning))
        assert all(warning in message for message in said)


# Files


def test_a_file_is_the_store(tmp_path: Path) -> None:
    """The endpoint is its path as it stands; whoever names the same one is there too."""
    path = str(tmp_path / " a store ")
    backend, store = create_backend(rdzv.RendezvousParameters("c10d", path, "job", 1, 2, store_type=" fIlE "))
    assert isinstance(store, rdzv.FileStore)
    assert (store.path, store.timeout) == (path, timedelta(seconds=300))
    backend.set_state(b"document")
    other, _ = create_backend(parameters(path, store_type="file"))
    assert other.get_state() == backend.get_state() == (b"document", b64encode(b"document"))


def test_a_file_may_have_a_read_timeout_too(tmp_path: Path) -> None:
    """Upstream does not look at it."""
    _, store = create_backend(parameters(str(tmp_path / "store"), store_type="file", read_timeout="7"))
    assert store.timeout == timedelta(seconds=7)
    with pytest.raises(ValueError, match=r"^The read timeout must be a positive integer\.$"):
        create_backend(parameters(str(tmp_path / "other"), store_type="file", read_timeout="0"))
    assert not (tmp_path / "other").exists()


def test_a_file_that_somebody_keeps_locked_is_given_up_by_the_read_timeout(tmp_path: Path) -> None:
    """And not after the store's own five minutes; the error has how long that was."""
    path = tmp_path / "store"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RendezvousConnectionError) as raised:
            create_backend(parameters(str(path), store_type="file", read_timeout=1))
    assert isinstance(raised.value.__cause__, rdzv.StoreTimeoutError)
    assert 1 <= raised.value.waited_s < GRACE_S


@pytest.mark.parametrize(("max_nodes", "warnings"), [(1, 0), (2, 1)])
def test_without_an_endpoint_the_file_is_a_new_one(
    max_nodes: int, warnings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else knows it; no descriptor is left open."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fds = open_fds()
    _, store = create_backend(parameters("", store_type="file", max_nodes=max_nodes))
    assert Path(store.path).parent == tmp_path
    assert caplog.text.count("no other node knows the new file") == warnings
    assert open_fds() == fds


def test_a_directory_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    """Upstream tries for five minutes."""
    with pytest.raises(RendezvousConnectionError, match=r"^The connection to the C10d store has failed\.") as raised:
        create_backend(parameters(str(tmp_path / "nowhere/store"), store_type="file"))
    assert isinstance(raised.value.__cause__, DistStoreError)
    assert "no such directory" in str(raised.value.__cause__)


def test_without_room_for_a_temporary_file_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rendezvous, not of the system."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(RendezvousError, match=r"^The file creation for C10d store has failed\. See inner") as raised:
        create_backend(parameters("", store_type="file"))
    assert isinstance(raised.value.__cause__, OSError)


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"store_type": "dummy"}, ValueError, r"^Invalid store type given\. Currently only supports file and tcp\.$"),
        ({"store_type": None}, ValueError, r"^Invalid store type"),
        ({"endpoint": "a b:1"}, EndpointError, "host-char"),
        ({"endpoint": "0.0.0.0:1"}, EndpointError, "unspecified-address"),
        ({"endpoint": "localhost:x", "is_host": "perhaps", "read_timeout": 0}, EndpointError, "port-char"),
        ({"is_host": "perhaps", "read_timeout": 0}, ValueError, "is_host"),
        ({"read_timeout": "0", "hosting": "cloud"}, ValueError, r"^The read timeout must be a positive integer\.$"),
        ({"read_timeout": "-10"}, ValueError, r"^The read timeout must be a positive integer\.$"),
        ({"read_timeout": None}, ValueError, r"^The read timeout must be a positive integer\.$"),
        ({"read_timeout": "1.5"}, ValueError, "read_timeout"),
        ({"hosting": "cloud"}, ValueError, "hosting"),
        ({"linger_s": -1}, ValueError, "linger_s"),
        ({"listen_fd": "first"}, ValueError, "listen_fd"),
        ({"run_id": ""}, ValueError, r"^The run id must be a non-empty string\.$"),
        ({"endpoint": "localhost:0", "is_host": False}, RendezvousConnectionError, "inner exception"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object], error: type[Exception], text: str) -> None:
    """In upstream's order, and nothing is left running."""
    threads, fds = threading.active_count(), open_fds()
    with pytest.raises(error, match=text):
        create_backend(parameters(**{"endpoint": "127.0.0.1:0"} | options))
    assert (threading.active_count(), open_fds()) == (threads, fds)


def test_what_others_left_under_the_key_does_not_keep_a_backend_from_opening(tmp_path: Path) -> None:
    """Reading it is the error; until then the handler can say whose run it is."""
    path = str(tmp_path / "store")
    rdzv.FileStore(path).set(KEY, "garbage!")
    backend, _ = create_backend(parameters(path, store_type="file"))
    with pytest.raises(RendezvousError, match="garbage"):
        backend.get_state()


def test_a_store_that_fails_at_once_is_not_left_open(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error counts, and its port is free again."""

    def fail(self: object, run_id: str, *_: object) -> None:
        raise DistError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("rdzv.TCPStore.compare_set", fail)
        with pytest.raises(RendezvousConnectionError, match="broken"):
            create_backend(parameters(f"127.0.0.1:{port}"))
    with opened(f"127.0.0.1:{port}") as store:
        assert store.hosts
