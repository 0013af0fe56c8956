"""What a whole store means, in lists and loops: slow, and easy to believe. A store's core is judged by it.

It is given the same requests as the core, in the same order, and says what each client must be sent, who is let go, and
who is told by what others did. Written from the protocol, not from the core's code, whose limits and commands it knows
by name alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.keyspace import ENTRY_BYTES, QUEUE_BYTES, WAITED_BYTES
from rdzv.core.wire import I64, STOP_WAITING, U32, U64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdzv.core.wire import Limits, Reply

PAUSE_BYTES = 1 << 20  # unread replies beyond this: what is asked after the next that has one waits
DIGITS_MAX = 4000  # of what counts as a number


class RefusedError(Exception):
    """The request ends the connection that sent it."""


class Reference:
    """A store, and what it owes to whom.

    Attributes:
        owed: For each client the bytes that it must be sent and was not yet.
        woken: Who was told something by what others did, since this was last cleared.
        validated: Who has shown that it speaks the protocol.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.owed: dict[str, bytearray] = {}
        self.woken: list[str] = []
        self.validated: set[str] = set()
        self._values: dict[bytes, bytes] = {}
        self._counted: set[bytes] = set()  # whose numbers were not looked at since: they occupy no more than an entry
        self._queues: dict[bytes, list[bytes]] = {}
        self._waits: list[tuple[str, set[bytes]]] = []  # who waits, for what it still lacks, in order of asking
        self._grants: list[tuple[str, bytes]] = []  # who was woken by a push, for which queue, and did nothing since

    @property
    def stored_bytes(self) -> int:
        """What keys, values and queued items occupy."""
        entries = [(key, b"" if key in self._counted else value) for key, value in self._values.items()]
        entries += [(key, item) for key, items in self._queues.items() for item in items]
        queues = sum(map(bool, self._queues.values()))
        return sum(len(key) + len(value) + ENTRY_BYTES for key, value in entries) + queues * QUEUE_BYTES

    def waiting_bytes_of(self, client: str) -> int:
        """What the client's parked wait occupies."""
        return sum(len(key) + WAITED_BYTES for key in self.lacking(client))

    def lacking(self, client: str) -> list[bytes]:
        """What the client waits for, in order."""
        return sorted(key for who, keys in self._waits if who == client for key in keys)

    def is_granted(self, client: str) -> bool:
        """Whether a push has woken the client, which has done nothing since."""
        return any(who == client for who, _ in self._grants)

    def apply(self, client: str, op: int, fields: Reply | Sequence[bytes]) -> bool:
        """Take one request; whether it is answered at once.

        Raises:
            RefusedError: It is refused, and nothing has come of it.
        """
        if op != wire.QUEUE_POP:  # whatever comes of it: it has done something else
            self._settle(client)
        if (op == wire.VALIDATE) == (client in self.validated):
            raise RefusedError
        reply = getattr(self, f"_{wire.COMMANDS[op]}")(client, *fields)
        self.owed[client] += reply
        return bool(reply)

    def forget(self, client: str) -> None:
        """It waits no more."""
        self._waits = [wait for wait in self._waits if wait[0] != client]
        self._settle(client)

    # What is stored

    def _validate(self, client: str, magic: int) -> bytes:
        if magic != wire.MAGIC:
            raise RefusedError
        self.validated.add(client)
        return b""

    def _set(self, _: str, key: bytes, value: bytes) -> bytes:
        self._need_room(self._growth(key, value))
        self._store(key, value)
        return b""

    def _compare_set(self, _: str, key: bytes, expected: bytes, desired: bytes) -> bytes:
        self._need_room(self._growth(key, desired))
        self._counted.discard(key)
        stored = self._values.get(key)
        if stored == expected or (stored is None and not expected):
            self._store(key, desired)
            return _value(desired)
        return _value(expected if stored is None else stored)

    def _get(self, _: str, key: bytes) -> bytes:
        self._counted.discard(key)
        return _value(self._values.get(key, b""))

    def _add(self, _: str, key: bytes, amount: int) -> bytes:
        self._need_room(self._growth(key))
        number = self._count(key, amount)
        self._tell_all(key)
        return I64.pack(number)

    def _check(self, _: str, *keys: bytes) -> bytes:
        return wire.READY if all(map(self._is_there, keys)) else wire.NOT_READY

    def _getnumkeys(self, _: str) -> bytes:
        return I64.pack(len(self._values))

    def _delete_key(self, _: str, key: bytes) -> bytes:
        return I64.pack(self._values.pop(key, None) is not None)

    def _append(self, _: str, key: bytes, value: bytes) -> bytes:
        whole = self._values.get(key, b"") + value
        self._need_room(self._growth(key, whole))
        self._can_be_read([whole])
        self._store(key, whole)
        return b""

    def _multi_get(self, _: str, *keys: bytes) -> bytes:
        self._counted.difference_update(keys)
        values = [self._values.get(key, b"") for key in keys]
        self._can_be_read(values)
        return b"".join(map(_value, values))

    def _multi_set(self, _: str, *items: bytes) -> bytes:
        pairs = list(zip(items[::2], items[1::2], strict=True))
        self._need_room(sum(self._growth(key, value) for key, value in pairs))
        for key, value in pairs:
            self._store(key, value)
        return b""

    def _ping(self, _: str, nonce: int) -> bytes:
        return U32.pack(nonce)

    def _list_keys(self, _: str) -> bytes:
        self._can_be_read([*self._values])
        return I64.pack(len(self._values)) + b"".join(map(_value, self._values))

    # Queues

    def _queue_push(self, _: str, key: bytes, value: bytes) -> bytes:
        queue_bytes = 0 if self._queues.get(key) else QUEUE_BYTES
        self._need_room(len(key) + len(value) + ENTRY_BYTES + queue_bytes)
        self._queues.setdefault(key, []).append(value)
        self._offer(key)
        return b""

    def _queue_pop(self, client: str, key: bytes) -> bytes:
        items = self._queues.get(key, [])
        length = len(items)
        answer = I64.pack(length) + (_value(items.pop(0)) if items else b"")
        if length == 1:
            del self._queues[key]
        self._settle(client)
        granted = [grant for grant in self._grants if grant[1] == key]
        if len(granted) > len(items):
            self._grants.remove(granted[0])
        return answer

    def _queue_len(self, _: str, key: bytes) -> bytes:
        return I64.pack(len(self._queues.get(key, [])))

    # Waits

    def _wait(self, client: str, *keys: bytes) -> bytes:
        self.forget(client)
        lacking = {key for key in keys if not self._is_there(key)}
        if not lacking:
            return STOP_WAITING
        self._waits.append((client, lacking))
        return b""

    def _barrier(self, client: str, key: bytes, world_size: int) -> bytes:
        self._need_room(self._growth(key))
        count = self._count(key, 1)
        self.forget(client)
        if count < world_size:
            self._waits.append((client, {key}))
            return b""
        self._tell_all(key)
        return STOP_WAITING

    def _cancel_wait(self, client: str) -> bytes:
        self.forget(client)
        return wire.WAIT_CANCELED

    # Inside

    def _is_there(self, key: bytes) -> bool:
        return key in self._values or key in self._queues

    def _store(self, key: bytes, value: bytes) -> None:
        self._values[key] = value
        self._counted.discard(key)
        self._tell_all(key)

    def _count(self, key: bytes, amount: int) -> int:
        number = re.match(rb"[ \t\n\v\f\r]*([+-]?[0-9]+)", self._values.get(key, b"0"))
        if not number or len(number[1]) > DIGITS_MAX or not -(2**63) <= int(number[1]) < 2**63:
            raise RefusedError
        total = (int(number[1]) + amount + 2**63) % 2**64 - 2**63
        self._values[key] = b"%d" % total
        self._counted.add(key)
        return total

    def _tell_all(self, key: bytes) -> None:
        """The key has a value: all who lacked it do so no more."""
        for wait in list(self._waits):
            if key in wait[1]:
                self._tell(wait, key)

    def _tell(self, wait: tuple[str, set[bytes]], key: bytes) -> bool:
        client, lacking = wait
        lacking.remove(key)
        if lacking:
            return False
        self._waits.remove(wait)
        self.owed[client] += STOP_WAITING
        self.woken.append(client)
        return True

    def _offer(self, key: bytes) -> None:
        """An item of the queue is free: the first whom it completes is woken for it."""
        for wait in list(self._waits):
            if key in wait[1] and self._tell(wait, key):
                self._grants.append((wait[0], key))
                return

    def _settle(self, client: str) -> None:
        for grant in [grant for grant in self._grants if grant[0] == client]:
            self._grants.remove(grant)
            if len(self._queues.get(grant[1], [])) > [key for _, key in self._grants].count(grant[1]):
                self._offer(grant[1])

    def _growth(self, key: bytes, value: bytes = b"") -> int:
        """How many bytes more are occupied with that value at the key; a number has none beside its entry."""
        if key not in self._values:
            return len(key) + len(value) + ENTRY_BYTES
        return len(value) - (0 if key in self._counted else len(self._values[key]))

    def _need_room(self, growth: int) -> None:
        if growth > 0 and self.stored_bytes + growth > self.limits.stored_bytes_max:
            raise RefusedError

    def _can_be_read(self, values: Sequence[bytes]) -> None:
        if sum(map(len, values)) > self.limits.reply_bytes_max:
            raise RefusedError


def _value(value: bytes) -> bytes:
    return U64.pack(len(value)) + value
