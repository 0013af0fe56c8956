"""How a connection to a store is lost: for good, with a reason that every later call is told.

After a missed deadline or an error it is closed: a reply that comes late could be taken for the next one's. So it is
when an exception of a signal's handler, such as Ctrl-C, breaks into a call.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from rdzv import net
from rdzv.core.client import LOST_SHOWN_MAX, ClientCore
from rdzv.errors import ConnectTimeoutError, DistNetworkError, is_from_within

if TYPE_CHECKING:
    from rdzv.core.wire import WireError

_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Losable:
    """A connected socket with the client's core, and what becomes of them.

    Attributes:
        endpoint: Whose server it is, for messages.
        lost: Why it cannot be used any more; empty while it can.
    """

    __slots__ = ("_core", "_is_unfit", "_sock", "endpoint", "lost")

    def __init__(self, sock: socket.socket, endpoint: str) -> None:
        self._sock = sock  # first: it is closed in any case when this object goes
        self.endpoint, self.lost = endpoint, ""
        self._core = ClientCore()
        self._is_unfit = False  # from before the first byte is sent until the last reply is here, and once it is lost

    def __repr__(self) -> str:
        """Both ends, in upstream's words."""
        try:
            ours, theirs = (net.shown(name) for name in (self._sock.getsockname(), self._sock.getpeername()))
        except OSError:
            return "closed"
        return f"SocketImpl(fd={self._sock.fileno()}, addr={ours}, remote={theirs})"

    @property
    def unconfirmed(self) -> int:
        """How many writes have been sent for which no later reply has come yet."""
        return self._core.unconfirmed

    def has_ended(self) -> bool:
        """Whether the server has hung up; may be asked by any thread, at any time."""
        try:
            return bool(self.lost) or not self._sock.recv(1, _LOOK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close the socket; also for a process that was forked and must not use it."""
        self.lost, self._is_unfit = self.lost or f"this client of the store at {self.endpoint} is closed", True
        self._sock.close()

    def __del__(self) -> None:
        self._sock.close()  # as with upstream's stores, to drop the last reference is enough

    def shut_down(self) -> None:
        """End the conversation from another thread: the one that waits for a reply gets an error at once."""
        self.lost = self.lost or f"this client of the store at {self.endpoint} was closed meanwhile"
        self._is_unfit = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _refuse_if_lost(self) -> None:
        if self._is_unfit:
            self._break_off()
        if self.lost:
            raise DistNetworkError(self.lost, endpoint=self.endpoint)

    def _gone(self, error: OSError) -> DistNetworkError:
        """What to raise of an error of the system; that of a signal's handler, such as a `TimeoutError`, is raised."""
        if is_from_within(error):
            self._break_off()
            raise error
        return self._fail(f"the store at {self.endpoint} is gone: {error.strerror}")

    def _hung_up(self) -> NoReturn:
        asked = self._core.asked()
        instead = f" instead of answering {asked}" if asked else ""
        adds = asked in ("ADD", "BARRIER")
        doubts = ", or the value is no number" * adds
        if adds or asked == "COMPARE_SET" or self._core.unconfirmed:
            doubts += ", or it had no room for what was sent"
        raise self._fail(
            f"the store at {self.endpoint} closed the connection{instead}: its host has stopped or died{doubts}",
            applied="unknown" if asked else "no",
        )

    def _not_a_store(self, error: WireError) -> DistNetworkError:
        return self._fail(f"what listens at {self.endpoint} is no store: {error}")

    def _fail(self, reason: str, started_at: float | None = None, applied: str = "unknown") -> DistNetworkError:
        """Close for good; the error to raise, a timeout if it is told since when the call has waited."""
        waited_s = None if started_at is None else time.monotonic() - started_at
        if waited_s is not None:
            reason += f" within {waited_s:.1f} s"
        lost_writes = self._core.unconfirmed
        if lost_writes:
            keys = ", ".join(repr(key.decode(errors="backslashreplace")) for key in self._core.unconfirmed_keys())
            more = ", ..." if lost_writes > LOST_SHOWN_MAX else ""
            reason += f"; the last {lost_writes} write{'s' * (lost_writes > 1)} may be lost: {keys}{more}"
        self.lost = self.lost or reason
        self._sock.close()
        error = DistNetworkError if waited_s is None else ConnectTimeoutError
        return error(self.lost, endpoint=self.endpoint, waited_s=waited_s, applied=applied)

    def _break_off(self) -> None:
        """Half a conversation cannot be taken up again."""
        self.lost = self.lost or f"a call to the store at {self.endpoint} was broken off by an exception"
        self._sock.close()
