"""Who has news: epoll where there is one, poll elsewhere, under one face."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

IN, OUT = select.POLLIN, select.POLLOUT  # epoll has the same values
_HAS_EPOLL = hasattr(select, "epoll")
# A client's bytes are told once, when they come, and not again until they are read: one look less into each socket.
# Then its end must be told with its last bytes, or it would never be.
NEWS = IN | select.EPOLLET | select.EPOLLRDHUP if _HAS_EPOLL else IN


class Poller:
    """epoll where there is one, poll elsewhere; both with seconds."""

    def __init__(self) -> None:
        self._poller: Any
        self.poll: Callable[[float | None, int], list[tuple[int, int]]]
        if _HAS_EPOLL:
            self._poller = epoll = select.epoll()
            self.poll = epoll.poll
        else:
            self._poller, self.poll = select.poll(), self._poll_s
        self.register = self._poller.register
        self.modify = self._poller.modify
        self.unregister = self._poller.unregister

    def _poll_s(self, timeout_s: float | None, _: int) -> list[tuple[int, int]]:
        return list(self._poller.poll(None if timeout_s is None else timeout_s * 1000))

    def close(self) -> None:
        """Let go of what the system keeps for it."""
        if hasattr(self._poller, "close"):
            self._poller.close()
