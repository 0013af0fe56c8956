"""The client of one connection without its socket: requests out as bytes, replies in, in the order of the requests.

Replies carry no tag, so the client remembers what it asked for. Only WAIT and BARRIER are answered late, and by a byte
that any other reply could begin with: while one of them is open, nothing but CANCEL_WAIT may be asked.
"""

from __future__ import annotations

import struct
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.wire import (
    BARRIER,
    CANCEL_WAIT,
    REPLY_LAYOUTS,
    WAIT,
    WHOLE_REPLIES,
    FrameReader,
    Limits,
    WireError,
    encode_all,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdzv.core.wire import Field, Reply, Request

LOST_SHOWN_MAX = 8
_WRITES = {wire.SET, wire.APPEND, wire.MULTI_SET, wire.QUEUE_PUSH}
_WAITS = {WAIT, BARRIER}

# A reply may be larger than any request: APPEND grows a stored value, and a store has as many keys as it has.
_REPLIED_VALUE_BYTES_MAX = 1 << 40
_REPLIED_KEYS_MAX = 1 << 24
_LIMITS = Limits()


class LimitError(ValueError):
    """A key, a value or a count passes what the protocol allows."""


class ClientCore:
    """One connection to a store.

    Attributes:
        expected: The replies that are still to come: a command, its reply's layout, and the writes before it.
        written: How many writes without a reply were asked for.
        confirmed: How many of them are certain, since a reply has come to what was asked for behind them.
    """

    __slots__ = ("_last_written", "_limits", "_reader", "_unlimited_bytes", "confirmed", "expected", "written")

    def __init__(self, limits: Limits = _LIMITS) -> None:
        self._limits = limits
        # What is no longer than this as a whole, as nearly all that is asked, cannot pass a limit in any part.
        self._unlimited_bytes = min(limits.key_bytes_max, limits.value_bytes_max, limits.keys_per_request_max)
        self._reader = FrameReader(_of_replies(limits.key_bytes_max))
        self.expected: deque[tuple[int, str, int]] = deque()
        self.written = self.confirmed = 0
        self._last_written: deque[bytes] = deque(maxlen=LOST_SHOWN_MAX)  # the key of each, of a MULTI_SET its first

    @property
    def unconfirmed(self) -> int:
        """How many writes without a reply have been asked for that no later reply has confirmed yet."""
        return self.written - self.confirmed

    def asked(self) -> str:
        """The commands whose replies are still to come, by name, for messages."""
        return ", ".join(wire.COMMANDS[op].upper() for op, _, _ in self.expected)

    def unconfirmed_keys(self) -> list[bytes]:
        """The key of each of those writes, of a MULTI_SET its first, the last first; at most ``LOST_SHOWN_MAX``."""
        return list(self._last_written)[::-1][: self.unconfirmed]

    def request(self, requests: Sequence[Request]) -> bytes:
        """The bytes of some requests, each a command and its fields; the replies of those that have one are awaited.

        Raises:
            LimitError: A key, a value or a count passes what the protocol allows; nothing is awaited.
        """
        data = encode_all(requests)
        if len(data) > self._unlimited_bytes:
            for op, *fields in requests:
                self._check_limits(op, fields)
        for request in requests:
            op = request[0]
            layout = REPLY_LAYOUTS[op]
            if layout == "V":
                layout = "v" * len(request[1])  # type: ignore[misc]
            if layout:
                self.expected.append((op, layout, self.written))
            elif op in _WRITES and (first := request[1]) != []:  # type: ignore[misc]
                self.wrote(first if isinstance(first, bytes) else first[0])
        return data

    def wrote(self, key: bytes) -> None:
        """A write without a reply was sent, of this key; past this object, if not by `request`."""
        self._last_written.append(key)
        self.written += 1

    def receive(self, data: bytes) -> list[Reply]:
        """The replies that are complete with these bytes, in the order of the requests.

        When a WAIT was met while its CANCEL_WAIT was under way, both replies come; when it was not, the latter's alone.

        Raises:
            WireError: The server does not speak the protocol.
        """
        reader, expected = self._reader, self.expected
        reply_of = WHOLE_REPLIES[expected[0][0]] if len(expected) == 1 and reader.is_between_frames else None
        if reply_of and expected[0][0] not in _WAITS:
            try:
                whole = [*reply_of(data)]
            except struct.error:  # it is not whole: the reader sees
                pass
            else:
                self.confirmed = expected.pop()[2]
                return [whole]
        replies: list[Reply] = []
        while expected:
            op, layout, confirmed = expected[0]
            reply = reader.reply(layout, data)
            data = b""
            if reply is None:
                return replies
            expected.popleft()
            self.confirmed = confirmed
            if op in _WAITS and reply != [0]:  # not met; then this can only be the answer to the CANCEL_WAIT behind it
                behind = expected.popleft()[0] if expected else None
                if reply != [1] or behind != CANCEL_WAIT:
                    raise WireError(f"the server answered {reply} to a wait")
            replies.append(reply)
        if data or not reader.is_between_frames:
            raise WireError(f"the server sent {len(data) + reader.held_bytes} bytes that nobody asked for")
        return replies

    def _check_limits(self, op: int, fields: Sequence[Field]) -> None:
        limits = self._limits
        for kind, field in zip(wire.REQUEST_LAYOUTS[op], fields, strict=True):
            if isinstance(field, int):
                continue
            items = [field] if isinstance(field, bytes) else field
            per_key = 2 if kind == "P" else 1
            if len(items) > limits.keys_per_request_max * per_key:
                raise LimitError(f"{len(items) // per_key} keys pass the limit of {limits.keys_per_request_max}")
            for index, item in enumerate(items):
                is_value = kind == "v" or (kind == "P" and index % 2)
                limit = limits.value_bytes_max if is_value else limits.key_bytes_max
                if len(item) > limit:
                    raise LimitError(
                        f"a {'value' if is_value else 'key'} of {len(item)} bytes passes the limit of {limit}"
                    )


@cache
def _of_replies(key_bytes_max: int) -> Limits:
    return Limits(
        key_bytes_max=key_bytes_max,
        value_bytes_max=_REPLIED_VALUE_BYTES_MAX,
        keys_per_request_max=_REPLIED_KEYS_MAX,
    )


def only_reply(op: int, replies: list[Reply]) -> Any:
    """What one request was answered: a number, a value, those of a MULTI_GET; ``None`` if it has no reply."""
    if not replies:
        return None
    return replies[0] if op == wire.MULTI_GET else replies[0][0]
