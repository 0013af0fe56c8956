"""The c10d backend over each of our stores: the contract, the fencing against a model, and what lies under its key."""

from __future__ import annotations

import tempfile
import unittest
from base64 import b64decode, b64encode
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import rdzv
from rdzv.c10d import NO_STATE, C10dRendezvousBackend, decode_state, encode_state, head_key
from rdzv.errors import DistNetworkError, RendezvousConnectionError, RendezvousStateError, StoreTimeoutError
from sim.check.backend import CHECKS, RendezvousBackendTestMixin, Subject, check_backend
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.check.backend import Maker
    from sim.check.trial import Check

KEY = "torch.rendezvous.job"


def subject_over(store: rdzv.Store) -> Subject:
    return Subject(C10dRendezvousBackend(store, "job"), lambda: store.set(KEY, "non_base64"))


@contextmanager
def hash_store() -> Iterator[Subject]:
    yield subject_over(rdzv.HashStore())


@contextmanager
def file_store() -> Iterator[Subject]:
    with tempfile.TemporaryDirectory() as folder:
        yield subject_over(rdzv.FileStore(f"{folder}/store"))


@contextmanager
def tcp_store() -> Iterator[Subject]:
    with closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True)) as store:
        yield subject_over(store)


@pytest.mark.parametrize("make", [hash_store, file_store, tcp_store], ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_backend_keeps_the_contract(check: Check, make: Maker) -> None:
    """Whichever store is behind it."""
    with make() as subject:
        check(subject)


class Forgetful(C10dRendezvousBackend):
    """Takes whoever finds his own bytes for the one who wrote them, as upstream does."""

    def set_state(self, state: bytes, token: object = None) -> tuple[bytes, object, bool] | None:
        answer = super().set_state(state, token)
        return answer and (*answer[:2], answer[0] == state)


def test_the_report_names_the_failed_checks_alone() -> None:
    """Whoever puts a backend of their own through the checks sees all that is wrong with it at once."""

    @contextmanager
    def make() -> Iterator[Subject]:
        store = rdzv.HashStore()
        yield Subject(Forgetful(store, "job"), lambda: store.set(KEY, "non_base64"))

    check_backend(hash_store)
    with pytest.raises(AssertionError) as failure:
        check_backend(make)
    first, *failed = str(failure.value).splitlines()
    assert first == f"1 of {len(CHECKS)} checks failed:"
    assert [line.partition(":")[0] for line in failed] == ["the_same_bytes_are_no_excuse_for_a_token"]


def test_what_makes_no_context_manager_is_named_once() -> None:
    """It is no failure of a check, and every check would fail of it."""
    with pytest.raises(TypeError, match="C10dRendezvousBackend is no context manager"):
        check_backend(lambda: C10dRendezvousBackend(rdzv.HashStore(), "job"))  # type: ignore[arg-type, return-value]


def test_the_mixin_makes_every_check_a_test_of_a_unittest_class() -> None:
    """Where one check fails, one test does."""

    class Tests(RendezvousBackendTestMixin, unittest.TestCase):
        def setUp(self) -> None:
            self._store = rdzv.HashStore()
            self._backend = Forgetful(self._store, "job")

        def _corrupt_state(self) -> None:
            self._store.set(KEY, "non_base64")

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    assert result.testsRun == len(CHECKS)
    assert [test.id().rpartition(".")[2] for test, _ in result.failures] == [
        "test_the_same_bytes_are_no_excuse_for_a_token"
    ]
    assert result.errors == []


# The fencing


class Fencing(RuleBasedStateMachine):
    """Two backends on one key against a model: the documents that were current, each with its token, in their order."""

    def __init__(self) -> None:
        super().__init__()
        store = rdzv.HashStore()
        self.backends = [C10dRendezvousBackend(store, "job") for _ in range(2)]
        self.versions: list[tuple[bytes, object]] = []

    # Few documents, that they may meet again; one is read as upstream's mark for none, were it written plainly.
    states = st.sampled_from([b"", b"x", b"y", b"canimadam"])
    backends_ = st.integers(0, 1)

    def write(self, backend: int, state: bytes, token: object, *, may: bool) -> None:
        answer = self.backends[backend].set_state(state, token)
        if may:
            assert answer is not None
            found, new_token, is_written = answer
            assert (found, is_written) == (state, True)
            assert new_token not in [token for _, token in self.versions]
            self.versions.append((state, new_token))
        else:
            assert answer == ((*self.versions[-1], False) if self.versions else None)

    @rule(backend=backends_, state=states, token=st.sampled_from([None, b"", ""]))
    def write_without_a_token(self, backend: int, state: bytes, token: object) -> None:
        self.write(backend, state, token, may=not self.versions)

    @rule(backend=backends_, state=states, age=st.integers(0, 3))
    def write_with_a_token(self, backend: int, state: bytes, age: int) -> None:
        if age < len(self.versions):
            self.write(backend, state, self.versions[-1 - age][1], may=age == 0)

    @rule(backend=backends_, state=states, token=st.one_of(st.integers(1), st.text(min_size=1), st.binary(min_size=1)))
    def write_with_what_is_no_token(self, backend: int, state: bytes, token: object) -> None:
        if token != NO_STATE and token not in [token for _, token in self.versions]:
            self.write(backend, state, token, may=False)

    @invariant()
    def both_read_the_last_version(self) -> None:
        for backend in self.backends:
            assert backend.get_state() == (self.versions[-1] if self.versions else None)


TestFencing = Fencing.TestCase
TestFencing.settings = settings(max_examples=60, stateful_step_count=20)


def test_of_many_writers_with_one_token_one_succeeds() -> None:
    """On connections of their own, though all of them write the same; the rest learn the winner's token."""
    with ExitStack() as stack:
        host = stack.enter_context(closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True)))
        _, token, _ = C10dRendezvousBackend(host, "job").set_state(b"first")
        backends = [C10dRendezvousBackend(stack.enter_context(closing(host.clone())), "job") for _ in range(8)]
        answers = together(*[lambda backend=backend: backend.set_state(b"second", token) for backend in backends])
        assert sorted(is_written for _, _, is_written in answers) == [False] * 7 + [True]
        assert len({token for _, token, _ in answers}) == 1


# What lies under the key


def test_the_key_and_the_first_document_are_upstreams() -> None:
    """So is the mark of a run without a document, which is there as soon as a backend is."""
    store = rdzv.HashStore()
    backend = C10dRendezvousBackend(store, "job")
    assert backend.name == "c10d"
    assert head_key("job") == KEY
    assert store.get(KEY) == NO_STATE == b"Y2FuaW1hZGFt"
    _, token, _ = backend.set_state(b"document")
    assert store.get(KEY) == token == b64encode(b"document")


def test_a_backend_finds_the_document_that_is_there() -> None:
    """Another one on the same run does not begin anew."""
    store = rdzv.HashStore()
    C10dRendezvousBackend(store, "job").set_state(b"document")
    assert C10dRendezvousBackend(store, "job").get_state() == (b"document", b64encode(b"document"))
    assert C10dRendezvousBackend(store, "other job").get_state() is None


@given(state=st.binary(), nonce=st.binary(max_size=16))
def test_every_document_is_read_again_here_and_by_a_lenient_reader(state: bytes, nonce: bytes) -> None:
    """Upstream's reader of base64 skips what is none; and no document looks like none, or like no token."""
    value = encode_state(state, nonce)
    assert decode_state(value) == (state, value)
    assert b64decode(value) == state
    assert value
    assert value != NO_STATE


@given(state=st.binary(max_size=8), nonces=st.lists(st.binary(min_size=8, max_size=8), min_size=2, unique=True))
def test_the_nonce_tells_writes_of_the_same_document_apart(state: bytes, nonces: list[bytes]) -> None:
    """And from the first one, which has none."""
    assert len({encode_state(state, nonce) for nonce in [b"", *nonces]}) == 1 + len(nonces)


@pytest.mark.parametrize(
    "value", [b"abcd!!!!", b"non_base64", b"abc", b"=", b"eA==eA==", b"eA==\n", b"eA==:ff", b"eA==:#:#", b"\xff", b"{}"]
)
def test_what_no_backend_wrote_is_a_state_error_that_names_the_key(value: bytes) -> None:
    """It is not read as a shorter document; and nobody writes over it unasked."""
    store = rdzv.HashStore()
    backend = C10dRendezvousBackend(store, "job")
    store.set(KEY, value)
    for attempt in (backend.get_state, lambda: backend.set_state(b"x"), lambda: backend.set_state(b"x", b"eA==")):
        with pytest.raises(RendezvousStateError, match=KEY):
            attempt()
    assert store.get(KEY) == value


def test_a_store_that_was_emptied_before_the_first_document_takes_one() -> None:
    """Its host was started anew, say, while this node made its handler; it said that there was none, and wrote none."""
    store = rdzv.HashStore()
    backend = C10dRendezvousBackend(store, "job")
    store.delete_key(KEY)
    written = backend.set_state(b"document")
    assert written
    assert (written[0], written[2]) == (b"document", True)
    assert backend.get_state() == written[:2]


def test_a_store_that_lost_its_keys_has_no_document() -> None:
    """As after a restart of its server. It says so at once, and an old token writes nothing."""
    store = rdzv.HashStore()
    backend = C10dRendezvousBackend(store, "job")
    _, token, _ = backend.set_state(b"x")
    store.delete_key(KEY)
    assert backend.set_state(b"y", token) is None
    assert not store.check([KEY])
    assert backend.get_state() is None
    assert backend.set_state(b"y") == (b"y", b64encode(b"y"), True)


# Failures


@pytest.mark.parametrize("run_id", ["", None])
def test_a_run_has_an_id(run_id: str | None) -> None:
    """Two jobs without one would share a document."""
    with pytest.raises(ValueError, match="run id"):
        C10dRendezvousBackend(rdzv.HashStore(), run_id)


class Failing(rdzv.HashStore):
    """Fails when it is told to."""

    error: Exception | None = None

    def compare_set(self, *arguments: object) -> bytes:
        if self.error is not None:
            raise self.error
        return super().compare_set(*arguments)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        RuntimeError("broken"),
        TimeoutError("late"),
        DistNetworkError("gone", endpoint="host:1"),
        StoreTimeoutError("late", waited_s=2.0),
    ],
    ids=repr,
)
def test_an_error_of_the_store_is_a_connection_error_that_says_what_happened(error: Exception) -> None:
    """With the store's own error as its cause, and what that one knows."""
    store = Failing()
    backend = C10dRendezvousBackend(store, "job")
    store.error = error
    for attempt in (backend.get_state, lambda: backend.set_state(b"x"), lambda: C10dRendezvousBackend(store, "job")):
        with pytest.raises(RendezvousConnectionError, match=f"{KEY}.*{error}") as raised:
            attempt()
        assert raised.value.__cause__ is error
        assert raised.value.endpoint == getattr(error, "endpoint", "")
        assert raised.value.waited_s == getattr(error, "waited_s", None)


@pytest.mark.parametrize("error", [AttributeError("typo"), TypeError("str"), KeyError("k")], ids=repr)
def test_a_fault_in_the_program_is_no_connection_error(error: Exception) -> None:
    """It comes out as it is."""
    store = Failing()
    backend = C10dRendezvousBackend(store, "job")
    store.error = error
    with pytest.raises(type(error)) as raised:
        backend.get_state()
    assert raised.value is error
