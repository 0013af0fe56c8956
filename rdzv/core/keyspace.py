"""What the store means: values, queues, waits, and who is woken when.

A *waiter* is any hashable token that stands for somebody who waits; it waits for one thing at a time. The keyspace
answers at once, always; a wait that cannot be answered is parked, and its waiter is handed to ``wake`` when it is over.
Nothing here has a deadline: whoever waits cancels.

Differences from torch's server, all on purpose, and none that its clients can stumble over:

* A waiter is woken only by what it waits for: not by a COMPARE_SET that stored nothing, nor by an earlier, forgotten
  wait. A new wait replaces the old one whole.
* A key counts as there if it has a value or names a queue that is not empty, for CHECK and for WAIT alike.
* A push wakes one waiter, and makes sure that the item is taken: if the one woken does something else first, or goes
  away, the next one is woken in its place. So of all who wait in one queue, no more are woken than it has items.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

ENTRY_BYTES = 128  # what an entry costs beside its key and value, about: two objects and a slot in a dict; or a number
QUEUE_BYTES = 720  # what a queue costs beside its items, about: it has room for 64 of them from the first one on
WAITED_BYTES = 320  # what it costs, beside the key, that somebody waits for one, about: each is noted with the other
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_NUMBER = re.compile(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)")


class NotANumberError(ValueError):
    """An ADD or a BARRIER met a value that does not begin with a number of 64 bits."""


def parse_number(value: bytes | bytearray) -> int:
    """The number that a value stands for, read as C's strtoll reads it in base 10.

    Raises:
        NotANumberError: No digits come first, or the number is outside of 64 bits.
    """
    if len(value) < 19 and value.isdigit():
        return int(value)
    match = _NUMBER.match(value)
    if match is None or len(match[1]) > 4000:  # int() refuses more digits than that anyway
        raise NotANumberError(f"{bytes(value[:40])!r} does not begin with a number")
    number = int(match[1])
    if not INT64_MIN <= number <= INT64_MAX:
        raise NotANumberError(f"{bytes(value[:40])!r} is outside of 64 bits")
    return number


def wrap_int64(number: int) -> int:
    """The number as 64 bits hold it: sums wrap around, as in C."""
    return ((number - INT64_MIN) & 0xFFFF_FFFF_FFFF_FFFF) + INT64_MIN


def _size(value: bytes | bytearray | int) -> int:
    """What a value occupies, in bytes; a number no more than its entry."""
    return 0 if isinstance(value, int) else len(value)


class Keyspace:
    """Keys and queues of one store, and those who wait for them.

    Attributes:
        granted: Who was woken by a push, and the queue whose item is meant for it; while it is empty, `settle` has
            nothing to do.
        stored_bytes: What all keys, values and queued items occupy, about, in bytes.
        waiting_bytes: What all parked waits occupy, about, in bytes.
    """

    __slots__ = (
        "_queues",
        "_shares",
        "_values",
        "_waiters",
        "_waits",
        "_wake",
        "granted",
        "stored_bytes",
        "waiting_bytes",
    )

    def __init__(self, wake: Callable[[Hashable], None]) -> None:
        """An empty keyspace.

        Args:
            wake: Is called with each waiter whose wait is over, while the operation that ended it runs. It must not
                call back into the keyspace.
        """
        self._wake = wake
        # A value is bytes; but a bytearray if it was appended to and not read since, and a number if it was counted up.
        self._values: dict[bytes, bytes | bytearray | int] = {}
        self._queues: dict[bytes, deque[bytes]] = {}
        self._waits: dict[Hashable, Collection[bytes]] = {}  # waiter -> the keys that it still lacks; a set, if several
        self._shares: dict[Hashable, int] = {}  # waiter -> what its wait occupies, in bytes
        self._waiters: dict[bytes, dict[Hashable, None]] = {}  # key -> who lacks it, in order of asking
        self.granted: dict[Hashable, bytes] = {}
        self.stored_bytes = 0
        self.waiting_bytes = 0

    # Values

    def get(self, key: bytes) -> bytes | None:
        """The value, or ``None`` if there is none."""
        value = self._values.get(key)
        if value is None or type(value) is bytes:
            return value
        text = b"%d" % value if type(value) is int else bytes(value)
        self.stored_bytes += len(text) - _size(value)
        self._values[key] = text
        return text

    def set(self, key: bytes, value: bytes) -> None:
        """Store a value and wake who waits for the key."""
        self._put(key, self._values.get(key), value)

    def _put(self, key: bytes, former: bytes | bytearray | int | None, value: bytes) -> None:
        """As `set`, for who knows already what is there."""
        if type(former) is bytes:
            self.stored_bytes += len(value) - len(former)
        else:
            self.stored_bytes += len(value) + (len(key) + ENTRY_BYTES if former is None else -_size(former))
        self._values[key] = value
        if key in self._waiters:
            self._notify(key)

    def multi_set(self, items: Sequence[bytes]) -> None:
        """Store key, value, key, value, ... at once."""
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.set(key, value)

    def append(self, key: bytes, value: bytes) -> None:
        """Store the value behind the one that is there."""
        former = self._values.get(key)
        if former is None:
            self.set(key, value)
            return
        if type(former) is not bytearray:
            former = self._values[key] = bytearray(self.get(key) or b"")
        former += value  # in place: many small pieces must not cost the square of their number
        self.stored_bytes += len(value)
        self._notify(key)

    def add(self, key: bytes, delta: int) -> int:
        """Add to the number at the key, 0 if missing, and return the sum.

        Raises:
            NotANumberError: The value there is no number; it is left alone.
        """
        former = self._values.get(key)
        if type(former) is int and INT64_MIN <= (number := former + delta) <= INT64_MAX:  # nearly always
            self._values[key] = number
        else:
            number = self._count(key, delta)
        if key in self._waiters:
            self._notify(key)
        return number

    def compare_set(self, key: bytes, expected: bytes, desired: bytes) -> bytes:
        """Store ``desired`` if the value is ``expected``, or ``b""`` was expected and there is none; what to answer."""
        stored = self._values.get(key)
        if type(stored) is not bytes and stored is not None:
            stored = self.get(key)
        if stored is None:
            if expected:
                return expected
        elif stored != expected:
            return stored
        self._put(key, stored, desired)
        return desired

    def delete(self, key: bytes) -> bool:
        """Forget a value; false if there was none. Takes nothing back from who waits."""
        value = self._values.pop(key, None)
        if value is None:
            return False
        self.stored_bytes -= len(key) + _size(value) + ENTRY_BYTES
        return True

    def has(self, keys: Iterable[bytes]) -> bool:
        """Whether each of the keys has a value or names a queue that is not empty."""
        values, queues = self._values, self._queues
        for key in keys:  # noqa: SIM110 -- for one key, the generator that all() needs costs more than the look-ups
            if key not in values and key not in queues:
                return False
        return True

    def value_length(self, key: bytes) -> int:
        """How many bytes the value has; 0 if there is none."""
        value = self._values.get(key, b"")
        return len(b"%d" % value) if isinstance(value, int) else len(value)

    def growth(self, key: bytes, size: int) -> int:
        """How many bytes more than now a value of that size at the key would occupy, about; less than 0 for fewer."""
        former = self._values.get(key)
        return len(key) + size + ENTRY_BYTES if former is None else size - _size(former)

    def keys(self) -> list[bytes]:
        """All keys that have a value, in the order in which they came."""
        return list(self._values)

    def __len__(self) -> int:
        return len(self._values)

    # Queues: a name space beside the keys. A queue exists while it is not empty.

    def push(self, key: bytes, value: bytes) -> None:
        """Put a value at the end of a queue, and wake one who waits for it."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            self.stored_bytes += QUEUE_BYTES
        queue.append(value)
        self.stored_bytes += len(key) + len(value) + ENTRY_BYTES
        self._grant(key)

    def pop(self, key: bytes, waiter: Hashable = None) -> tuple[int, bytes]:
        """How many items the queue held, and the first, now taken; ``(0, b"")`` if it was empty.

        Args:
            key: The queue's name.
            waiter: Who takes it. If a push woke it, that is done with.
        """
        queue = self._queues.get(key)
        length, value = 0, b""
        if queue is not None:
            length, value = len(queue), queue.popleft()
            self.stored_bytes -= len(key) + len(value) + ENTRY_BYTES
            if not queue:
                del self._queues[key]
                self.stored_bytes -= QUEUE_BYTES
        if self.granted:
            self.settle(waiter)
            self._revoke(key)
        return length, value

    def queue_length(self, key: bytes) -> int:
        """How many items the queue holds."""
        return len(self._queues.get(key, ()))

    # Waits

    def wait(self, waiter: Hashable, keys: Collection[bytes]) -> bool:
        """Whether all the keys are there; if not, the waiter is parked, in place of what it waited for before.

        A key counts once it was seen, even if it is deleted before the others come.
        """
        if self._waits or self.granted:
            self.forget(waiter)
        if self.has(keys):
            return True
        if len(keys) > 1:
            keys = {key for key in keys if key not in self._values and key not in self._queues}
        self._park(waiter, keys)
        return False

    def barrier(self, waiter: Hashable, key: bytes, world_size: int) -> bool:
        """Count an arrival at the key; true, with all its waiters woken, if the world is complete, else park.

        Raises:
            NotANumberError: The value at the key is no number; it is left alone.
        """
        complete = self._count(key, 1) >= world_size
        self.forget(waiter)
        if complete:
            self._notify(key)
        else:
            self._park(waiter, {key})
        return complete

    def is_waiting(self, waiter: Hashable) -> bool:
        """Whether the waiter is parked."""
        return waiter in self._waits

    def lacking(self, waiter: Hashable) -> list[bytes]:
        """The keys that the waiter is parked for, in order."""
        return sorted(self._waits.get(waiter, ()))

    def waiting_bytes_of(self, waiter: Hashable) -> int:
        """What the waiter's parked wait occupies, about, in bytes."""
        return self._shares.get(waiter, 0)

    def forget(self, waiter: Hashable) -> None:
        """End the waiter's wait, if any, without waking it; an item that was meant for it goes to the next."""
        lacking = self._waits.pop(waiter, None)
        if lacking is not None:
            self.waiting_bytes -= self._shares.pop(waiter)
            for key in lacking:
                self._drop_waiter(key, waiter)
        self.settle(waiter)

    def forget_all(self) -> None:
        """End every wait without waking anybody: of a process that has been forked, those who waited are not here."""
        for waits in (self._waits, self._shares, self._waiters, self.granted):
            waits.clear()
        self.waiting_bytes = 0

    def settle(self, waiter: Hashable) -> None:
        """The waiter has done what a push woke it for, or will not: an item that nobody takes now goes to the next."""
        if self.granted:
            key = self.granted.pop(waiter, None)
            if key is not None and self.queue_length(key) > self._grants(key):
                self._grant(key)

    # Inside

    def _grants(self, key: bytes) -> int:
        return list(self.granted.values()).count(key)

    def _revoke(self, key: bytes) -> None:
        """An item was taken, perhaps one that was meant for somebody else: then nothing is left to pass on for that."""
        if self._grants(key) > self.queue_length(key):
            robbed = next(waiter for waiter, granted in self.granted.items() if granted == key)
            del self.granted[robbed]

    def _count(self, key: bytes, delta: int) -> int:
        former = self._values.get(key)
        if not isinstance(former, int):  # counted for the first time since it was read or written
            text, former = former, 0
            if text is None:
                self.stored_bytes += len(key) + ENTRY_BYTES
            else:
                former = parse_number(text)
                self.stored_bytes -= len(text)
        number = former + delta
        if not INT64_MIN <= number <= INT64_MAX:
            number = wrap_int64(number)
        self._values[key] = number
        return number

    def _park(self, waiter: Hashable, lacking: Collection[bytes]) -> None:
        self._waits[waiter] = lacking
        share = self._shares[waiter] = sum(map(len, lacking)) + WAITED_BYTES * len(lacking)
        self.waiting_bytes += share
        for key in lacking:
            self._waiters.setdefault(key, {})[waiter] = None

    def _drop_waiter(self, key: bytes, waiter: Hashable) -> None:
        waiters = self._waiters[key]
        del waiters[waiter]
        if not waiters:
            del self._waiters[key]

    def _complete(self, waiters: Iterable[Hashable], key: bytes) -> list[Hashable]:
        """These lack the key no more: those of them whose wait is over with that. Hot: a thousand may wait for one."""
        waits, shares, share = self._waits, self._shares, len(key) + WAITED_BYTES
        complete: list[Hashable] = []
        for waiter in waiters:
            lacking = waits[waiter]
            self.waiting_bytes -= share
            if len(lacking) == 1:
                del waits[waiter], shares[waiter]
                complete.append(waiter)
            else:
                assert isinstance(lacking, set)
                lacking.remove(key)
                shares[waiter] -= share
        return complete

    def _notify(self, key: bytes) -> None:
        """The key has a value: it counts for everybody who lacked it."""
        for waiter in self._complete(self._waiters.pop(key, ()), key):
            self._wake(waiter)

    def _grant(self, key: bytes) -> None:
        """The queue has an item: wake the first whom this completes; for those who lack other keys too, it counts."""
        for waiter in list(self._waiters.get(key, ())):
            self._drop_waiter(key, waiter)
            if self._complete([waiter], key):
                self.granted[waiter] = key
                self._wake(waiter)
                return
