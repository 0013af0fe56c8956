"""The thread that beats for a member of a round, and what its caller is told meanwhile."""

from __future__ import annotations

import threading

from rdzv import HashStore
from rdzv.c10d import C10dRendezvousBackend
from rdzv.core.documents import Assignment, Keys, Record, Settings
from rdzv.core.join import Member
from rdzv.core.tend import Membership
from rdzv.driver import Driver
from rdzv.tending import Tending

LONG_S = 60.0  # for a busy machine


class SlowStore(HashStore):
    """A store that answers nobody's beat until it may, and says when it was first asked to take one."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked, self.may_answer = threading.Event(), threading.Event()

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """As ever, in time."""
        if "/beat/" in key:
            self.was_asked.set()
            assert self.may_answer.wait(LONG_S)
        return super().compare_set(key, expected, desired)


def test_who_was_given_up_before_the_first_beat_hears_of_it_at_the_first_call() -> None:
    """It may have been held up for long between its last beat in the lobby and the first one in the round."""
    store, keys = SlowStore(), Keys("job", 0)
    record = Record("node1", "token", "127.0.0.1", 1)
    member = Member(keys, 2, record, beat=7, assignment=Assignment(0, 1, 2, "127.0.0.1", 1, ()))
    store.set(keys.key("beat", 2).decode(), "lost: node0 saw no sign of life for 10 s")
    driver = Driver(store, C10dRendezvousBackend(store, "job"), LONG_S)
    tending = Tending(Membership(member, Settings(2, 2, heartbeat_s=LONG_S), "job"), driver)
    tending.start()
    told: list[str] = []

    def ask() -> None:
        tending.catch_up()
        told.append(tending.membership.evicted)

    caller = threading.Thread(target=ask)
    caller.start()
    assert store.was_asked.wait(LONG_S)
    store.may_answer.set()
    caller.join(LONG_S)
    assert told == ["node0 saw no sign of life for 10 s"]
