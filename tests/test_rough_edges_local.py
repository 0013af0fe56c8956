"""The rough edges E26 to E31 of upstream's HashStore and FileStore, each by its number, mended in ours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import rdzv
from sim.check.trial import together

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["HashStore", "FileStore"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> rdzv.Store:
    return rdzv.HashStore() if request.param == "HashStore" else rdzv.FileStore(str(tmp_path / "store"))


@pytest.mark.parametrize(
    "text", ["12abc", "0x10", "1.9", "text", "1_0", "--1", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 9999]
)
def test_e26_add_refuses_what_is_no_number(store: rdzv.Store, text: str) -> None:
    """Rather than counting on from its first digits; the error has the key and the value, not a C++ function's name."""
    store.set("key", text)
    with pytest.raises(ValueError, match=r"cannot add to 'key': its value b'.* is no decimal number"):
        store.add("key", 1)
    assert store.get("key") == text.encode()


@pytest.mark.parametrize(("text", "number"), [("", 0), (" 41\n", 41), ("+5", 5), ("-0", 0), ("007", 7)])
def test_e26_add_takes_every_decimal_number(store: rdzv.Store, text: str, number: int) -> None:
    """Blanks and a sign too, and an empty value as 0, as upstream."""
    store.set("key", text)
    assert store.add("key", 1) == number + 1
    assert store.get("key") == str(number + 1).encode()


@pytest.mark.parametrize(("start", "amount"), [(2**63 - 1, 1), (-(2**63), -1), (2**63, 0)])
def test_e26_sums_do_not_wrap_around(store: rdzv.Store, start: int, amount: int) -> None:
    """What 64 bits cannot hold is an error, and changes nothing."""
    store.set("key", str(start))
    with pytest.raises(ValueError, match=f"cannot add {amount} to 'key': the sum with {start} is outside of 64 bits"):
        store.add("key", amount)
    assert store.get("key") == str(start).encode()


def test_e27_add_wakes_who_waits() -> None:
    """At once: here a counter goes to and fro between two threads a hundred times."""
    store = rdzv.HashStore()
    store.set_timeout(10)

    def play(mine: str, other: str) -> None:
        for turn in range(100):
            store.add(f"{mine}{turn}", 1)
            store.wait([f"{other}{turn}"])

    together(lambda: play("a", "b"), lambda: play("b", "a"))


def test_e28_multi_set_of_unequal_lengths_stores_nothing(store: rdzv.Store) -> None:
    """And says so, rather than reading past the end."""
    for keys, values in ((["a", "b"], ["1"]), (["a"], ["1", "2"])):
        with pytest.raises(rdzv.DistStoreError, match=f"{len(keys)} keys and {len(values)} values: nothing was stored"):
            store.multi_set(keys, values)
    assert store.list_keys() == []


@pytest.mark.parametrize(
    "content", [b"\t\0\0\0refcount/\1\0\0", b"a text\n", b"\xff" * 100], ids=["cut", "text", "bytes"]
)
def test_e29_a_cut_or_foreign_file_is_an_error_at_once(tmp_path: Path, content: bytes) -> None:
    """Rather than an endless loop with the lock held."""
    path = tmp_path / "store"
    path.write_bytes(content)
    with pytest.raises(rdzv.DistStoreError, match=f"{path} is no store"):
        rdzv.FileStore(str(path))
    assert path.read_bytes() == content


def test_e29_a_record_cut_by_a_crash_spoils_nothing(tmp_path: Path) -> None:
    """The writes before it stay, and the next one takes its place."""
    path = tmp_path / "store"
    store = rdzv.FileStore(str(path))
    store.set("key", "before")
    with path.open("ab") as file:
        file.write(b"\4\0\0\0/key\5\0\0\0aft")
    assert store.get("key") == b"before"
    store.set("key", "after")
    assert rdzv.FileStore(str(path)).get("key") == b"after"


def test_e30_a_folder_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    """Rather than after five minutes."""
    started_at = time.monotonic()
    with pytest.raises(rdzv.DistStoreError, match=f"{tmp_path}/missing/store: there is no such directory"):
        rdzv.FileStore(f"{tmp_path}/missing/store")
    assert time.monotonic() - started_at < 1


def test_e31_list_keys_has_the_users_keys_alone(tmp_path: Path) -> None:
    """And not the counters with their first letter cut off; num_keys counts those as well, as upstream."""
    store = rdzv.FileStore(str(tmp_path / "store"))
    store.clone()
    store.multi_set(["refcount/", "efcount/", "-/x", ""], ["1"] * 4)
    assert sorted(store.list_keys()) == ["", "-/x", "efcount/", "refcount/"]
    assert store.num_keys() == 6


def test_e31_a_truncated_file_is_not_answered_from_memory(tmp_path: Path) -> None:
    """What is not there any more is not given out."""
    path = tmp_path / "store"
    store = rdzv.FileStore(str(path))
    store.set("key", "value")
    assert store.get("key") == b"value"
    path.write_bytes(b"")
    with pytest.raises(rdzv.DistStoreError, match=f"{path} was cut from 35 bytes to 0"):
        store.get("key")
