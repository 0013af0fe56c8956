"""Requests of one key that are there as a whole, which is nearly all that a server is asked: read without a reader.

For each layout of `wire` that has one key, `WHOLE` has a function that calls a command with the fields of such a
request. It returns the command's reply, or ``None`` if the bytes are anything else: more, less, or of several keys. It
knows no limits: who calls it sees to it that the bytes are too few to pass one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from rdzv.core.requests import NOT_WHOLE
from rdzv.core.wire import I64, U64

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from rdzv.core.server import Connection

    Command: TypeAlias = Callable[..., bytes]  # of the connection and the fields of its layout; the reply's bytes

read_head = struct.Struct("<BQ").unpack_from
"""A command, and the number behind it: how long its key is, or how many keys it has; raises one of `NO_HEAD`."""

NO_HEAD = (struct.error, KeyError)  # the bytes are too few; or `WHOLE` has no such request

_read_u64, _read_i64 = U64.unpack_from, I64.unpack_from


def _whole_k(command: Command, connection: Connection, data: bytes, key_bytes: int) -> bytes | None:
    return command(connection, data[9:]) if len(data) == 9 + key_bytes else None


def _whole_ki(command: Command, connection: Connection, data: bytes, key_bytes: int) -> bytes | None:
    end = 9 + key_bytes
    return command(connection, data[9:end], _read_i64(data, end)[0]) if len(data) == end + 8 else None


def _whole_kv(command: Command, connection: Connection, data: bytes, key_bytes: int) -> bytes | None:
    end = 9 + key_bytes
    try:
        is_whole = len(data) == end + 8 + _read_u64(data, end)[0]
    except NOT_WHOLE:
        return None
    return command(connection, data[9:end], data[end + 8 :]) if is_whole else None


def _whole_kvv(command: Command, connection: Connection, data: bytes, key_bytes: int) -> bytes | None:
    end = 9 + key_bytes
    try:
        middle = end + 8 + _read_u64(data, end)[0]
        is_whole = len(data) == middle + 8 + _read_u64(data, middle)[0]
    except NOT_WHOLE:
        return None
    return command(connection, data[9:end], data[end + 8 : middle], data[middle + 8 :]) if is_whole else None


def _whole_one_of_many(command: Command, connection: Connection, data: bytes, count: int) -> bytes | None:
    if count != 1 or len(data) < 17 or len(data) != 17 + _read_u64(data, 9)[0]:
        return None
    return command(connection, data[17:])


WHOLE = {"k": _whole_k, "ki": _whole_ki, "kv": _whole_kv, "kvv": _whole_kvv, "K": _whole_one_of_many}
