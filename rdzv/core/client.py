"""The client of one connection without its socket: requests out as bytes, replies in, in the order of the requests.

Replies carry no tag, so the client remembers what it asked for. Only WAIT and BARRIER are answered late, and by a byte
that any other reply could begin with: while one of them is open, nothing but CANCEL_WAIT may be asked.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.wire import CANCEL_WAIT, FrameReader, Limits, WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdzv.core.wire import Field, Reply, Request

LOST_SHOWN_MAX = 8
_WRITES = {wire.SET, wire.APPEND, wire.MULTI_SET, wire.QUEUE_PUSH}

# A reply may be larger than any request: APPEND grows a stored value, and a store has as many keys as it has.
_REPLIED_VALUE_BYTES_MAX = 1 << 40
_REPLIED_KEYS_MAX = 1 << 24


class ClientCore:
    """One connection to a store."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._reader = FrameReader(
            Limits(
                key_bytes_max=self._limits.key_bytes_max,
                value_bytes_max=_REPLIED_VALUE_BYTES_MAX,
                keys_per_request_max=_REPLIED_KEYS_MAX,
            )
        )
        self._expected: deque[tuple[int, str, int]] = deque()  # a command, its reply's layout, the writes before it
        self._written = self._confirmed = 0  # writes without a reply: how many were asked for, how many are certain
        self._last_written: deque[bytes] = deque(maxlen=LOST_SHOWN_MAX)  # the key of each, of a MULTI_SET its first

    @property
    def awaited(self) -> int:
        """How many replies are still to come."""
        return len(self._expected)

    @property
    def unconfirmed(self) -> int:
        """How many writes without a reply have been asked for that no later reply has confirmed yet."""
        return self._written - self._confirmed

    def asked(self) -> str:
        """The commands whose replies are still to come, by name, for messages."""
        return ", ".join(wire.COMMANDS[op].upper() for op, _, _ in self._expected)

    def unconfirmed_keys(self) -> list[bytes]:
        """The key of each of those writes, of a MULTI_SET its first, the last first; at most ``LOST_SHOWN_MAX``."""
        return list(self._last_written)[::-1][: self.unconfirmed]

    def request(self, *requests: Request) -> bytes:
        """The bytes of some requests, each a command and its fields; the replies of those that have one are awaited.

        Raises:
            ValueError: A key, a value or a count passes what the protocol allows; nothing is awaited.
        """
        for op, *fields in requests:
            self._check_limits(op, fields)
        data = b"".join([wire.encode(*request) for request in requests])
        for op, *fields in requests:
            layout = wire.REPLY_LAYOUTS[op]
            if op == wire.MULTI_GET:
                layout = "v" * len(fields[0])  # type: ignore[arg-type]
            if layout:
                self._expected.append((op, layout, self._written))
            elif op in _WRITES and fields[0] != []:
                key = fields[0] if isinstance(fields[0], bytes) else fields[0][0]  # type: ignore[index]
                self._last_written.append(key)
                self._written += 1
        return data

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        """The replies that are complete with these bytes: each the command and the reply's fields.

        When a WAIT was met while its CANCEL_WAIT was under way, both replies come, in this order.

        Raises:
            WireError: The server does not speak the protocol.
        """
        self._reader.feed(data)
        replies: list[tuple[int, Reply]] = []
        while self._expected:
            op, layout, confirmed = self._expected[0]
            reply = self._reader.reply(layout)
            if reply is None:
                return replies
            self._expected.popleft()
            self._confirmed = confirmed
            if op in (wire.WAIT, wire.BARRIER) and reply != [0]:
                # Not met; then this can only be the answer to the CANCEL_WAIT behind it.
                if reply != [1] or not self._expected or self._expected.popleft()[0] != CANCEL_WAIT:
                    raise WireError(f"the server answered {reply} to a wait")
                op = CANCEL_WAIT
            replies.append((op, reply))
        if self._reader.held_bytes:
            raise WireError(f"the server sent {self._reader.held_bytes} bytes that nobody asked for")
        return replies

    def _check_limits(self, op: int, fields: Sequence[Field]) -> None:
        limits = self._limits
        for kind, field in zip(wire.REQUEST_LAYOUTS[op], fields, strict=True):
            if isinstance(field, int):
                continue
            items = [field] if isinstance(field, bytes) else field
            per_key = 2 if kind == "P" else 1
            if len(items) > limits.keys_per_request_max * per_key:
                raise ValueError(f"{len(items) // per_key} keys pass the limit of {limits.keys_per_request_max}")
            for index, item in enumerate(items):
                is_value = kind == "v" or (kind == "P" and index % 2)
                limit = limits.value_bytes_max if is_value else limits.key_bytes_max
                if len(item) > limit:
                    raise ValueError(
                        f"a {'value' if is_value else 'key'} of {len(item)} bytes passes the limit of {limit}"
                    )
