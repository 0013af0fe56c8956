"""Requests as bytes, and back where they stand whole in the bytes of one read, one behind the other.

For each layout of `wire`, `ENCODE` has a function that makes bytes of a request, a command and its fields.

`SMALL` has one that is given some bytes and where the fields begin, behind the command. It returns where they end, and
the fields. If they are not whole, that is beyond the end of the bytes, or it raises one of `NOT_WHOLE`; so it does if
there are many keys. It knows no limits: those are for who calls it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Fields: TypeAlias = list[bytes | int]
    _Pack: TypeAlias = Callable[..., bytes]
    _Length: TypeAlias = Callable[[bytes], int]

_ITEMS_MAX = 64  # more are not begun with, since all would be read in vain if the last one is still to come
_KEPT_BYTES_MAX = 255  # for longer keys, which are few, a packer is made each time
NOT_WHOLE = (struct.error, IndexError, OverflowError)

_PACK_HEAD, _PACK_HEADS = struct.Struct("<BQ").pack, struct.Struct("<BQQ").pack  # a command and what is behind it
_PACK_NUMBER, _PACK_U64 = struct.Struct("<BI").pack, struct.Struct("<Q").pack
_read_u32, _read_u64, _read_i64 = (struct.Struct(number).unpack_from for number in ("<I", "<Q", "<q"))


class _Packers(dict[int, "_Pack"]):
    """By the length of a key in bytes: what packs a command, that length, the key, and something behind it, at once."""

    def __init__(self, behind: str) -> None:
        self._behind = behind

    def __missing__(self, size: int) -> _Pack:
        pack = struct.Struct(f"<BQ{size}s{self._behind}").pack
        if size <= _KEPT_BYTES_MAX:
            self[size] = pack
        return pack


_KEY, _KEY_NUMBER, _KEY_LENGTH = _Packers(""), _Packers("q"), _Packers("Q")

# One encoder for each layout: a loop over its letters takes twice as long. What they use is bound to their parameters:
# to look a name up in a module touches more memory than all else that they do, which is cold in most processes.


def _encode_key(request: Any, packers: _Packers = _KEY, length: _Length = len) -> bytes:
    op, key = request
    size = length(key)
    return packers[size](op, size, key)


def _encode_key_number(request: Any, packers: _Packers = _KEY_NUMBER, length: _Length = len) -> bytes:
    op, key, number = request
    size = length(key)
    return packers[size](op, size, key, number)


def _encode_key_value(request: Any, packers: _Packers = _KEY_LENGTH, length: _Length = len) -> bytes:
    op, key, value = request
    size = length(key)
    return b"".join((packers[size](op, size, key, length(value)), value))


def _encode_key_values(
    request: Any, packers: _Packers = _KEY_LENGTH, length: _Length = len, u64: _Pack = _PACK_U64
) -> bytes:
    op, key, first, second = request
    size = length(key)
    return b"".join((packers[size](op, size, key, length(first)), first, u64(length(second)), second))


def _encode_items(request: Any, per_count: int = 1) -> bytes:
    op, items = request
    if len(items) == 1:
        return _PACK_HEADS(op, 1, len(items[0])) + items[0]  # type: ignore[no-any-return]
    parts = [_PACK_HEAD(op, len(items) // per_count)]
    for item in items:
        parts += (_PACK_U64(len(item)), item)
    return b"".join(parts)


ENCODE: dict[str, Callable[[Any], bytes]] = {
    "": bytes,
    "n": lambda request: _PACK_NUMBER(*request),
    "k": _encode_key,
    "ki": _encode_key_number,
    "kv": _encode_key_value,
    "kvv": _encode_key_values,
    "K": _encode_items,
    "P": lambda request: _encode_items(request, 2),
}


# And back.


def _nothing(_: bytes, pos: int) -> tuple[int, Fields]:
    return pos, []


def _number(data: bytes, pos: int) -> tuple[int, Fields]:
    return pos + 4, [*_read_u32(data, pos)]


def _key(data: bytes, pos: int) -> tuple[int, Fields]:
    end = pos + 8 + _read_u64(data, pos)[0]
    return end, [data[pos + 8 : end]]


def _key_number(data: bytes, pos: int) -> tuple[int, Fields]:
    end = pos + 8 + _read_u64(data, pos)[0]
    return end + 8, [data[pos + 8 : end], *_read_i64(data, end)]


def _key_value(data: bytes, pos: int) -> tuple[int, Fields]:
    middle = pos + 8 + _read_u64(data, pos)[0]
    end = middle + 8 + _read_u64(data, middle)[0]
    return end, [data[pos + 8 : middle], data[middle + 8 : end]]


def _key_values(data: bytes, pos: int) -> tuple[int, Fields]:
    first = pos + 8 + _read_u64(data, pos)[0]
    second = first + 8 + _read_u64(data, first)[0]
    end = second + 8 + _read_u64(data, second)[0]
    return end, [data[pos + 8 : first], data[first + 8 : second], data[second + 8 : end]]


def _items(data: bytes, pos: int, per_count: int = 1) -> tuple[int, Fields]:
    fields: Fields = []
    end, count = pos + 8, per_count * _read_u64(data, pos)[0]
    if count > _ITEMS_MAX:
        raise IndexError
    for _ in range(count):
        begin = end + 8
        end = begin + _read_u64(data, end)[0]
        fields.append(data[begin:end])
    return end, fields


SMALL: dict[str, Callable[[bytes, int], tuple[int, Fields]]] = {
    "": _nothing,
    "n": _number,
    "k": _key,
    "ki": _key_number,
    "kv": _key_value,
    "kvv": _key_values,
    "K": _items,
    "P": lambda data, pos: _items(data, pos, 2),
}
