"""The c10d backend beside torch's own: on each other's stores, under one contract, and on one document."""

from __future__ import annotations

import tempfile
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

import rdzv
from rdzv.c10d import C10dRendezvousBackend
from rdzv.elastic import DynamicRendezvousHandler
from sim.check.backend import CHECKS, Subject
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sim.check.backend import Backend
    from sim.check.trial import Check, Store

torch_stores: Any = pytest.importorskip("torch.distributed", reason="torch is not installed")
torch_backends: Any = pytest.importorskip("torch.distributed.elastic.rendezvous.c10d_rendezvous_backend")
pytestmark = pytest.mark.interop

KEY = "torch.rendezvous.job"
STATES = st.sampled_from([b"x", b"xy", b"xyz"])  # with all of base64's paddings


@contextmanager
def torchs_hash_store() -> Iterator[Store]:
    yield torch_stores.HashStore()


@contextmanager
def torchs_file_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield torch_stores.FileStore(f"{folder}/store")


@contextmanager
def torchs_client_of_our_server() -> Iterator[Store]:
    with closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True, hosting="process")) as host:
        yield torch_stores.TCPStore("127.0.0.1", host.port)


@contextmanager
def our_hash_store() -> Iterator[Store]:
    yield rdzv.HashStore()


STORES = (torchs_hash_store, torchs_file_store, torchs_client_of_our_server, our_hash_store)
BY_VALUE = "it takes any write of the same bytes for its own, and cannot tell a document from one that was there before"
DEFECTS = {
    "the_same_bytes_are_no_excuse_for_a_token": BY_VALUE,
    "a_token_stays_old_when_its_bytes_return": BY_VALUE,
    "an_empty_document_is_one": "an empty document's token is empty, which counts as none",
}


def put_through(check: Check, make_store: Callable[[], Any], kind: Callable[[Store, str], Backend]) -> None:
    with make_store() as store:
        check(Subject(kind(store, "job"), lambda: store.set(KEY, "non_base64")))


@pytest.mark.parametrize("make_store", STORES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_our_backend_keeps_the_contract_on_torchs_stores(check: Check, make_store: Callable[[], Any]) -> None:
    """All of it: it takes no more than a compare_set."""
    put_through(check, make_store, C10dRendezvousBackend)


@pytest.mark.parametrize("make_store", STORES, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check.__name__, marks=[pytest.mark.xfail(reason=why)] if why else [])
        for check in CHECKS
        for why in [DEFECTS.get(check.__name__, "")]
    ],
)
def test_torchs_backend_keeps_what_upstreams_tests_demand(check: Check, make_store: Callable[[], Any]) -> None:
    """So the contract asks no more than that of a backend, but for the defects that are named."""
    put_through(check, make_store, torch_backends.C10dRendezvousBackend)


@settings(max_examples=50)
@given(writes=st.lists(st.tuples(st.integers(0, 1), STATES), min_size=1, max_size=6))
def test_both_backends_replace_and_read_one_document(writes: list[tuple[int, bytes]]) -> None:
    """Each takes the other's tokens; torch's reader of base64 skips the nonce."""
    store = torch_stores.HashStore()
    backends = [C10dRendezvousBackend(store, "job"), torch_backends.C10dRendezvousBackend(store, "job")]
    token = None
    for number, state in writes:
        found, token, is_written = backends[number].set_state(state, token)
        assert (found, is_written) == (state, True)
        assert backends[0].get_state() == backends[1].get_state() == (state, token)


def test_both_backends_meet_on_one_server() -> None:
    """The one who comes second, with no token or an old one, learns what the first has written."""
    with (
        torchs_client_of_our_server() as torchs_client,
        closing(rdzv.TCPStore("127.0.0.1", torchs_client.port)) as our_client,
    ):
        ours = C10dRendezvousBackend(our_client, "job")
        torchs = torch_backends.C10dRendezvousBackend(torchs_client, "job")
        assert ours.get_state() is None
        _, first, _ = torchs.set_state(b"torch's")
        assert ours.set_state(b"ours") == (b"torch's", first, False)
        _, second, _ = ours.set_state(b"ours", first)
        assert torchs.set_state(b"torch's", first) == (b"ours", second, False)
        assert torchs.get_state() == ours.get_state() == (b"ours", second)


@contextmanager
def torchs_prefix_store() -> Iterator[Store]:
    with torchs_client_of_our_server() as client:
        yield torch_stores.PrefixStore("mine", client)


@pytest.mark.parametrize("make_store", [*STORES, torchs_prefix_store], ids=lambda make: make.__name__)
def test_nodes_meet_on_torchs_stores(make_store: Callable[[], Any]) -> None:
    """Whoever has a store of torch's, and perhaps a backend over it, needs no other for the elastic rendezvous."""
    with make_store() as store:
        backend = C10dRendezvousBackend(store, "job")
        nodes = [DynamicRendezvousHandler.from_backend("job", store, backend, 2, 2, "127.0.0.1") for _ in range(2)]
        for _ in range(2):
            infos = together(*[node.next_rendezvous for node in nodes])
            assert sorted(info.rank for info in infos) == [0, 1]
            assert all(info.store.underlying_store is store for info in infos)
            infos[0].store.set("key", "value")
            infos[1].store.wait(["key"])
            assert infos[1].store.multi_get(["key"]) == [b"value"]
        for node in nodes:
            assert node.shutdown()
