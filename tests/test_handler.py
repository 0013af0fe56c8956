"""The handler's interface and the values that come out of a meeting."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from rdzv import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo


class Notebook:
    """As much of a store as an agreement needs, remembering what was written in which order."""

    def __init__(self, **pages: bytes) -> None:
        self.pages = pages
        self.written: list[str] = []

    def set(self, key: str, value: bytes) -> None:
        self.pages[key] = value
        self.written.append(key)

    def get(self, key: str) -> bytes:
        return self.pages[key]


class WholeHandler(RendezvousHandler):
    """All that the interface asks for, and no more."""

    def get_backend(self) -> str:
        return "whole"

    def next_rendezvous(self) -> RendezvousInfo:
        return RendezvousInfo(Notebook(), 0, 1, RendezvousStoreInfo("localhost", 1))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return "job"

    def shutdown(self) -> bool:
        return True


def test_rank_0_writes_the_address_and_then_the_port_as_text() -> None:
    """Upstream's protocol: a reader that sees the port can rely on the address."""
    store = Notebook()
    agreed = RendezvousStoreInfo.build(0, store, "nöde0.example", 29500)
    assert store.written == ["MASTER_ADDR", "MASTER_PORT"]
    assert store.pages == {"MASTER_ADDR": "nöde0.example".encode(), "MASTER_PORT": b"29500"}
    assert agreed == RendezvousStoreInfo(master_addr="nöde0.example", master_port=29500)


def test_every_other_rank_reads_what_rank_0_wrote_and_writes_nothing() -> None:
    """All ranks leave with equal values; their own address and port do not matter."""
    store = Notebook()
    agreed = RendezvousStoreInfo.build(0, store, "node0", 29500)
    store.written.clear()
    assert RendezvousStoreInfo.build(1, store, "node1", 1234) == agreed
    assert RendezvousStoreInfo.build(7, store, None) == agreed
    assert store.written == []


def test_a_second_build_by_rank_0_overwrites_the_first() -> None:
    """A new round, or a new server, replaces the old address."""
    store = Notebook()
    RendezvousStoreInfo.build(0, store, "old", 1)
    assert RendezvousStoreInfo.build(0, store, "new", 2) == RendezvousStoreInfo("new", 2)
    assert RendezvousStoreInfo.build(1, store, None) == RendezvousStoreInfo("new", 2)


def test_without_a_port_a_free_one_is_published() -> None:
    """Upstream's contract for 0 and None alike."""
    for server_port in (0, None):
        assert 1 <= RendezvousStoreInfo.build(0, Notebook(), "node0", server_port).master_port <= 65535


@pytest.mark.parametrize("local_addr", ["", None])
def test_without_an_address_the_full_name_of_the_machine_is_published(
    local_addr: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's contract, for machines whose resolver knows them."""
    monkeypatch.setattr("socket.getfqdn", lambda: "node0.example.com")
    assert RendezvousStoreInfo.build(0, Notebook(), local_addr, 29500).master_addr == "node0.example.com"


def test_a_slow_resolver_does_not_hold_up_the_agreement(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The plain host name is published after a limited wait, and a warning says so."""
    asked_for = threading.Event()
    monkeypatch.setattr("rdzv.utils.RESOLVER_TIMEOUT_S", 0.01)
    monkeypatch.setattr("socket.getfqdn", lambda: asked_for.wait(60) and "late.example.com")
    monkeypatch.setattr("socket.gethostname", lambda: "node0")
    try:
        assert RendezvousStoreInfo.build(0, Notebook(), None, 29500).master_addr == "node0"
    finally:
        asked_for.set()
    assert "fully qualified name took longer than 0.01 s: going on with 'node0'" in caplog.text


@pytest.mark.parametrize("server_port", [-1, 65536])
def test_a_port_that_is_none_is_refused_before_anything_is_written(server_port: int) -> None:
    """Nobody can read half an agreement."""
    store = Notebook()
    with pytest.raises(ValueError, match=f"MASTER_PORT must be a port from 1 to 65535, not {server_port}"):
        RendezvousStoreInfo.build(0, store, "node0", server_port)
    assert store.written == []


@pytest.mark.parametrize("port", [b"", b"http", b"0", b"65536", b"-1", b"\xff"])
def test_a_port_that_was_spoilt_in_the_store_is_named(port: bytes) -> None:
    """The error shows the key and what is there."""
    with pytest.raises(ValueError, match="MASTER_PORT must be a port") as caught:
        RendezvousStoreInfo.build(1, Notebook(MASTER_ADDR=b"node0", MASTER_PORT=port), None)
    assert repr(port) in str(caught.value)


def test_a_rank_given_as_text_is_refused() -> None:
    """Text is never equal to 0: rank 0 would write nothing, and all would wait for it."""
    with pytest.raises(TypeError, match="integer"):
        RendezvousStoreInfo.build("0", Notebook(), "node0", 29500)


def test_an_error_of_the_store_reaches_the_caller_as_it_is() -> None:
    """The store knows best what it waited for."""
    with pytest.raises(KeyError, match="MASTER_ADDR"):
        RendezvousStoreInfo.build(1, Notebook(), None)


def test_the_outcome_of_a_meeting_is_read_only_and_not_a_tuple() -> None:
    """Old code that unpacks three values fails at once, not with the fourth one in the wrong place."""
    store, where = Notebook(), RendezvousStoreInfo("localhost", 29500)
    outcome = RendezvousInfo(store, 1, 3, where)
    assert outcome.store is store
    assert (outcome.rank, outcome.world_size, outcome.bootstrap_store_info) == (1, 3, where)
    for field in dataclasses.fields(outcome):
        with pytest.raises(AttributeError):
            setattr(outcome, field.name, None)
    with pytest.raises(TypeError, match=r"iterable|unpack"):
        _store, _rank, _world_size = outcome
    assert "rank=1, world_size=3" in repr(outcome)
    assert "master_port=29500" in repr(outcome)


def test_a_handler_shares_its_store_only_if_it_says_so() -> None:
    """The default keeps the job's processes away from the rendezvous' own store."""
    assert WholeHandler().use_agent_store is False


@pytest.mark.parametrize("method", sorted(RendezvousHandler.__abstractmethods__))
def test_a_handler_that_lacks_a_method_cannot_be_made(method: str) -> None:
    """A backend learns at once what it forgot."""
    forgetful = type("Forgetful", (WholeHandler,), {method: getattr(RendezvousHandler, method)})
    with pytest.raises(TypeError, match=method):
        forgetful()


def test_the_interface_is_upstreams() -> None:
    """What a backend must have, no more and no less."""
    assert RendezvousHandler.__abstractmethods__ == {
        "get_backend", "next_rendezvous", "is_closed", "set_closed", "num_nodes_waiting", "get_run_id", "shutdown",
    }  # fmt: skip
