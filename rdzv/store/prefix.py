"""A part of a store: every key gets a prefix, so that several users of one store do not meet."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rdzv.store.base import Key, Store, Timeout, Value, many, to_bytes, to_keys, to_pairs, to_seconds, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable


class PrefixStore(Store):
    """The keys of another store that begin with ``prefix/``.

    `barrier` is upstream's, on top of add, set and wait: it does not meet a barrier on the inner store's own key. The
    inner store gets a str for a key that is one, bytes for every value, and a timedelta for every timeout.

    Args:
        prefix: What to put before each key, with a "/" between them; it may be empty.
        store: Where the keys live: a store of ours, of upstream's, or of a user's own.

    Raises:
        TypeError: The prefix is no text, or the store is no store.
        ValueError: The store is ``None``.
    """

    def __init__(self, prefix: Key, store: Store) -> None:
        if not hasattr(store, "compare_set"):
            upstreams = ValueError if store is None else TypeError
            raise upstreams(f"a PrefixStore needs a store, not {store!r}")
        name = to_bytes(prefix, "prefix")
        self._prefix = prefix if isinstance(prefix, str) else to_text(name)
        self._prefix_bytes = name + b"/"
        self._store = store

    @property
    def prefix(self) -> str:
        """The prefix, without the "/"."""
        return self._prefix

    @property
    def underlying_store(self) -> Store:
        """The store that was given."""
        return self._store

    @property
    def _underlying_non_prefix_store(self) -> Store:
        """The innermost store."""
        store = self._store
        return store._underlying_non_prefix_store if isinstance(store, PrefixStore) else store  # noqa: SLF001

    def __repr__(self) -> str:
        return f"PrefixStore({self._prefix!r}, {self._store!r})"

    def _key(self, key: Key) -> Key:
        # Not by format, for which a key that is an enumeration's member is its name on some Pythons, and not its text.
        return self._prefix + "/" + key if isinstance(key, str) else self._prefix_bytes + to_bytes(key)

    def _keys(self, keys: Iterable[Key]) -> list[Key]:
        return [self._key(key) for key in many(keys)]

    @property
    def timeout(self) -> timedelta:
        """The inner store's."""
        return self._store.timeout

    def set_timeout(self, timeout: Timeout, /) -> None:
        """Change the inner store's."""
        self._store.set_timeout(_for_inner(timeout))

    def set(self, key: Key, value: Value, /) -> None:
        """As `Store.set`."""
        self._store.set(self._key(key), to_bytes(value, "value"))

    def get(self, key: Key, /) -> bytes:
        """As `Store.get`."""
        return self._store.get(self._key(key))

    def add(self, key: Key, amount: int, /) -> int:
        """As `Store.add`."""
        return self._store.add(self._key(key), amount)

    def append(self, key: Key, value: Value, /) -> None:
        """As `Store.append`."""
        self._store.append(self._key(key), to_bytes(value, "value"))

    def check(self, keys: Iterable[Key], /) -> bool:
        """As `Store.check`."""
        return self._store.check(self._keys(keys))

    def compare_set(self, key: Key, expected: Value, desired: Value, /) -> bytes:
        """As `Store.compare_set`."""
        contents = to_bytes(expected, "value"), to_bytes(desired, "value")
        return self._store.compare_set(self._key(key), *contents)

    def delete_key(self, key: Key, /) -> bool:
        """As `Store.delete_key`."""
        return self._store.delete_key(self._key(key))

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """As `Store.multi_get`."""
        return self._store.multi_get(self._keys(keys))

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /) -> None:
        """As `Store.multi_set`."""
        names = self._keys(keys)
        contents = [content for _, content in to_pairs(to_keys(names), values)]
        self._store.multi_set(names, contents)

    def num_keys(self) -> int:
        """How many keys the inner store has in all."""
        return self._store.num_keys()

    def list_keys(self) -> list[str]:
        """The keys under the prefix, without it."""
        prefix = to_text(self._prefix_bytes)
        return [key.removeprefix(prefix) for key in self._store.list_keys() if key.startswith(prefix)]

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """As `Store.wait`."""
        names = self._keys(keys)
        if timeout is None:  # a store of somebody's own need not take one
            self._store.wait(names)
        else:
            self._store.wait(names, _for_inner(timeout))

    def queue_push(self, key: Key, value: Value, /) -> None:
        """As `Store.queue_push`."""
        self._store.queue_push(self._key(key), to_bytes(value, "value"))

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """As `Store.queue_pop`."""
        return self._store.queue_pop(self._key(key), block)

    def queue_len(self, key: Key, /) -> int:
        """As `Store.queue_len`."""
        return self._store.queue_len(self._key(key))

    def clone(self) -> PrefixStore:
        """The same prefix on a clone of the inner store."""
        return PrefixStore(self._prefix, self._store.clone())

    def has_extended_api(self) -> bool:
        """The inner store's answer."""
        return self._store.has_extended_api()


def _for_inner(timeout: Timeout) -> timedelta:
    """A timeout as upstream's PrefixStore gives it to the inner store: somebody's own need not know seconds."""
    return timeout if isinstance(timeout, timedelta) else timedelta(seconds=to_seconds(timeout))


def innermost(store: Any) -> Any:
    """The store beneath all prefixes, of ours or of upstream's."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    return store
