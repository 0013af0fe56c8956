"""HashStore: a store inside one process, for its threads.

The meaning of every operation is `rdzv.core.keyspace`'s; here are a lock and the sleeping. Values and queues have a
keyspace each: unlike a server, which sees a WAIT alike for both, this store knows what a thread waits for.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

from rdzv.core.keyspace import Keyspace
from rdzv.errors import QueueEmptyError
from rdzv.store.base import (
    Key,
    Store,
    Timeout,
    Value,
    added,
    timed_out,
    to_bytes,
    to_keys,
    to_pairs,
    to_seconds,
    to_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    Waiter = threading.Condition

Found = TypeVar("Found")


class HashStore(Store):
    """Keys, values and queues of one process. Any number of threads may use it; one that waits holds up no other.

    Each operation is done as a whole, `multi_get` and `multi_set` too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = Keyspace(_wake)
        self._queues = Keyspace(_wake)

    def set(self, key: Key, value: Value, /) -> None:
        """As `Store.set`."""
        name, content = to_bytes(key), to_bytes(value, "value")
        with self._lock:
            self._values.set(name, content)

    def append(self, key: Key, value: Value, /) -> None:
        """As `Store.append`."""
        name, content = to_bytes(key), to_bytes(value, "value")
        with self._lock:
            self._values.append(name, content)

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /) -> None:
        """Store many values, all at once.

        Raises:
            DistStoreError: There are more of one than of the other; nothing was stored.
        """
        pairs = to_pairs(to_keys(keys), values)
        with self._lock:
            for name, content in pairs:
                self._values.set(name, content)

    def add(self, key: Key, amount: int, /) -> int:
        """As `Store.add`.

        Raises:
            ValueError: What is stored is no decimal number, or the sum is outside of 64 bits; nothing was stored.
        """
        name = to_bytes(key)
        with self._lock:
            number = added(key, self._values.get(name), amount)
            self._values.set(name, b"%d" % number)
        return number

    def compare_set(self, key: Key, expected: Value, desired: Value, /) -> bytes:
        """As `Store.compare_set`."""
        name, contents = to_bytes(key), (to_bytes(expected, "value"), to_bytes(desired, "value"))
        with self._lock:
            return self._values.compare_set(name, *contents)

    def delete_key(self, key: Key, /) -> bool:
        """Forget a key; whether it was there."""
        name = to_bytes(key)
        with self._lock:
            return self._values.delete(name)

    def check(self, keys: Iterable[Key], /) -> bool:
        """Whether all the keys are there now; a queue that is not empty counts as well."""
        return not self._missing(to_keys(keys))

    def num_keys(self) -> int:
        """How many keys have a value."""
        with self._lock:
            return len(self._values)

    def list_keys(self) -> list[str]:
        """The keys that have a value; one that is no UTF-8 comes with surrogate escapes."""
        with self._lock:
            return list(map(to_text, self._values.keys()))

    def get(self, key: Key, /) -> bytes:
        """The value of a key, waiting for it if need be.

        Raises:
            StoreTimeoutError: It did not appear in time.
        """
        return self.multi_get([key])[0]

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """The values of the keys as they are at one moment, waiting for all of them if need be.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
        """
        names = to_keys(keys)

        def values(_: Waiter | None) -> list[bytes] | None:
            found = [value for name in names if (value := self._values.get(name)) is not None]
            return found if len(found) == len(names) else None

        return self._until(values, [self._values], names, self._timeout_s)

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """Wait until all the keys have been there; a queue that is not empty counts as well.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
        """
        names = to_keys(keys)
        timeout_s = self._timeout_s if timeout is None else to_seconds(timeout)
        deadline_at = time.monotonic() + timeout_s
        ...

    def queue_push(self, key: Key, value: Value, /) -> None:
        """As `Store.queue_push`."""
        name, content = to_bytes(key), to_bytes(value, "value")
        with self._lock:
            self._queues.push(name, content)
