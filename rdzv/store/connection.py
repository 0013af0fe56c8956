"""The client's driver: one socket, a clock and deadlines around `rdzv.core.client.ClientCore`.

A connection is used by one thread at a time. All but waits goes through its `conversation`. Nearly all calls of a store
are one request, or a write of one key, and one whole reply: that it does itself. Where something is not as usual,
`_exchange` takes over there, which sees to all that can happen. It is a generator, since the interpreter lets no second
thread into one, and a lock would cost more than all else in it; and since what it needs is bound once: where hundreds
of processes take turns, each finds its memory cold, and what counts is how many pages a call touches: 170 as five
methods, some 110 now, and 65 in a bare loop of send and receive.
"""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.client import LimitError, only_reply
from rdzv.core.wire import EXCHANGES, NUMBER, VALUE, WireError, whole_values
from rdzv.errors import DistNetworkError, DistStoreError, is_from_within
from rdzv.store.loss import Losable

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from rdzv.core.wire import Reply, Request

    Conversation = Generator[Any, tuple[Any, ...] | None, None]  # of replies, for requests

READ_BYTES = 1 << 16
ANSWER_S = 1.0  # how long the server may take at least to answer what it need not wait for, however short a timeout
SPIN_S = 100e-6  # how long a reply is awaited awake; four busy clients of one server have theirs by then
_FIRST_NAPS, _NAPS_MAX = 3, 1023  # many clients only meet, and all at one time
_POLL_MS_MAX = (1 << 31) - 1
_NOW = int(socket.MSG_DONTWAIT)
_TRUST_S = 0.001  # for so long a connection that was open just now is taken to be open still
_SLICE_S = 0.01  # so long the system awaits a reply in the call that reads it; anew after each signal, so it is short
_SLICE = struct.pack("@ll", 0, int(_SLICE_S * 1e6))
_SMALL_REPLY_BYTES = 448  # to read at first: as much as Python allocates from what it has, and not from the system
_SMALL_BYTES = 4096  # of a request: in no part does it pass a limit
_GREETING = wire.encode(wire.VALIDATE, wire.MAGIC)
_WITH_MORE = int(socket.MSG_MORE)  # it goes with what is sent next

TOGETHER = len(EXCHANGES)
"""In place of a command, in a conversation: ask some requests together, until then; the reply is the list of theirs."""

_EXCHANGES = [*EXCHANGES, (lambda _: b"", None, NUMBER)]  # what to send is for `_ask_otherwise` to see


class Connection(Losable):
    """One connection to a store's server.

    Attributes:
        timeout_s: How long a reply in a conversation may take, in seconds.
    """

    __slots__ = ("_checked_at", "_has_news", "_is_prompt", "_last_naps", "_naps", "_readable", "timeout_s")

    def __init__(self, sock: socket.socket, endpoint: str, deadline_at: float, *, spin: bool = True) -> None:
        """Shake hands over a connected socket, which is this object's from now on."""
        super().__init__(sock, endpoint)
        self._is_prompt = False  # whether the last reply came within a slice
        self._naps: float = _FIRST_NAPS if spin else math.inf  # replies to await asleep before the next one awake
        self._last_naps, self._checked_at = 0, 0.0
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SLICE)
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._has_news = self._readable.poll  # after so many milliseconds
        self.timeout_s = max(0.0, deadline_at - time.monotonic())
        self._shake_hands(os.getpid() & 0xFFFFFFFF)

    def _shake_hands(self, nonce: int) -> None:
        conversation = self.conversation()
        next(conversation)
        self._sock.send(_GREETING, _WITH_MORE)
        if (echo := conversation.send((wire.PING, nonce))) != nonce:
            raise self._fail(f"what listens at {self.endpoint} is no store: it answered the greeting with {echo!r}")

    def conversation(self) -> Conversation:
        """Takes a request, again and again, and gives the reply as `only_reply` says; or several, see `TOGETHER`. Hot.

        It ends when it is asked nothing, or with an error: a `DistStoreError` if a request passes a limit and
        nothing was sent, a `DistNetworkError` if the server is gone or silent, and may have done what it was asked.
        """
        send, recv, core, exchanges = self._sock.send, self._sock.recv, self._core, _EXCHANGES
        length, no_wait, small_bytes, value = len, _NOW, _SMALL_BYTES, VALUE
        _, incomplete = usual = BlockingIOError, struct.error
        now, room = time.monotonic, _SMALL_REPLY_BYTES
        reply: Any = None
        self._refuse_if_lost()
        while request := (yield reply):
            encode, unpack, kind = exchanges[op := request[0]]
            data = encode(request)
            size = length(data)
            if not unpack or size > small_bytes:
                reply = self._ask_otherwise(request, data)
                del request, data  # an idle store holds nothing large
                continue
            timeout_s = self.timeout_s  # which another thread may change meanwhile, for later calls
            self._is_unfit, sent, came, started_at = True, 0, b"", 0.0
            try:
                try:
                    sent = send(data, no_wait)
                    if sent == size:
                        self._naps = self._naps - 1 if self._naps else self._spin(now() + SPIN_S)
                        started_at = 0.0 if self._is_prompt else self._await_first(op, timeout_s)
                        came = recv(room)  # for a slice at most: without a look at the clock, if it may
                        (reply,) = unpack(came)
                        if kind:
                            if kind == value:
                                if length(came) != 8 + reply:
                                    raise incomplete
                                reply = came[8:]
                            elif (reply := whole_values(came, length(request[1]))) is None:
                                raise incomplete
                        core.confirmed = core.written
                        self._is_unfit = False
                        continue
                except usual as error:  # no room, or nothing yet; not all of the reply, or more
                    if is_from_within(error):
                        raise
                    room = READ_BYTES if came else room
                reply = self._exchange_one(request, timeout_s, started_at or now() - _SLICE_S, sent, came)
            except OSError as error:
                raise self._gone(error) from error
            except BaseException:
                self._break_off()  # unless it has failed already
                raise

    def _await_first(self, op: int, timeout_s: float) -> float:
        """Await asleep the first bytes of a reply that may come late; since when they are awaited.

        To read them is for the conversation, which takes an error from beneath it for that of a signal's handler.
        """
        started_at = time.monotonic()
        if not self._poll(self._readable, started_at + timeout_s):
            asked = wire.COMMANDS[op].upper()
            raise self._fail(f"the store at {self.endpoint} did not answer {asked}", started_at)
        self._is_prompt = time.monotonic() < started_at + _SLICE_S
        return started_at

    def _ask_otherwise(self, request: tuple[Any, ...], data: bytes) -> Any:
        """Ask in a conversation what is no small request with one reply: a write, a large one, or several."""
        timeout_s, started_at = self.timeout_s, time.monotonic()
        if request[0] == TOGETHER:
            return self._exchange(request[1], started_at, request[2])
        if started_at > self._checked_at + _TRUST_S and not self._has_news(0):
            self._checked_at = started_at
        if len(data) > _SMALL_BYTES or started_at > self._checked_at + _TRUST_S:
            return self._exchange_one(request, timeout_s, started_at)
        self._is_unfit, sent = True, 0
        try:
            try:
                sent = self._sock.send(data, _NOW)
            except BlockingIOError as error:
                if is_from_within(error):
                    raise
            if sent != len(data):
                return self._exchange_one(request, timeout_s, started_at, sent)
            self._core.wrote(request[1])
            self._is_unfit = False
        except OSError as error:
            raise self._gone(error) from error
        except BaseException:
            self._break_off()  # unless it has failed already
            raise

    def _exchange_one(self, request: Any, timeout_s: float, at: float, sent: int = 0, came: bytes = b"") -> Any:
        return only_reply(request[0], self._exchange((request,), at, at + timeout_s, sent, came))

    def _exchange(
        self, requests: Sequence[Request], started_at: float, deadline_at: float, sent: int = 0, came: bytes = b""
    ) -> list[Reply]:
        """Send requests together, and return the replies of those that have one, in order.

        So many bytes of the requests are sent already, and some of the replies may have come.
        """
        core = self._core
        try:
            data = self._encoded(requests)
            awaited = len(core.expected)
            if not awaited and started_at > self._checked_at + _TRUST_S:
                if self._has_news(0):  # nobody answers a write: if the server has hung up already, say so now
                    self._receive()
                self._checked_at = started_at
            self._send(data[sent:], started_at, deadline_at)
            if not awaited:
                self._is_unfit = False
                return []
            replies = core.receive(came or self._next_bytes(started_at, deadline_at))
            while len(replies) < awaited:
                if time.monotonic() >= deadline_at:  # it answers, but without an end
                    raise self._fail(f"the store at {self.endpoint} did not finish {core.asked()}", started_at)
                replies += core.receive(self._next_bytes(started_at, deadline_at))
        except WireError as error:
            raise self._not_a_store(error) from error
        except BaseException:
            if self._is_unfit:  # else nothing was sent
                self._break_off()
            raise
        self._is_unfit = False
        return replies

    def wait(self, request: Request, wait_until: float, deadline_at: float) -> bool:
        """Send a WAIT or a BARRIER; true when it is met, false if it was not until then, and is cancelled.

        Raises:
            DistStoreError: A request passes a limit of the protocol; nothing was sent.
            DistNetworkError: The server is gone, or does not even confirm the cancelling.
        """
        self._refuse_if_lost()
        started_at = time.monotonic()
        replies: list[Reply] = []
        try:
            self._send(self._encoded((request,)), started_at, deadline_at)
            while self._poll(self._readable, wait_until):
                if self._receive():
                    self._is_unfit = False
                    return True
            self._send(self._encoded(((wire.CANCEL_WAIT,),)), started_at, deadline_at)
            while self._core.expected:
                replies += self._core.receive(self._next_bytes(started_at, deadline_at))
        except WireError as error:
            raise self._not_a_store(error) from error
        except BaseException:
            if self._is_unfit:  # else nothing was sent
                self._break_off()
            raise
        self._is_unfit = False
        return len(replies) > 1  # met at the last moment, before the server saw that we gave up

    def _encoded(self, requests: Sequence[Request]) -> bytes:
        if self.lost:  # meanwhile
            raise DistNetworkError(self.lost, endpoint=self.endpoint)
        self._is_unfit = True
        try:
            return self._core.request(requests)
        except LimitError as error:
            self._is_unfit = False
            raise DistStoreError(f"{error}; nothing was sent", endpoint=self.endpoint) from error

    def _send(self, rest: bytes | memoryview, started_at: float, deadline_at: float) -> None:
        while rest:
            try:
                sent = self._sock.send(rest, _NOW)
            except BlockingIOError as error:
                if is_from_within(error):
                    raise
                writable = select.poll()
                writable.register(self._sock, select.POLLOUT)
                if not self._poll(writable, deadline_at):
                    raise self._fail(f"the store at {self.endpoint} does not read", started_at) from None
            except OSError as error:
                raise self._gone(error) from error
            else:
                if sent == len(rest):
                    return
                rest = memoryview(rest)[sent:]

    def _next_bytes(self, started_at: float, deadline_at: float) -> bytes:
        """What comes next, awaited until then."""
        self._naps = self._naps - 1 if self._naps else self._spin(started_at + SPIN_S)
        if self._is_prompt:  # then it saves a call to let the system await it, but for a slice alone: Python begins
            if data := self._read(0):  # that anew where a signal comes in the middle of it, and so on without an end
                return data
            self._is_prompt = False
        while self._poll(self._readable, deadline_at):
            if data := self._read(_NOW):  # the system may say so too early
                self._is_prompt = time.monotonic() < started_at + _SLICE_S
                return data
        raise self._fail(f"the store at {self.endpoint} did not answer {self._core.asked()}", started_at)

    def _spin(self, until: float) -> int:
        """Await a reply awake until then; how many of the next ones are not worth that is `_naps` then. Hot.

        From a server nearby a reply is here before the system could have put us to sleep and woken us: one client took
        17 microseconds an operation in place of 33, four did a sixth more, and no processor had more to do. Where it
        comes later, since the server is far or has much to do, to look again and again would be in vain: then twice as
        many replies as the last time are awaited asleep before the next one is awaited like this.
        """
        has_news = self._has_news
        while not (has_come := has_news(0)) and time.monotonic() < until:
            os.sched_yield()  # let others run in between
        if has_come and time.monotonic() < until:
            self._last_naps >>= 1
            return 0
        self._last_naps = min(_NAPS_MAX, 2 * self._last_naps + 1)
        return self._last_naps

    def _receive(self) -> list[Reply]:
        """The replies that are complete with what is here by now."""
        data = self._read(_NOW)
        return self._core.receive(data) if data else []

    def _read(self, flags: int) -> bytes:
        """Bytes of the server: those that are here, or that come within a slice; empty if there are none yet.

        Raises:
            DistNetworkError: The server has hung up.
        """
        try:
            data = self._sock.recv(READ_BYTES, flags)
        except OSError as error:
            if isinstance(error, BlockingIOError) and not is_from_within(error):
                return b""
            raise self._gone(error) from error
        return data or self._hung_up()

    def _poll(self, poller: select.poll, deadline_at: float) -> bool:
        left_ms = (deadline_at - time.monotonic()) * 1000
        return bool(poller.poll(min(_POLL_MS_MAX, left_ms) if left_ms > 0 else 0))
