"""The store's core against a plain model of it: any operations in any order, the same answers and the same wake-ups."""

from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rdzv.core.keyspace import ENTRY_BYTES, INT64_MAX, INT64_MIN, QUEUE_BYTES, WAITED_BYTES, Keyspace, NotANumberError

KEYS = st.sampled_from([b"", b"a", b"b", b"long key"])
VALUES = st.sampled_from([b"", b"1", b" -7x", b"text"])
WAITERS = st.sampled_from("WXYZ")


class Model:
    """The same in lists and loops: slow, and easy to believe."""

    def __init__(self):
        self.values = {}
        self.queues = {}
        self.waits = []  # (waiter, keys still lacking, its command), in order of asking
        self.grants = []  # (waiter, queue): woken by a push, and has not done anything since
        self.woken = []

    def has(self, key):
        return key in self.values or bool(self.queues.get(key))

    def store(self, key, value):
        self.values[key] = value
        self.see(key)

    def see(self, key):
        for wait in list(self.waits):
            if key in wait[1]:
                wait[1].remove(key)
                if not wait[1]:
                    self.waits.remove(wait)
                    self.woken.append(wait[0])

    def count(self, key, delta):
        text = self.values.get(key, b"0").decode().lstrip(" ")
        digits = ""
        for char in text:
            if not char.isdigit() and not (char == "-" and not digits):
                break
            digits += char
        if digits in ("", "-") or not INT64_MIN <= int(digits) <= INT64_MAX:
            raise NotANumberError
        number = (int(digits) + delta + 2**63) % 2**64 - 2**63
        self.values[key] = str(number).encode()
        return number

    def offer(self, key):
        """An item of the queue is free: the first whom it completes is woken for it."""
        for wait in list(self.waits):
            if key in wait[1]:
                wait[1].remove(key)
                if not wait[1]:
                    self.waits.remove(wait)
                    self.woken.append(wait[0])
                    self.grants.append((wait[0], key))
                    return

    def settle(self, waiter):
        for grant in list(self.grants):
            if grant[0] == waiter:
                self.grants.remove(grant)
                if len(self.queues.get(grant[1], [])) > [queue for _, queue in self.grants].count(grant[1]):
                    self.offer(grant[1])

    def leave(self, waiter):
        self.waits = [wait for wait in self.waits if wait[0] != waiter]
        self.settle(waiter)

    def pop(self, key, waiter):
        items = self.queues.get(key, [])
        answer = (len(items), items.pop(0)) if items else (0, b"")
        self.settle(waiter)
        meant = [grant for grant in self.grants if grant[1] == key]
        if len(meant) > len(items):
            self.grants.remove(meant[0])
        return answer


class KeyspaceMachine(RuleBasedStateMachine):
    """Every operation in any order by any waiter: the same answers, the same ones woken in the same order."""

    def __init__(self):
        super().__init__()
        self.woken = []
        self.keyspace, self.model = Keyspace(self.woken.append), Model()

    @rule(key=KEYS)
    def get(self, key):
        assert self.keyspace.get(key) == self.model.values.get(key)
        assert type(self.keyspace.get(key)) in (bytes, type(None))

    @rule(key=KEYS, value=VALUES)
    def set(self, key, value):
        self.keyspace.set(key, value)
        self.model.store(key, value)

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=3))
    def multi_set(self, pairs):
        self.keyspace.multi_set([item for pair in pairs for item in pair])
        for key, value in pairs:
            self.model.store(key, value)

    @rule(key=KEYS, value=VALUES)
    def append(self, key, value):
        self.keyspace.append(key, value)
        self.model.store(key, self.model.values.get(key, b"") + value)

    @rule(key=KEYS, delta=st.sampled_from([0, 1, -5, INT64_MAX, INT64_MIN]))
    def add(self, key, delta):
        try:
            expected = self.model.count(key, delta)
        except NotANumberError:
            with pytest.raises(NotANumberError):
                self.keyspace.add(key, delta)
        else:
            self.model.see(key)
            assert self.keyspace.add(key, delta) == expected

    @rule(key=KEYS, expected=VALUES, desired=VALUES)
    def compare_set(self, key, expected, desired):
        stored = self.model.values.get(key)
        answer = self.keyspace.compare_set(key, expected, desired)
        if stored == expected or (stored is None and not expected):
            assert answer == desired
            self.model.store(key, desired)
        else:
            assert answer == (expected if stored is None else stored)

    @rule(key=KEYS)
    def delete(self, key):
        assert self.keyspace.delete(key) == (self.model.values.pop(key, None) is not None)

    @rule(keys=st.lists(KEYS, max_size=3))
    def check(self, keys):
        assert self.keyspace.has(keys) == all(map(self.model.has, keys))

    @rule(key=KEYS, value=VALUES)
    def push(self, key, value):
        self.keyspace.push(key, value)
        self.model.queues.setdefault(key, []).append(value)
        self.model.offer(key)

    @rule(key=KEYS, waiter=WAITERS | st.none())
    def pop(self, key, waiter):
        assert self.keyspace.pop(key, waiter) == self.model.pop(key, waiter)

    @rule(waiter=WAITERS, keys=st.lists(KEYS, max_size=3))
    def wait(self, waiter, keys):
        lacking = {key for key in keys if not self.model.has(key)}
        self.model.leave(waiter)
        if lacking:
            self.model.waits.append((waiter, lacking, "WAIT"))
        assert self.keyspace.wait(waiter, keys) == (not lacking)

    @rule(waiter=WAITERS, key=KEYS, world_size=st.integers(-1, 3))
    def barrier(self, waiter, key, world_size):
        try:
            count = self.model.count(key, 1)
        except NotANumberError:
            with pytest.raises(NotANumberError):
                self.keyspace.barrier(waiter, key, world_size)
            return
        self.model.leave(waiter)
        if count >= world_size:
            self.model.see(key)
        else:
            self.model.waits.append((waiter, {key}, "BARRIER"))
        assert self.keyspace.barrier(waiter, key, world_size) == (count >= world_size)

    @rule(waiter=WAITERS)
    def forget(self, waiter):
        self.keyspace.forget(waiter)
        self.model.leave(waiter)

    @rule(waiter=WAITERS)
    def settle(self, waiter):
        self.keyspace.settle(waiter)
        self.model.settle(waiter)

    @invariant()
    def the_same_were_woken(self):
        assert self.woken == self.model.woken
        waiting = {waiter for waiter, _, _ in self.model.waits}
        assert {waiter for waiter in "WXYZ" if self.keyspace.is_waiting(waiter)} == waiting

    @invariant()
    def the_same_is_stored(self):
        values, queues = self.model.values, self.model.queues
        assert sorted(self.keyspace.keys()) == sorted(values)
        assert len(self.keyspace) == len(values)
        for key in [b"", b"a", b"b", b"long key"]:
            assert self.keyspace.queue_length(key) == len(queues.get(key, []))
            assert self.keyspace.value_length(key) == len(values.get(key, b""))
        pairs = [*values.items(), *((key, item) for key, items in queues.items() for item in items)]
        whole = sum(len(key) + len(value) + ENTRY_BYTES for key, value in pairs)
        whole += QUEUE_BYTES * sum(map(bool, queues.values()))
        texts = sum(len(value) for value in values.values() if value.lstrip(b"-").isdigit())
        assert whole - texts <= self.keyspace.stored_bytes <= whole, "a number may have no text while it is counted up"

    def teardown(self):
        """Once all is read, all is counted."""
        for key in self.model.values:
            self.keyspace.get(key)
        pairs = [
            *self.model.values.items(),
            *((key, item) for key, items in self.model.queues.items() for item in items),
        ]
        whole = sum(len(key) + len(value) + ENTRY_BYTES for key, value in pairs)
        whole += QUEUE_BYTES * sum(map(bool, self.model.queues.values()))
        assert self.keyspace.stored_bytes == whole

    @invariant()
    def what_waits_occupy_is_counted(self):
        waits = {waiter: sum(len(key) + WAITED_BYTES for key in lacking) for waiter, lacking, _ in self.model.waits}
        assert self.keyspace.waiting_bytes == sum(waits.values())
        assert all(self.keyspace.waiting_bytes_of(waiter) == waits.get(waiter, 0) for waiter in "WXYZ")

    @invariant()
    def no_item_lies_idle_while_somebody_waits_for_nothing_else(self):
        """A lost wake-up is what this store must never have (E3): each item has one who was told of it."""
        for key, items in self.model.queues.items():
            told = [queue for _, queue in self.model.grants].count(key)
            assert told <= len(items)
            if any((lacking, command) == ({key}, "WAIT") for _, lacking, command in self.model.waits):
                assert told == len(items)


TestKeyspace = KeyspaceMachine.TestCase
TestKeyspace.settings = settings(max_examples=150, stateful_step_count=40)
