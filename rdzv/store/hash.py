"""HashStore: a store inside one process, for its threads.

What an operation means is for `rdzv.core.keyspace` to know; here are the lock, and the sleeping of those who wait.
Values and queues have a keyspace each: a server sees but a WAIT, and this store knows what the thread waits for.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rdzv.core.keyspace import Keyspace
from rdzv.errors import QueueEmptyError
from rdzv.store.base import (
    Deadline,
    Key,
    Store,
    Timeout,
    Value,
    added,
    to_bytes,
    to_keys,
    to_pairs,
    to_seconds,
    to_text,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence


class HashStore(Store):
    """Keys, values and queues of one process. Any number of threads may use it, and one that waits holds up no other.

    Every operation happens at one moment, `multi_get` and `multi_set` too. A forked child has a copy of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = Keyspace(_wake)
        self._queues = Keyspace(_wake)
        _of_this_process.add(self)

    def set(self, key: Key, value: Value, /) -> None:
        """As `Store.set`."""
        name, content = to_bytes(key), to_bytes(value, "value")
        with self._lock:
            self._values.set(name, content)

    def append(self, key: Key, value: Value, /) -> None:
        """Store the value behind the one that is there."""
        name, content = to_bytes(key), to_bytes(value, "value")
        with self._lock:
            self._values.append(name, content)

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /) -> None:
        """As `Store.multi_set`."""
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
        """As `Store.delete_key`. Waits that have seen the key are not undone."""
        name = to_bytes(key)
        with self._lock:
            return self._values.delete(name)

    def check(self, keys: Iterable[Key], /) -> bool:
        """Whether all the keys are there now; a queue that is not empty counts as well."""
        names = to_keys(keys)
        with self._lock:
            return not _missing(names, self._values, self._queues)

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
        name = to_bytes(key)
        with self._lock:
            value = self._values.get(name)
        return self.multi_get([name])[0] if value is None else value

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """The values of the keys at one moment, waiting for all of them if need be.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
        """
        names, deadline = to_keys(keys), Deadline(self._timeout_s)
        with self._waiter(self._values) as waiter:
            while not self._values.wait(waiter, names):
                _sleep(waiter, deadline, names, self._values)
            return [value for name in names if (value := self._values.get(name)) is not None]

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """Wait until each of the keys has been there; a queue that is not empty counts as well.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
        """
        names, spaces = to_keys(keys), (self._values, self._queues)
        deadline = Deadline(self._timeout_s if timeout is None else to_seconds(timeout))
        with self._waiter(*spaces) as waiter:
            for name in names:
                while not any(space.wait(waiter, [name]) for space in spaces):
                    _sleep(waiter, deadline, names, *spaces)

    def queue_push(self, key: Key, value: Value, /) -> None:
        """As `Store.queue_push`. It wakes one of those who wait in `queue_pop`."""
        name, content = to_bytes(key), to_bytes(value, "value")
        with self._lock:
            self._queues.push(name, content)

    def queue_pop(self, key: Key, block: bool = True) -> bytes:
        """Take the first value of a queue, waiting for one if ``block``.

        Raises:
            QueueEmptyError: There is none, and ``block`` is false.
            StoreTimeoutError: None came in time.
        """
        name, deadline = to_bytes(key), Deadline(self._timeout_s)
        with self._waiter(self._queues) as waiter:
            while True:
                length, value = self._queues.pop(name, waiter)
                if length:
                    return value
                if not block:
                    raise QueueEmptyError(f"the queue {to_text(name)!r} is empty", keys=[to_text(name)])
                self._queues.wait(waiter, [name])
                _sleep(waiter, deadline, [name], self._queues)

    def queue_len(self, key: Key, /) -> int:
        """As `Store.queue_len`."""
        name = to_bytes(key)
        with self._lock:
            return self._queues.queue_length(name)

    def clone(self) -> HashStore:
        """This very object, timeout and all: the keys live in it."""
        return self

    def has_extended_api(self) -> bool:
        """True."""
        return True

    def _after_fork(self) -> None:
        """In a forked child: whoever had the lock, or waited, is not here."""
        self._lock = threading.Lock()
        self._values.forget_all()
        self._queues.forget_all()

    @contextmanager
    def _waiter(self, *spaces: Keyspace) -> Iterator[threading.Condition]:
        """The lock, and what stands for this thread while it waits in the spaces; it leaves them in the end."""
        with self._lock:
            waiter = threading.Condition(self._lock)
            try:
                yield waiter
            finally:
                for space in spaces:
                    space.forget(waiter)


def _wake(waiter: Hashable) -> None:
    assert isinstance(waiter, threading.Condition)
    waiter.notify()


def _missing(names: Sequence[bytes], *spaces: Keyspace) -> list[bytes]:
    return [name for name in names if not any(space.has([name]) for space in spaces)]


def _sleep(waiter: threading.Condition, deadline: Deadline, names: Sequence[bytes], *spaces: Keyspace) -> None:
    """Free the lock until woken or the deadline; raise if that has passed."""
    left_s = deadline.left_s
    if not left_s:
        raise deadline.missed(_missing(names, *spaces), "still missing in this process's HashStore")
    waiter.wait(left_s)


_of_this_process: weakref.WeakSet[HashStore] = weakref.WeakSet()


def _free_in_child() -> None:
    for store in list(_of_this_process):
        store._after_fork()  # noqa: SLF001


os.register_at_fork(after_in_child=_free_in_child)
