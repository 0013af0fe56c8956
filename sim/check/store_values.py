"""Checks of a store: what its operations do and answer, one at a time."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from sim.check.trial import SHORT, Checks, Store, fails, fails_in_time

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKS = Checks()


@CHECKS.add
def values_come_out_as_bytes(store: Store) -> None:
    """Whether they went in as str, bytes or bytearray; empty ones, and those with any byte at all."""
    everything = bytes(range(256))
    for value in ("text", "\N{SNOWMAN}", b"", "", everything, bytearray(everything)):
        store.set("key", value)
        stored = store.get("key")
        assert type(stored) is bytes
        assert stored == (value.encode() if isinstance(value, str) else bytes(value))


@CHECKS.add
def keys_are_any_bytes(store: Store) -> None:
    """A str is its UTF-8; an empty key, a slash and a NUL are keys like any other."""
    keys: list[str | bytes] = ["", "/", "a/b", "-/a", "nul\0", "\N{SNOWMAN}", b"\xff\xfe"]
    for index, key in enumerate(keys):
        store.set(key, str(index))
    for index, key in enumerate(keys):
        assert store.get(key) == b"%d" % index, key
        assert store.get(key.encode() if isinstance(key, str) else key) == b"%d" % index, key
    listed = [key.encode(errors="surrogateescape") for key in store.list_keys()]
    assert sorted(listed) == sorted(key.encode() if isinstance(key, str) else key for key in keys)


@CHECKS.add
def other_types_are_refused(store: Store) -> None:
    """And nothing is stored."""
    wrong: list[Callable[[], object]] = [
        *(lambda value=value: store.set("key", value) for value in (memoryview(b"x"), 1, None, "\ud800")),
        *(lambda key=key: store.set(key, "value") for key in (1, None, "\ud800")),
        *(lambda amount=amount: store.add("key", amount) for amount in ("1", 1.5, None, 1 << 63)),
        *(lambda keys=keys: store.check(keys) for keys in ("key", b"key", [1], None)),
        *(lambda size=size: store.barrier("key", size, SHORT) for size in ("1", 1.0, None, 1 << 63)),
        lambda: store.multi_set(["key"], "1"),
        lambda: store.multi_set("key", ["1", "2", "3"]),
        lambda: store.wait("key", SHORT),
        lambda: store.multi_get("key"),
    ]
    for attempt in wrong:
        fails(attempt, TypeError)
    assert not store.check(["key"])


class Three:
    """A whole number of a type of its own, as numpy's are."""

    def __index__(self) -> int:
        return 3


class Two(IntEnum):
    """An int, and not only that."""

    TWO = 2


@CHECKS.add
def whole_numbers_of_any_type_are_numbers(store: Store) -> None:
    """And at once: a number that is derived from int is no reason to look through all that 64 bits hold."""
    assert store.add("n", Three()) == 3
    assert store.add("n", Two.TWO) == 5
    assert type(store.add("n", Two.TWO)) is int
    store.barrier("b", Two.TWO - 1, SHORT)


@CHECKS.add
def a_key_may_be_a_bytearray(store: Store) -> None:
    """It is the bytes that it has at the time."""
    key = bytearray(b"key")
    store.set(key, "v")
    key[0] = 0
    assert store.get("key") == b"v"
    assert store.check([bytearray(b"key")])


@CHECKS.add
def add_counts_from_zero(store: Store) -> None:
    """In decimal text, both ways, as far as 64 bits go."""
    assert [store.add("n", amount) for amount in (0, 5, -7, True)] == [0, 5, -2, -1]
    assert store.get("n") == b"-1"
    store.set("n", "41")
    assert store.add("n", 1) == 42
    for limit in (2**63 - 1, -(2**63)):
        assert store.add(f"limit {limit}", limit) == limit
        assert store.get(f"limit {limit}") == str(limit).encode()


@CHECKS.add
def add_leaves_alone_what_is_no_number(store: Store) -> None:
    """It fails, which may end this store's connection, but not the value."""
    other = store.clone()
    store.set("text", "text")
    store.check(["text"])
    fails(lambda: store.add("text", 1), ValueError, RuntimeError)
    assert other.get("text") == b"text"


@CHECKS.add
def compare_set_stores_on_a_match_alone(store: Store) -> None:
    """A missing key matches the empty value, and answers with what was expected if it does not match."""
    table = [  # what is stored, expected, desired -> the answer, what is stored then
        (None, "", "new", b"new", b"new"),
        (None, "old", "new", b"old", None),
        ("old", "old", "new", b"new", b"new"),
        ("old", "", "new", b"old", b"old"),
        ("old", "other", "new", b"old", b"old"),
        ("", "", "new", b"new", b"new"),
        ("old", "old", "", b"", b""),
    ]
    for index, (before, expected, desired, answer, after) in enumerate(table):
        key = f"key {index}"
        if before is not None:
            store.set(key, before)
        assert store.compare_set(key, expected, desired) == answer, table[index]
        assert store.check([key]) == (after is not None), table[index]
        assert after is None or store.get(key) == after, table[index]


@CHECKS.add
def append_adds_to_the_end(store: Store) -> None:
    """A missing key is empty; the same twice is twice there."""
    for piece in ("ab", "ab", b"", bytearray(b"\0")):
        store.append("key", piece)
    assert store.get("key") == b"abab\0"


@CHECKS.add
def deleted_keys_are_gone(store: Store) -> None:
    """Until they are set again."""
    store.set("key", "1")
    assert store.delete_key("key")
    assert not store.check(["key"])
    fails_in_time(lambda: store.wait(["key"], SHORT), "key")
    assert store.add("key", 7) == 7
    assert store.delete_key("key")


@CHECKS.add
def delete_key_says_whether_there_was_one(store: Store) -> None:
    """True once."""
    store.set("key", "1")
    assert [store.delete_key("key"), store.delete_key("key"), store.delete_key("never")] == [True, False, False]


@CHECKS.add
def keys_are_counted_and_listed(store: Store) -> None:
    """Each once; a store may count keys of its own, but does not list them."""
    own = store.num_keys()
    store.set("a", "1")
    store.set("a", "2")
    store.add("b", 1)
    assert store.num_keys() == own + 2
    assert sorted(store.list_keys()) == ["a", "b"]
    assert store.check(["a", "b"])
    assert store.check([])
    assert not store.check(["a", "c"])
    store.delete_key("a")
    assert store.num_keys() == own + 1
    assert store.list_keys() == ["b"]


@CHECKS.add
def many_values_at_once(store: Store) -> None:
    """In the order asked for, repeats and all; any iterable will do."""
    store.multi_set(("a", "b"), iter(["1", b"2"]))
    assert store.multi_get(["b", "a", "b", "a"]) == [b"2", b"1", b"2", b"1"]
    assert store.multi_get([]) == []
    store.multi_set([], [])
    store.wait([])
    store.multi_set(["a", "a"], ["3", "4"])
    assert store.get("a") == b"4"


@CHECKS.add
def unequal_lengths_store_nothing(store: Store) -> None:
    """Neither with a value too few nor with one too many."""
    fails(lambda: store.multi_set(["a", "b"], ["1"]), RuntimeError)
    fails(lambda: store.multi_set(["a"], ["1", "2"]), RuntimeError)
    fails(lambda: store.multi_set(["a"], []), RuntimeError)
    assert not store.check(["a"])


@CHECKS.add
def clones_share_keys(store: Store) -> None:
    """And begin with the same timeout."""
    clone = store.clone()
    store.add("key", 1)
    assert clone.get("key") == b"1"
    assert clone.timeout == store.timeout
