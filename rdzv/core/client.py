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

# A reply may be larger than any request: APPEND grows a stored value, and a store has as many keys as it has.
_REPLIED_VALUE_BYTES_MAX = 1 << 40
_REPLIED_KEYS_MAX = 1 << 24


class ClientCore:
    """One connection to a store.

    Attributes:
        unconfirmed: How many writes without a reply have been asked for since the last request that has one.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._reader = FrameReader(
            Limits(
                key_bytes_max=self._limits.key_bytes_max,
                value_bytes_max=_REPLIED_VALUE_BYTES_MAX,
                keys_per_request_max=_REPLIED_KEYS_MAX,
            )
        )
        self._expected: deque[tuple[int, str]] = deque()
        self.unconfirmed = 0

    @property
    def awaited(self) -> int:
        """How many replies are still to come."""
        return len(self._expected)

    def request(self, *requests: Request) -> bytes:
        """The bytes of some requests, each a command and its fields; the replies of those that have one are awaited.

        Raises:
            ValueError: A key, a value or a count passes what the protocol allows; nothing is awaited.
        """
        for op, *fields in requests:
            self._check_limits(op, fields)
        for op, *fields in requests:
            layout = wire.REPLY_LAYOUTS[op]
            if op == wire.MULTI_GET:
                layout = "v" * len(fields[0])  # type: ignore[arg-type]
            if layout:
                self._expected.append((op, layout))
                self.unconfirmed = 0
            elif op not in (wire.VALIDATE, wire.MULTI_GET):
                self.unconfirmed += 1
        return b"".join([wire.encode(*request) for request in requests])

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        """The replies that are complete with these bytes: each the command and the reply's fields.

        When a WAIT was met while its CANCEL_WAIT was under way, both replies come, in this order.

        Raises:
            WireError: The server does not speak the protocol.
        """
        self._reader.feed(data)
        replies: list[tuple[int, Reply]] = []
        while self._expected:
            op, layout = self._expected[0]
            reply = self._reader.reply(layout)
            if reply is None:
                return replies
            self._expected.popleft()
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
