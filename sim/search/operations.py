"""The calls on the store that a trace holds, for `sim.check`: what each client asked, and was told.

Knows the trace's entries and the wire's commands. A client is one connection of one task: who has lost it is another
one afterwards, and what it had asked may have happened or not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from sim.check.linearizable import UNKNOWN, Call, settled
from sim.check.stale import Access
from sim.virtual.kernel import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ENDS = ("lose", "returned", "raised", "cancelled", "crashed")
_NAMES = {wire.COMPARE_SET: "compare_set", wire.ADD: "add", wire.DELETE_KEY: "delete_key"}

_KEY = re.compile(rb"/rdzv/[^/]+/(\d+)/(\w+)")  # of one round; there they count from 0


def accesses(trace: Iterable[Sequence[Any]]) -> Iterator[Access]:
    """All keys of rounds that were asked for, in order of time.

    Args:
        trace: As `sim.virtual.world.World` keeps it.
    """
    for at, who, what, *details in trace:
        for op, *fields in details[1] if what == "ask" else ():
            for key in _keys(op, fields):
                if match := _KEY.match(key):
                    number, name = int(match[1]) + 1, match[2].decode()
                    yield Access(at / SECOND, who, number, name, deletes=op == wire.DELETE_KEY)


def _keys(op: int, fields: Sequence[Any]) -> Sequence[bytes]:
    layout = wire.REQUEST_LAYOUTS[op]
    keys: Sequence[bytes] = fields[: layout.startswith("k")]
    if layout in ("K", "P"):
        keys = fields[0][:: 1 + (layout == "P")]
    return keys


def operations(trace: Iterable[Sequence[Any]]) -> list[Call]:
    """All calls, each with the times between which it took effect.

    Args:
        trace: As `sim.virtual.world.World` keeps it.
    """
    logs: defaultdict[str, list[Call]] = defaultdict(list)
    lives: defaultdict[str, int] = defaultdict(int)
    pending: dict[str, tuple[int, Sequence[Any]]] = {}
    for at, who, what, *details in trace:
        if what not in ("ask", "get", *_ENDS):
            continue
        name = f"{who} {details[0] if details else ''}"
        client = f"{name}, {lives[name]}"
        if what == "ask":
            logs[client] += _calls(client, pending.pop(name, None), None, at)
            pending[name] = at, details[1]
        else:
            logs[client] += _calls(client, pending.pop(name, None), details[1] if what == "get" else None, at)
            lives[name] += what in _ENDS
    for name, asked in pending.items():
        client = f"{name}, {lives[name]}"
        logs[client] += _calls(client, asked, None, 0)
    return [call for log in logs.values() for call in settled(log)]


def _calls(client: str, asked: tuple[int, Sequence[Any]] | None, told: Any, ended_at: int) -> Iterator[Call]:
    """What was asked at a time, with what was told of it; ``None`` if nothing was."""
    if asked is None:
        return
    called_at, requests = asked
    if isinstance(told, tuple):
        told = [told[:1]]  # of the document: its state, and what goes with it
    replies = iter(told or ())
    for op, *fields in requests:
        reply = next(replies, None) if wire.REPLY_LAYOUTS[op] else ()
        for name, key, arguments, result in _meaning(op, fields, reply):
            yield Call(
                client=client,
                name=name,
                key=key.decode(errors="replace"),
                arguments=arguments,
                result=result,
                called_at=called_at / SECOND,
                ended_at=ended_at / SECOND,
            )


def _meaning(op: int, fields: Sequence[Any], reply: Any) -> Iterator[tuple[str, bytes, tuple[Any, ...], object]]:
    """One request as calls on single keys: name, key, arguments, result. A value that is empty is none."""
    if op in _NAMES:
        key, *arguments = fields
        result = UNKNOWN if reply is None else bool(reply[0]) if op == wire.DELETE_KEY else reply[0]
        yield _NAMES[op], key, tuple(arguments), result
    elif op in (wire.SET, wire.MULTI_SET):
        items = fields if op == wire.SET else fields[0]
        for key, value in zip(items[::2], items[1::2], strict=True):
            yield "set", key, (value,), None
    elif op in (wire.GET, wire.MULTI_GET) and reply is not None:
        keys = fields if op == wire.GET else fields[0]
        for key, value in zip(keys, reply, strict=True):
            yield ("get", key, (), value) if value else ("check", key, (), False)
