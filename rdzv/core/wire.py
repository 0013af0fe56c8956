"""The frames of c10d's TCPStore protocol, for both directions.

The protocol has no frame length: a reader must parse to find the end of a frame. So a frame is described by a *layout*,
a string with one letter for each field, and one reader serves requests and replies alike:

====== ======================================= ====================================
letter on the wire (little-endian)             in Python
====== ======================================= ====================================
``k``  u64 length, then that many bytes        bytes, at most ``key_bytes_max``
``v``  the same                                bytes, at most ``value_bytes_max``
``i``  i64                                     int
``n``  u32                                     int
``b``  u8                                      int
``K``  u64 count, then that many ``k``         each key is a field of its own
``P``  u64 count, then that many ``k`` ``v``   each key and value is a field of its own
``q``  i64 length; if above 0, then one ``v``  int, then perhaps bytes
``L``  i64 count, then that many ``k``         each key is a field of its own
====== ======================================= ====================================

A frame may arrive in any pieces. Whole fields are kept as they come and never parsed twice, so that reading is linear
in the bytes, and nothing is handed out before its frame is complete.

Source: the protocol as torch 2.13 speaks it. What a command means is for `keyspace` and `server` to know.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from rdzv.core.requests import ENCODE, NOT_WHOLE, SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from typing_extensions import Unpack

    Field = bytes | int | Sequence[bytes]
    Request = tuple[int, Unpack[tuple[Field, ...]]]  # a command, and its fields as its layout has them
    Reply = list[bytes | int]  # the fields that its layout has

MAGIC = 0x3C85F7CE

VALIDATE, SET, COMPARE_SET, GET, ADD, CHECK, WAIT, GETNUMKEYS, DELETE_KEY, APPEND = range(10)
MULTI_GET, MULTI_SET, CANCEL_WAIT, PING, QUEUE_PUSH, QUEUE_POP, QUEUE_LEN, LIST_KEYS, BARRIER = range(10, 19)

COMMANDS = (
    "validate set compare_set get add check wait getnumkeys delete_key append "
    "multi_get multi_set cancel_wait ping queue_push queue_pop queue_len list_keys barrier"
).split()
"""The name of each command, indexed by the command."""

REQUEST_LAYOUTS = "n kv kvv k ki K K - k kv K P - n kv k k - ki".replace("-", "").split(" ")
"""The layout of each request after its command byte, indexed by the command."""

REPLY_LAYOUTS = "- - v v i b b i i - V - b n - q i L b".replace("-", "").split(" ")
"""The layout of each reply, indexed by the command; MULTI_GET's ``V`` stands for one ``v`` for each key asked for."""

STOP_WAITING, WAIT_CANCELED = b"\x00", b"\x01"
READY, NOT_READY = b"\x00", b"\x01"

U8, U32, U64, I64 = map(struct.Struct, ("<B", "<I", "<Q", "<q"))
_UNPACK_U64 = U64.unpack_from
_SCALARS = {"i": I64, "n": U32, "b": U8}
_REPEATED = {"K": "k", "P": "kv", "L": "k"}
_FIELD_KINDS = [_REPEATED.get(layout, layout) for layout in REQUEST_LAYOUTS]
_SMALL = [SMALL[layout] for layout in REQUEST_LAYOUTS]
_NO_FIELDS: Reply = []  # of all readers that hold none yet: each begins a list of its own
_FIELD_BYTES = 64  # what a field costs beside its bytes, about: an object and its place in a list


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of anything one store holds. The first three are torch's own, and part of the protocol.

    Attributes:
        key_bytes_max: One key, prefix and "/" included, in bytes.
        value_bytes_max: One value as sent, in bytes; APPEND may grow a stored one beyond it.
        keys_per_request_max: Keys in one CHECK, WAIT, MULTI_GET or MULTI_SET.
        reply_bytes_max: One reply, in bytes (a MULTI_GET may name a large value often).
        connections_max: Clients connected at one time.
        stored_bytes_max: All keys, values and queued items together, in bytes; what would go beyond is refused.
        held_bytes_max: All half-read requests, unread replies and waits together, in bytes; beyond it, the client for
            whom most is held is let go.
        patience_s: For how long a connection may owe its handshake, leave its replies unread, or send nothing more of a
            request that it has begun, in seconds.
    """

    key_bytes_max: int = 8192
    value_bytes_max: int = 8 << 20
    keys_per_request_max: int = 131072
    reply_bytes_max: int = 256 << 20
    connections_max: int = 65536
    stored_bytes_max: int = 4 << 30
    held_bytes_max: int = 1 << 30
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")


class WireError(Exception):
    """The peer's bytes are not this protocol, or go past a limit: its connection must be closed."""


def encode(op: int, *fields: Field) -> bytes:
    """One request as bytes; a ``K`` or ``P`` field is a sequence of its items."""
    if len(fields) != len(REQUEST_LAYOUTS[op]):
        raise ValueError(f"{COMMANDS[op].upper()} has {len(REQUEST_LAYOUTS[op])} fields, not {len(fields)}")
    return ENCODERS[op]((op, *fields))


def encode_all(requests: Sequence[Request]) -> bytes:
    """Some requests as bytes, each with as many fields as it must have. Hot."""
    if len(requests) == 1:
        request = requests[0]
        return ENCODERS[request[0]](request)
    return b"".join([ENCODERS[request[0]](request) for request in requests])


ENCODERS = [ENCODE[layout] for layout in REQUEST_LAYOUTS]  # by command: of a request, they make bytes


def _whole_value(
    data: bytes, u64: Callable[[bytes], tuple[int]] = _UNPACK_U64, size: Callable[[bytes], int] = len
) -> tuple[bytes]:
    (length,) = u64(data)
    if size(data) != 8 + length:
        raise struct.error
    return (data[8:],)


_WHOLE: dict[str, Callable[[bytes], tuple[Any]]] = {"v": _whole_value}
_WHOLE |= {kind: number.unpack for kind, number in _SCALARS.items()}
WHOLE_REPLIES = [_WHOLE.get(layout) for layout in REPLY_LAYOUTS]
"""By command: what makes of a reply's bytes the number or the value that the reply is, alone in a tuple.

They raise a `struct.error` if the bytes are anything else: more, less, or of another length than they say. It is
``None`` for a command that has no reply, or one that is more than one thing."""


NUMBER, VALUE, VALUES = range(3)
_BEGIN = {**_WHOLE, "v": _UNPACK_U64, "V": _UNPACK_U64}
_REPLY_KINDS = {"v": VALUE, "V": VALUES}
EXCHANGES = [
    (ENCODERS[op], _BEGIN.get(layout), _REPLY_KINDS.get(layout, NUMBER)) for op, layout in enumerate(REPLY_LAYOUTS)
]
"""By command, in one place for who has to be quick: its encoder; what unpacks its reply, ``None`` if it has none or one
of another kind; and the kind. It unpacks the number that the reply is, or the length of its first value."""


def whole_replies(layouts: Sequence[str], data: bytes) -> list[Reply] | None:
    """The replies that these bytes are, if they are all of them, and each is one number, or values. Hot.

    They may be anything else, for which it returns ``None``: a `FrameReader` sees what.

    Args:
        layouts: What is expected.
        data: All that has come.
    """
    if len(layouts) == 1 and layouts[0] == "v" and len(data) >= 8:  # nearly always
        return [[data[8:]]] if len(data) == 8 + _UNPACK_U64(data)[0] else None
    replies: list[Reply] = []
    end = 0
    try:
        for layout in layouts:
            if layout == "v":
                begin = end + 8
                end = begin + _UNPACK_U64(data, end)[0]
                replies.append([data[begin:end]])
            elif layout in _SCALARS:
                number = _SCALARS[layout]
                replies.append([*number.unpack_from(data, end)])
                end += number.size
            elif layout.strip("v"):
                return None
            else:
                values: Reply = []
                for _ in layout:
                    begin = end + 8
                    end = begin + _UNPACK_U64(data, end)[0]
                    values.append(data[begin:end])
                replies.append(values)
    except (struct.error, OverflowError):
        return None
    return replies if end == len(data) else None


def whole_values(data: bytes, count: int) -> Reply | None:
    """The reply to a MULTI_GET of so many keys, if these bytes are all of it, and no more."""
    replies = whole_replies(("v" * count,), data)
    return replies[0] if replies else None


@cache
def _kinds(key_bytes_max: int, value_bytes_max: int) -> dict[str, tuple[Callable[..., tuple[int]], int, int | None]]:
    """The number that each letter begins with: how to unpack it, its width, and the greatest length it may announce.

    The last is 0 where the number is a count, and ``None`` where it is the field itself.
    """
    numbers = {**dict.fromkeys("kvKPL", U64), "q": I64, **_SCALARS}
    sizes = {"k": key_bytes_max, "v": value_bytes_max, **dict.fromkeys(_SCALARS)}
    return {kind: (number.unpack_from, number.size, sizes.get(kind, 0)) for kind, number in numbers.items()}


class FrameReader:
    """Takes bytes in any pieces, gives fields back a frame at a time.

    Attributes:
        is_between_frames: Whether no frame is unfinished, so that nothing is held.
    """

    __slots__ = (
        "_buffer",
        "_fields",
        "_fields_bytes",
        "_keys_max",
        "_kinds",
        "_layout",
        "_op",
        "_pos",
        "_small_bytes_max",
        "is_between_frames",
    )

    def __init__(self, limits: Limits) -> None:
        self._kinds = _kinds(limits.key_bytes_max, limits.value_bytes_max)
        self._keys_max = limits.keys_per_request_max
        # What is no longer than this as a whole passes no limit in any part.
        self._small_bytes_max = min(limits.key_bytes_max, limits.value_bytes_max, self._keys_max)
        self._buffer: bytes | bytearray = b""
        self._pos = 0  # everything in the buffer before this is read
        self._op = 0
        self._layout: str | None = None  # of what is still to come of the frame that has begun
        self._fields = _NO_FIELDS  # what has come of it
        self._fields_bytes = 0
        self.is_between_frames = True

    @property
    def held_bytes(self) -> int:
        """What an unfinished frame occupies by now, in bytes."""
        return len(self._buffer) - self._pos + self._fields_bytes + len(self._layout or "")

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if not self._buffer:
            self._buffer = data  # the usual case, without a copy: whole frames have been read
        else:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            del self._buffer[: self._pos]
            self._buffer += data
        self._pos = 0
        self.is_between_frames = self.is_between_frames and not data

    def next_op(self) -> int | None:
        """The command of the request that has begun, or begins next; ``None`` until a byte of it has come."""
        if self._layout is not None:
            return self._op
        return self._buffer[self._pos] if self._buffer else None

    def request(self, data: bytes = b"") -> tuple[int, Reply] | None:
        """The next whole request, a command and its fields, or ``None`` until more bytes come.

        Args:
            data: The next bytes of the stream, which need not be fed then.

        Raises:
            WireError: There is no such command, or a limit is passed.
        """
        if data:
            self.feed(data)
        if self._layout is not None:
            fields = self._read(self._layout, self._pos, self._fields)
        elif self.is_between_frames:
            return None
        else:
            buffer, pos = self._buffer, self._pos
            if type(buffer) is bytes and (request := self._small_request(buffer, pos)):
                return request
            op = self._op = buffer[pos]
            if op >= len(REQUEST_LAYOUTS):
                raise WireError(f"there is no command {op}")
            fields = self._read(REQUEST_LAYOUTS[op], pos + 1, [])
        return None if fields is None else (self._op, fields)

    def _small_request(self, data: bytes, begin: int) -> tuple[int, Reply] | None:
        """The request that begins there in the buffer, if it is whole and of few keys; else `_read` sees why not.

        It is, when a client sends a few requests at once. Then nothing has to be checked before it is known that
        something is missing, nor kept between two reads: a third of the time.
        """
        op = data[begin]
        try:
            end, fields = _SMALL[op](data, begin + 1)
        except NOT_WHOLE:
            return None
        if end > len(data) or (end - begin > self._small_bytes_max and not self._is_within_limits(op, fields)):
            return None
        if end < len(data):
            self._pos = end
        else:
            self._buffer, self._pos, self.is_between_frames = b"", 0, True
        return op, fields

    def _is_within_limits(self, op: int, fields: Reply) -> bool:
        kinds = _FIELD_KINDS[op]
        count = len(fields) // len(kinds)
        if count > self._keys_max:
            return False
        for kind, field in zip(kinds * count, fields, strict=True):
            if type(field) is bytes and len(field) > (self._kinds[kind][2] or 0):
                return False
        return True

    def reply(self, layout: str, data: bytes = b"") -> Reply | None:
        """The next whole reply of that layout, or ``None`` until more bytes come; ask again with the same layout.

        Args:
            layout: What is expected.
            data: The next bytes of the stream, which need not be fed then.

        Raises:
            WireError: A limit is passed.
        """
        if data:
            self.feed(data)
        if self._layout is not None:
            return self._read(self._layout, self._pos, self._fields)
        return self._read(layout, self._pos, [])

    def _read(self, layout: str, pos: int, fields: Reply) -> Reply | None:
        """Read what a layout has, behind the fields that are known; the frame's fields once it is complete. Hot."""
        buffer, kinds, known = self._buffer, self._kinds, len(fields)
        end = len(buffer)
        for kind in layout:
            unpack, width, size_max = kinds[kind]
            start = pos + width
            if start > end:
                break
            (number,) = unpack(buffer, pos)
            if size_max is None:
                fields.append(number)
                pos = start
            elif size_max:
                if number > size_max:
                    what = "key" if kind == "k" else "value"
                    raise WireError(f"a {what} of {number} bytes passes the limit of {size_max}")
                if start + number > end:
                    break
                pos = start + number
                field = buffer[start:pos]
                fields.append(field if isinstance(field, bytes) else bytes(field))
            else:  # a count, which is the last of its layout
                return self._read(self._expand(kind, number, fields), start, fields)
        else:
            if pos == end:  # let go of the bytes: an idle connection must not keep those that came last
                self._buffer, pos, self.is_between_frames = b"", 0, True
            self._pos = pos
            if self._layout is not None:
                self._layout, self._fields, self._fields_bytes = None, _NO_FIELDS, 0
            return fields
        if pos:
            self._buffer, self._pos = buffer[pos:], 0
        self._layout, self._fields, self.is_between_frames = layout[len(fields) - known :], fields, False
        self._fields_bytes += sum(len(field) + _FIELD_BYTES for field in fields[known:] if isinstance(field, bytes))
        return None

    def _expand(self, kind: str, count: int, fields: Reply) -> str:
        """The layout of what follows a count."""
        if kind == "q":
            fields.append(count)
            return "v" if count > 0 else ""
        if count > self._keys_max:
            raise WireError(f"{count} keys in one frame pass the limit of {self._keys_max}")
        return _REPEATED[kind] * count
