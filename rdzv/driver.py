"""Carries out the flows of `rdzv.core` with any store and any backend, on this process's clock.

A request becomes a call of the store's public interface, so the store may be ours, upstream's or a user's own. A
failure of the store is thrown into the flow, which decides whether to ask again (`rdzv.core.persist`); before it is
asked again, a lost connection is opened anew.
"""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.effects import Effect, ReadHead, Sleep, StoreGoneError, WriteHead
from rdzv.errors import (
    ConnectTimeoutError,
    DistError,
    DistNetworkError,
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousStateError,
    StoreTimeoutError,
)
from rdzv.store.prefix import innermost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdzv.backend import RendezvousBackend
    from rdzv.core.effects import AnyEffect, Flow, Result
    from rdzv.core.wire import Field, Reply
    from rdzv.store.base import Store

_LEAVE_S = 2.0  # a store that may be gone must not hold up an error for longer
_RECONNECT_S = 1.0  # a host that has died is told from one that is slow: nobody listens there


class Driver:
    """One node's use of a store and a backend; for as many threads at a time as the store can take."""

    def __init__(self, store: Store, backend: RendezvousBackend, heartbeat_s: float) -> None:
        """Prepare.

        Args:
            store: What the nodes share. If it can be cloned, a clone is used: whoever else uses it is not held up.
            backend: Where the document is.
            heartbeat_s: For how long the store may leave one request unanswered, in seconds.
        """
        self._given, self._backend = store, backend
        self._heartbeat_s = heartbeat_s
        self._lock = threading.RLock()  # over what is below; a signal's handler may come in between, and ask
        self._own: Store | None = None
        self._asked = [store]  # by this driver, or by the backend
        self._is_broken = False

    def refresh(self) -> None:
        """Have the given store connected for the user of a new round, if its connection was lost since the last one.

        Not before: its user is to hear of the loss, and of the writes that it may have taken along.

        Raises:
            DistNetworkError: The store is gone or silent.
        """
        _reconnect(innermost(self._given))

    def close(self) -> None:
        """Let go of the store; a wait of another thread ends."""
        own = innermost(self._own)
        if own is not innermost(self._given) and hasattr(own, "close"):
            own.close()

    def run(self, flow: Flow[Result], stopped: threading.Event | None = None) -> Result:
        """Carry out a flow; its result. If it is ended from outside, it gets a moment to take its leave.

        Args:
            flow: What to carry out.
            stopped: Ends it if set, from any thread: after one more answer, or one more second.

        Raises:
            RendezvousClosedError: It was ended so.
        """
        stopped = stopped or threading.Event()
        try:
            effect = next(flow)
            while True:
                try:
                    if stopped.is_set():
                        raise RendezvousClosedError("this handler was shut down by its own process")
                    answer = self.answer(effect, stopped)
                except BaseException as error:  # a signal's, such as KeyboardInterrupt, too
                    self._take_leave(flow, error)
                    raise
                effect = self.advance(flow, answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        finally:
            flow.close()

    def _take_leave(self, flow: Flow[Result], error: BaseException) -> None:
        leave_by, never = time.monotonic() + _LEAVE_S, threading.Event()
        with contextlib.suppress(StopIteration, RendezvousError, DistError):
            effect = flow.throw(RendezvousError(f"it was ended by a {type(error).__name__}"))
            while time.monotonic() < leave_by:
                effect = self.advance(flow, self.answer(effect, never))

    def answer(self, effect: AnyEffect, stopped: threading.Event) -> Any:
        """Carry out one effect; what came of it, or the error that came in its place. No sleep outlasts ``stopped``."""
        try:
            if isinstance(effect, Sleep):
                stopped.wait(max(0.0, effect.until - time.monotonic()))
                return None
            return self._perform(effect)
        except DistNetworkError as error:
            self._is_broken = True
            return error

    @staticmethod
    def advance(flow: Flow[Result], answer: Any) -> AnyEffect:
        """Let a flow go on with what came of its last effect; its next one."""
        if isinstance(answer, DistNetworkError):
            return flow.throw(answer)
        return flow.send((answer, time.monotonic()))

    def _perform(self, effect: Effect | ReadHead | WriteHead) -> Any:
        try:
            store = self._ready_store()
            if isinstance(effect, ReadHead):
                return self._backend.get_state()
            if isinstance(effect, WriteHead):
                return self._write_head(effect)
            if effect.wait_until is not None:
                return [[int(_wait(store, [*effect.requests[0]][1], effect.wait_until))]]
            answers = [_CALLS[op](store, *fields) for op, *fields in effect.requests]
            return [answer for answer in answers if answer is not None]
        except RendezvousConnectionError as error:
            raise _lost(error.__cause__ or error) from error
        except (RuntimeError, OSError, LookupError) as error:  # as the stores that there are tell that they failed
            raise _lost(error) from error

    def _write_head(self, effect: WriteHead) -> Any:
        written = self._backend.set_state(effect.state, effect.token)
        if written is None and (found := self._backend.get_state()):
            return *found, found[0] == effect.state  # there are backends that never say what came of a write
        return written

    def _ready_store(self) -> Store:
        """The store to ask: a clone, if there can be one. What was lost is opened anew."""
        with self._lock:
            if self._own is None:
                _reconnect(innermost(self._given))  # or a clone would try for as long as the store may take
                self._own = self._cloned()
            if self._is_broken:
                for store in self._asked:
                    _reconnect(innermost(store))
                self._is_broken = False
            return self._own

    def _cloned(self) -> Store:
        """A store for this driver alone, where an answer does not take longer than it may; the backend uses it too."""
        clone = self._given.clone() if hasattr(self._given, "clone") else self._given
        if innermost(clone) is innermost(self._given):
            return self._given
        clone.set_timeout(timedelta(seconds=self._heartbeat_s))
        over: Callable[[Store], RendezvousBackend] | None = getattr(self._backend, "over", None)
        if over:
            self._backend = over(clone)
        self._asked = [clone] if over else [clone, self._given]
        return clone


def _reconnect(store: Any) -> None:
    if not hasattr(store, "reconnect"):
        return
    try:
        store.reconnect(_RECONNECT_S)
    except ConnectTimeoutError as error:
        if isinstance(error.__cause__, ConnectionRefusedError):
            text = f"nobody listens at {error.endpoint} any more"
            raise StoreGoneError(text, endpoint=error.endpoint, applied="unknown") from error
        raise


def _lost(error: BaseException) -> DistNetworkError:
    """What a store's failure means to a flow: that it is silent, or that it is gone, for others' open nothing anew."""
    if isinstance(error, DistNetworkError):
        return error
    is_silent = isinstance(error, TimeoutError | LookupError) or type(error).__name__ == "DistStoreError"
    kind = ConnectTimeoutError if is_silent else StoreGoneError
    return kind(str(error) or type(error).__name__, applied="unknown")


def _wait(store: Store, keys: Any, until: float) -> bool:
    """Whether the keys are there by then. Stores tell in ways of their own that they are not."""
    left_s = until - time.monotonic()
    try:
        store.wait([key.decode() for key in keys], timedelta(seconds=max(0.001, left_s)))
    except StoreTimeoutError:
        return False
    except DistError:
        raise
    except (RuntimeError, LookupError):  # upstream's stores: DistStoreError, or LookupError
        if time.monotonic() < until:
            raise
        return False
    return True


def _add(store: Store, key: Any, amount: Any) -> Reply:
    try:
        return [store.add(key.decode(), amount)]
    except ValueError as error:  # so some stores tell; others hang up, see `persist`
        raise RendezvousStateError(f"{key.decode()!r} holds what no node writes there: {error}") from error


def _compare_set(store: Store, key: Any, expected: Any, desired: Any) -> Reply:
    return [bytes(store.compare_set(key.decode(), expected, desired))]


def _multi_set(store: Store, items: Any) -> None:
    store.multi_set([key.decode() for key in items[::2]], items[1::2])


def _multi_get(store: Store, keys: Any) -> Sequence[Field]:
    return [bytes(value) for value in store.multi_get([key.decode() for key in keys])] if keys else []


_CALLS: dict[int, Callable[..., Any]] = {
    wire.COMPARE_SET: _compare_set,
    wire.ADD: _add,
    wire.CHECK: lambda store, keys: [int(not store.check([key.decode() for key in keys]))],
    wire.DELETE_KEY: lambda store, key: [int(store.delete_key(key.decode()))],
    wire.MULTI_SET: _multi_set,
    wire.MULTI_GET: _multi_get,
}
