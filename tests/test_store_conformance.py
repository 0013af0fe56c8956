"""Every store of ours keeps what `sim.check.store` demands, alone and behind a prefix; and the checks can fail."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

import rdzv
from sim.check import trial
from sim.check.store import CHECKS, Maker, check_store, run_check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sim.check.trial import Check


@contextmanager
def hash_store() -> Iterator[rdzv.Store]:
    yield rdzv.HashStore()


@contextmanager
def file_store() -> Iterator[rdzv.Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield rdzv.FileStore(f"{folder}/store")


def tcp_store_in_a_thread() -> AbstractContextManager[rdzv.Store]:
    return closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True, hosting="thread"))


def tcp_store_in_a_process() -> AbstractContextManager[rdzv.Store]:
    return closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True, hosting="process"))


MAKERS = (hash_store, file_store, tcp_store_in_a_thread, tcp_store_in_a_process)


@pytest.mark.parametrize("prefix", ["", "prefix"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_stores_keep_the_contract(check: Check, make: Maker, prefix: str) -> None:
    """One contract, whatever is behind it."""

    @contextmanager
    def make_with_prefix() -> Iterator[rdzv.Store]:
        with make() as store:
            yield rdzv.PrefixStore(prefix, store) if prefix else store

    run_check(check, make_with_prefix)


class Hoarder(rdzv.HashStore):
    """Says that it deletes, and does not."""

    def delete_key(self, key: rdzv.store.base.Key, /) -> bool:
        return self.check([key])


def test_the_report_names_every_failed_check_and_no_other() -> None:
    """Whoever puts a store of their own through the checks sees all that is wrong with it at once."""

    @contextmanager
    def make() -> Iterator[rdzv.Store]:
        yield Hoarder()

    check_store(hash_store)
    with pytest.raises(AssertionError) as failure:
        check_store(make)
    first, *failed = str(failure.value).splitlines()
    assert first == f"3 of {len(CHECKS)} checks failed:"
    assert [line.partition(":")[0] for line in failed] == [
        "deleted_keys_are_gone",
        "delete_key_says_whether_there_was_one",
        "keys_are_counted_and_listed",
    ]
    assert "assert not store.check([" in failed[0]  # an assertion has few words: its line says what was expected


class Backward(rdzv.HashStore):
    """Has the order of its values wrong."""

    def multi_get(self, keys: Iterable[rdzv.store.base.Key], /) -> list[bytes]:
        return super().multi_get(keys)[::-1]


def test_values_in_another_order_are_other_values() -> None:
    """Backward is another order, too."""
    with pytest.raises(AssertionError, match=r"^1 of .*\nmany_values_at_once: "):
        check_store(lambda: nullcontext(Backward()))


class Deaf(rdzv.HashStore):
    """Waits as long as it takes, whatever the timeout."""

    def wait(self, keys: Iterable[rdzv.store.base.Key], timeout: rdzv.store.base.Timeout | None = None, /) -> None:
        super().wait(keys, 1000)


def test_a_store_that_waits_for_ever_fails_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or who writes one would see nothing of what is wrong with it, where they need it most."""
    monkeypatch.setattr(trial, "CHECK_S", 0.5)
    with pytest.raises(AssertionError, match=r"\ndeleted_keys_are_gone: .* threads are stuck after 0.5 s"):
        check_store(lambda: nullcontext(Deaf()))


def test_what_makes_no_context_manager_is_named_once() -> None:
    """It is no failure of a check, and every check would fail of it."""
    with pytest.raises(TypeError, match="HashStore is no context manager"):
        check_store(rdzv.HashStore)  # type: ignore[arg-type]
