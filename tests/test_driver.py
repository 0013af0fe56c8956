"""What carries out the elastic flows, on a store whose host dies and is there again, empty."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from rdzv import DistNetworkError, HashStore, StoreServer, TCPStore
from rdzv.c10d import C10dRendezvousBackend
from rdzv.core.effects import ReadHead, StoreGoneError
from rdzv.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 60.0  # for a busy machine


@contextmanager
def restarted_under(uses: Callable[[TCPStore], object]) -> Iterator[tuple[TCPStore, Driver]]:
    """A store that somebody has used so, and a driver that was given it, and has found its server again since."""
    with StoreServer("127.0.0.1") as server:
        given = TCPStore("127.0.0.1", server.port, timeout=TIMEOUT_S)
        driver = Driver(given, C10dRendezvousBackend(given, "run"), TIMEOUT_S)
        assert read_head(driver) is None
        uses(given)
    with StoreServer("127.0.0.1", server.port):
        assert isinstance(read_head(driver), DistNetworkError)
        yield given, driver
        driver.close()
        given.close()


def read_head(driver: Driver) -> object:
    """The answer of the driver's store: the job's document, ``None`` for none, or why there is no answer."""
    answer = driver.answer(ReadHead(time.monotonic() + TIMEOUT_S), threading.Event())
    return answer if isinstance(answer, DistNetworkError | None) else answer[0]


def test_who_was_given_a_store_as_well_hears_that_it_was_lost() -> None:
    """Each of its users, at every call: what it had written is not there, and what it waits for never comes."""
    with restarted_under(lambda store: store.set("mine", "x")) as (given, driver):
        with pytest.raises(DistNetworkError, match="'/mine'"):
            given.num_keys()
        assert read_head(driver) is None
        with pytest.raises(DistNetworkError, match="'/mine'"):
            given.wait(["mine"], timedelta(milliseconds=1))


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_new_round_has_a_store_that_can_be_used(is_noticed: bool) -> None:
    """Though nobody may have met with the loss yet."""
    with restarted_under(TCPStore.num_keys) as (given, driver):
        if is_noticed:
            with pytest.raises(DistNetworkError):
                given.num_keys()
        driver.refresh()
        assert given.num_keys() == 0


def test_a_store_that_died_before_the_first_round_is_told_at_once() -> None:
    """And not when the store's own time is over, which is long."""
    with StoreServer("127.0.0.1") as server:
        given = TCPStore("127.0.0.1", server.port, timeout=10 * TIMEOUT_S)
        driver = Driver(given, C10dRendezvousBackend(given, "run"), TIMEOUT_S)
    answer = read_head(driver)
    assert isinstance(answer, StoreGoneError)
    assert "nobody listens at 127.0.0.1" in str(answer)
    given.close()


class Interrupted(HashStore):
    """A store of a user's own, in whose connecting anew something comes in between, as a signal's handler does."""

    def __init__(self) -> None:
        super().__init__()
        self.comes_between: list[Callable[[], object]] = []

    def reconnect(self, timeout: float) -> None:
        """Nothing was lost."""
        if self.comes_between:
            self.comes_between.pop()()


def test_a_signals_handler_may_ask_while_the_store_is_connected_anew() -> None:
    """As `DynamicRendezvousHandler.shutdown` does: it waited for ever for a lock of the very thread that it is in."""
    store, answers = Interrupted(), queue.SimpleQueue[object]()
    driver = Driver(store, C10dRendezvousBackend(store, "run"), TIMEOUT_S)
    store.comes_between.append(lambda: answers.put(read_head(driver)))
    threading.Thread(target=lambda: answers.put(read_head(driver)), daemon=True).start()
    assert [answers.get(timeout=TIMEOUT_S) for _ in range(2)] == [None, None]
