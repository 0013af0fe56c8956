"""Whether what the clients of a store saw can be explained by one order of their calls.

A store is *linearizable* if every call seems to take effect at one moment between its start and its end. `contradiction`
looks for such an order, for each key by itself, in a recorded history; if there is none, it says which calls disagree.

Record each call of each client, with the times before and after it on a clock that all of them share (on one machine,
`time.monotonic`), and pass each connection's calls through `settled` first: in the protocol of c10d's TCPStore some
writes have no reply, and the client comes back from them before anything has happened. ::

    history = [call for log in logs for call in settled(log)]
    assert (found := contradiction(history)) is None, found

The names of calls are those of the store's methods. Keys and queues are two name spaces, as in the store. A call that
stores several keys is recorded as one for each: that they change together is not looked at here.

Method: Wing and Gong's search with the memory of Lowe, for one key at a time, since an order for each key makes one for
all. Knows neither sockets nor clocks, nor the store's code.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    State = bytes | tuple[bytes, ...] | None  # a key's value, if any, or a queue's items
    Effect = tuple[State, object]  # what is then stored, and what the call returns

NEVER = math.inf
UNREPLIED = frozenset({"set", "append", "queue_push"})
"""The calls that return before anything is certain, unless recorded with ``certain=True``."""

STATES_MAX = 2_000_000  # some GB of memory at most, and a minute
_STATES_MAX_TO_SHORTEN = 20_000


class _Unknown:
    """What a call returned whose reply has been lost; equal to nothing else."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN = _Unknown()


class UndecidedError(RuntimeError):
    """So many calls overlap that the search was given up before it had found an order or ruled all out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of one client.

    Attributes:
        client: Who called, for messages.
        name: What was called: ``get``, ``check``, ``set``, ``append``, ``add``, ``compare_set``, ``delete_key``,
            ``queue_push``, ``queue_pop`` or ``queue_len``.
        key: The one key or queue.
        arguments: The other arguments; values are bytes.
        result: What was returned, ``None`` for a pop that found the queue empty; `UNKNOWN` if the reply was lost. A
            call that is known not to have happened, such as a get that timed out, is not recorded at all.
        called_at: When it began, in seconds.
        ended_at: When it was over, in seconds; `NEVER` if it may still happen at any time, or not at all.
        certain: Whether it had really happened when it was over, though its name is one of `UNREPLIED`.
    """

    client: str
    name: str
    key: str
    arguments: tuple[bytes | int, ...] = ()
    result: object = None
    called_at: float
    ended_at: float = NEVER
    certain: bool = False

    def __str__(self) -> str:
        """One line of a history."""
        ended = "      ..." if self.ended_at == NEVER else f"{self.ended_at:9.6f}"
        arguments = ", ".join(map(repr, (self.key, *self.arguments)))
        return f"{self.called_at:9.6f} to {ended}  {self.client}: {self.name}({arguments}) -> {self.result!r}"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Calls on one key that no order explains.

    Attributes:
        calls: Those that disagree, by the time they began.
        beside: How many other calls there were on the key before. None of them resolves the contradiction, even if each
            could have happened at any time, or not at all.
    """

    calls: tuple[Call, ...]
    beside: int

    def __str__(self) -> str:
        lines = [f"no order explains these calls, whatever the {self.beside} others before them did:"]
        since = self.calls[0].called_at
        for call in self.calls:
            shifted = replace(call, called_at=call.called_at - since, ended_at=call.ended_at - since)
            lines.append(f"  {shifted}")
        return "\n".join(lines)


def settled(log: Iterable[Call]) -> list[Call]:
    """The calls of one connection with the times by which they had really happened.

    A write without a reply is only certain when a later call of its connection has been answered; if none was, it may
    happen at any time, or never.

    Args:
        log: The calls of one connection, in the order in which they were made.
    """
    calls: list[Call] = []
    certain_at = NEVER
    for call in reversed(list(log)):
        if call.name in UNREPLIED and not call.certain:
            calls.append(replace(call, ended_at=certain_at if call.result is not UNKNOWN else NEVER))
            continue
        calls.append(call)
        if call.result is not UNKNOWN:
            certain_at = min(certain_at, call.ended_at)
    return calls[::-1]


def contradiction(calls: Iterable[Call], *, states_max: int = STATES_MAX) -> Contradiction | None:
    """The calls that no order explains, or ``None`` if all can be explained.

    Args:
        calls: A history, in any order.
        states_max: How many states to look at for each key before giving up.

    Raises:
        ValueError: A call has a name that is not known here.
        UndecidedError: It was given up.
    """
    spaces: dict[Hashable, list[Call]] = defaultdict(list)
    for call in calls:
        if call.name not in _EFFECTS:
            raise ValueError(f"there is no model of {call.name!r}: the names are {', '.join(_EFFECTS)}")
        spaces[call.name.startswith("queue_"), call.key].append(call)
    for space in spaces.values():
        if not _has_order(space, states_max):
            return _shortest(space, states_max)
    return None


# The search


def _has_order(calls: Sequence[Call], states_max: int) -> bool:
    """Whether some order of the calls, each within its time, gives their results; those that never end may be left out."""
    calls = sorted(calls, key=lambda call: call.called_at)
    by_end = sorted((call.ended_at, index) for index, call in enumerate(calls) if call.ended_at != NEVER)
    start: State = () if calls and calls[0].name.startswith("queue_") else None
    stack: list[tuple[int, int, State]] = [(0, 0, start)]  # which have happened, how many of by_end, what is stored
    seen: set[tuple[int, State]] = set()
    while stack:
        happened, ended, state = stack.pop()
        while ended < len(by_end) and happened >> by_end[ended][1] & 1:
            ended += 1
        if ended == len(by_end):
            return True
        if len(seen) > states_max:
            raise UndecidedError(f"gave up after {len(seen)} states: {len(calls)} calls on {calls[0].key!r} overlap")
        first_end = by_end[ended][0]
        for index in reversed(range(_count_called_by(calls, first_end))):
            if happened >> index & 1:
                continue
            effect = _effect(calls[index], state)
            if effect is not None and (after := (happened | 1 << index, effect)) not in seen:
                seen.add(after)
                stack.append((after[0], ended, effect))
    return False
