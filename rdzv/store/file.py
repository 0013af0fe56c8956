"""FileStore: a store in one file, shared by the processes that can open it; torch's own FileStore may be among them.

The file, its locks and what may happen to it are `rdzv.store.log`'s business; here are the operations. A file tells
nobody that it has changed, so who waits looks again, in intervals that grow to 20 ms.
"""

from __future__ import annotations

import logging
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING

from rdzv.errors import DistError
from rdzv.store.base import (
    DEFAULT_TIMEOUT,
    Deadline,
    Key,
    Store,
    Timeout,
    Value,
    added,
    many,
    to_bytes,
    to_int64,
    to_pairs,
    to_seconds,
    to_text,
)
from rdzv.store.log import LEAVERS, USERS, Log, looks, when_unlocked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

logger = logging.getLogger("rdzv.store")

_LOOK_PAUSE_S_MIN, _LOOK_PAUSE_S_MAX = 1e-3, 20e-3
_LEAVE_S = 5.0


class FileStore(Store):
    """Keys and values in a file. Any number of processes and threads may use it; there are no queues.

    Every operation happens at one moment, `multi_get` and `multi_set` too, and a write is certain when it returns.

    Args:
        file_name: The file, made if it is not there; what an earlier job left in it is read as if it were of this one.
        world_size: How many stores use the file in all: the last of them removes it. If negative, nobody does.
        timeout: For how long to wait for the file's lock, and the default of every later call.

    Raises:
        DistStoreError: The file cannot be made or used, or is no store.
        StoreTimeoutError: Somebody holds its lock, and keeps it.

    Attributes:
        path: The file, as it was given.
    """

    def __init__(self, file_name: str, world_size: int = -1, *, timeout: Timeout = DEFAULT_TIMEOUT) -> None:
        self.path, self._timeout_s = file_name, to_seconds(timeout)
        self._world_size = world_size = to_int64(world_size, "the world size")
        self._log = Log(file_name)
        with self._log.writing(Deadline(self._timeout_s)) as (values, records):
            records.append((USERS, b"%d" % added(USERS, values.get(USERS), 1)))
        weakref.finalize(self, when_unlocked, partial(_leave, self._log, world_size, os.getpid()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {self._world_size})"

    def set(self, key: Key, value: Value, /) -> None:
        """As `Store.set`."""
        self.multi_set([key], [value])

    def multi_set(self, keys: Iterable[Key], values: Iterable[Value], /) -> None:
        """As `Store.multi_set`."""
        pairs = to_pairs(_names(keys), values)
        with self._writing() as (_, records):
            records.extend(pairs)

    def append(self, key: Key, value: Value, /) -> None:
        """Store the value behind the one that is there; the file grows by the whole of it."""
        name, content = _name(key), to_bytes(value, "value")
        with self._writing() as (values, records):
            records.append((name, values.get(name, b"") + content))

    def add(self, key: Key, amount: int, /) -> int:
        """As `Store.add`.

        Raises:
            ValueError: What is stored is no decimal number, or the sum is outside of 64 bits; nothing was stored.
        """
        name = _name(key)
        with self._writing() as (values, records):
            number = added(key, values.get(name), amount)
            records.append((name, b"%d" % number))
        return number

    def compare_set(self, key: Key, expected: Value, desired: Value, /) -> bytes:
        """As `Store.compare_set`."""
        name, wanted, content = _name(key), to_bytes(expected, "value"), to_bytes(desired, "value")
        with self._writing() as (values, records):
            stored = values.get(name)
            if stored != wanted and (stored is not None or wanted):
                return wanted if stored is None else stored
            records.append((name, content))
        return content

    def delete_key(self, key: Key, /) -> bool:
        """As `Store.delete_key`."""
        name = _name(key)
        with self._writing() as (values, records):
            if name not in values:
                return False
            records.append((b"-" + name, b""))
        return True

    def check(self, keys: Iterable[Key], /) -> bool:
        """As `Store.check`."""
        names = _names(keys)
        with self._reading() as values:
            return all(name in values for name in names)

    def num_keys(self) -> int:
        """How many keys there are, the store's two counters among them."""
        with self._reading() as values:
            return len(values)

    def list_keys(self) -> list[str]:
        """The users' keys; one that is no UTF-8 comes with surrogate escapes."""
        with self._reading() as values:
            return [to_text(name[1:]) for name in values if name.startswith(b"/")]

    def get(self, key: Key, /) -> bytes:
        """The value of a key, waiting for it if need be.

        Raises:
            StoreTimeoutError: It did not appear in time.
        """
        return self._get([_name(key)], self._timeout_s)[0]

    def multi_get(self, keys: Iterable[Key], /) -> list[bytes]:
        """The values of the keys at one moment, waiting for all of them if need be.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
        """
        return self._get(_names(keys), self._timeout_s)

    def wait(self, keys: Iterable[Key], timeout: Timeout | None = None, /) -> None:
        """Wait until all the keys are there at one moment.

        Raises:
            StoreTimeoutError: Not all appeared in time; the error names the missing ones.
        """
        self._get(_names(keys), self._timeout_s if timeout is None else to_seconds(timeout))

    def clone(self) -> FileStore:
        """Another store on the file, counted like this one, with a timeout of its own."""
        return FileStore(self.path, self._world_size, timeout=self._timeout_s)

    def _get(self, names: list[bytes], timeout_s: float) -> list[bytes]:
        deadline = Deadline(timeout_s)
        missing = names
        for _ in looks(_LOOK_PAUSE_S_MIN, _LOOK_PAUSE_S_MAX, deadline):
            with self._log.reading(deadline) as values:
                missing = [name for name in names if name not in values]
                if not missing:
                    return [values[name] for name in names]
        raise deadline.missed([name[1:] for name in missing], f"still missing in the store in {self.path}")

    def _reading(self) -> AbstractContextManager[dict[bytes, bytes]]:
        return self._log.reading(Deadline(self._timeout_s))

    def _writing(self) -> AbstractContextManager[tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]]:
        return self._log.writing(Deadline(self._timeout_s))


def _name(key: Key) -> bytes:
    return b"/" + to_bytes(key)


def _names(keys: Iterable[Key]) -> list[bytes]:
    return [_name(key) for key in many(keys)]


def _leave(log: Log, world_size: int, pid: int) -> None:
    """The object is gone: count that, and remove the file behind the last one of the world."""
    if os.getpid() != pid or not os.path.exists(log.path):  # noqa: PTH110 -- pathlib takes 3 ms to import
        return
    try:
        with log.writing(Deadline(_LEAVE_S)) as (values, records):
            users = added(USERS, values.get(USERS), -1)
            leavers = added(LEAVERS, values.get(LEAVERS), 1)
            if users == 0 and 0 <= world_size <= leavers:
                os.unlink(log.path)  # noqa: PTH108
            else:
                records.extend([(LEAVERS, b"%d" % leavers), (USERS, b"%d" % users)])
    except (DistError, ValueError) as error:
        logger.warning("a store on %s could not be counted out: %s", log.path, error)
