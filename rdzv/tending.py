"""The thread that beats and watches for a member of an elastic round: `rdzv.core.tend`, beside the caller."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from rdzv.core.effects import Effect, Sleep
from rdzv.core.persist import persist
from rdzv.core.tend import tend

if TYPE_CHECKING:
    from rdzv.core.tend import Membership
    from rdzv.driver import Driver

_LOOK_S = 0.005

logger = logging.getLogger("rdzv.elastic")


class Tending:
    """Tends a membership from `start` until it is stopped, the node is evicted, or the store fails.

    Its thread holds nothing of the handler, so a handler that nobody uses any more can be collected.

    Attributes:
        membership: What the member knows of its round.
        failure: Why it is tended no more, if the store failed.
    """

    def __init__(self, membership: Membership, driver: Driver) -> None:
        self.membership = membership
        self.failure: Exception | None = None
        self._driver, self._stopped = driver, threading.Event()
        self._lock = threading.RLock()  # a signal's handler may stop it in the midst of a stop
        self._thread = threading.Thread(target=self._run, name="rdzv-tend", daemon=True)

    def start(self) -> None:
        """Begin; apart, since an exception of a signal's handler may come here, and somebody must be able to stop."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; afterwards the caller alone uses the membership. Does not wait for the thread."""
        with self._lock:
            self._stopped.set()

    def abandon(self) -> None:
        """Beat no more, soon: for a finalizer, which may wait for no lock."""
        self._stopped.set()

    def catch_up(self) -> None:
        """If this node may have been given up since its last beat was taken, let the thread look first.

        So whoever was paused hears of it at the first call. A store that is silent holds it up for one request.
        """
        membership, settings = self.membership, self.membership.settings
        until = time.monotonic() + settings.heartbeat_s
        while self._thread.is_alive() and self._thread is not threading.current_thread():
            now = time.monotonic()
            if now >= until or now - membership.seen_at < settings.bound_s - settings.poll_s / 2:  # see `Pulse`
                break
            self._thread.join(_LOOK_S)

    def is_alive(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, which is near once the driver is closed."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        membership = self.membership
        flow = persist(tend(membership, time.monotonic()), membership.settings, time.monotonic())
        with contextlib.closing(flow):
            try:
                effect = next(flow)
                while True:
                    # While it waits, others may stop it; while it talks, they must not come in between.
                    waits = isinstance(effect, Sleep) or (isinstance(effect, Effect) and effect.wait_until is not None)
                    answer = self._driver.answer(effect, self._stopped) if waits else None
                    with self._lock:
                        if self._stopped.is_set():
                            return
                        if not waits:
                            answer = self._driver.answer(effect, self._stopped)
                        effect = self._driver.advance(flow, answer)
            except StopIteration:  # this node was evicted
                pass
            except Exception as error:
                logger.debug("the round is tended no more", exc_info=True)
                self.failure = error
                membership.report("store lost", round=membership.keys.round, why=f"{type(error).__name__}: {error}")
