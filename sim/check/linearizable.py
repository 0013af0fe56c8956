"""Whether what the clients of a store saw can be explained by one order of their calls.

A store is *linearizable* if every call seems to take effect at one moment between its start and its end.
`contradiction` looks for such an order, for each key by itself, in a recorded history; if there is none, it says which
calls disagree.

Record each call of each client, with the times before and after it on a clock that all of them share (on one machine,
`time.monotonic`), and pass each connection's calls through `settled` first: in the protocol of c10d's TCPStore some
writes have no reply, and the client comes back from them before anything has happened. ::

    history = [call for log in logs for call in settled(log)]
    assert (found := contradiction(history)) is None, found

The names of calls are those of the store's methods. Keys and queues are two name spaces, as in the store; do not record
a ``check`` or ``get`` of a name that is a queue's. A call that stores several keys is recorded as one for each: that
they change together is not looked at here.

Method: Wing and Gong's search with Lowe's memory of what was seen, one key at a time, since an order for each key makes
one for all. Knows neither sockets nor clocks, nor the store's code; what calls mean is in `sim.check.models`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import dropwhile
from typing import TYPE_CHECKING

from sim.check.models import ANYTHING, IMPOSSIBLE, MODELS, READS, UNKNOWN, after, initial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sim.check.models import State

__all__ = ["NEVER", "UNKNOWN", "UNREPLIED", "Call", "Contradiction", "UndecidedError", "contradiction", "settled"]

NEVER = math.inf
UNREPLIED = frozenset({"set", "append", "queue_push"})
"""The calls that return before anything is certain, unless recorded with ``certain=True``."""

STATES_MAX = 2_000_000  # a GB of memory, and some ten seconds
_STATES_MAX_TO_SHORTEN = 20_000


class UndecidedError(RuntimeError):
    """So many calls overlap that the search was given up before it had found an order or ruled all out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of one client.

    Attributes:
        client: Who called: one connection, whose calls take effect in the order in which they were made.
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
        calls: Those that disagree, by the time they began; of those that ended after the last one here, no result.
        beside: How many others there were on the key. None of them resolves the contradiction, whatever it did.
    """

    calls: tuple[Call, ...]
    beside: int

    def __str__(self) -> str:
        since = self.calls[0].called_at
        shifted = [
            replace(call, called_at=call.called_at - since, ended_at=call.ended_at - since) for call in self.calls
        ]
        head = f"no order explains these calls, whatever {self.beside} others on the key did:"
        return "\n  ".join([head, *map(str, shifted)])


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
        if call.result is UNKNOWN:
            calls.append(replace(call, ended_at=NEVER))
        elif call.name in UNREPLIED and not call.certain:
            calls.append(replace(call, ended_at=certain_at))
        else:
            calls.append(call)
            certain_at = call.ended_at
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
    spaces: dict[tuple[bool, str], list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.called_at):
        if call.name not in MODELS:
            raise ValueError(f"there is no model of {call.name!r}, only of {', '.join(MODELS)}")
        spaces[call.name.startswith("queue_"), call.key].append(call)
    for space in spaces.values():
        if not _has_order(space, states_max):
            return _shortened(space, states_max)
    return None


def _has_order(calls: Sequence[Call], states_max: int, anything_before: float = -math.inf) -> bool:
    """Whether some order of the calls, each within its time, gives their results.

    Args:
        calls: All on one key, by the time they began. Those that never ended may be left out of the order.
        states_max: How many states to look at.
        anything_before: Other calls may have done anything until then; what began later finds what they have left.
    """
    called_at = [call.called_at for call in calls]
    behind = _behind(calls)
    by_end = sorted((call.ended_at, index) for index, call in enumerate(calls) if call.ended_at != NEVER)
    start = initial(calls[0].name) if anything_before == -math.inf else ANYTHING
    stack: list[tuple[int, int, State]] = [
        (0, 0, start)
    ]  # which calls have happened, how many of by_end, what is stored
    seen: set[tuple[int, State]] = set()
    while stack:
        happened, ended, state = stack.pop()
        while ended < len(by_end) and happened >> by_end[ended][1] & 1:
            ended += 1
        if ended == len(by_end):
            return True
        if len(seen) > states_max:
            raise UndecidedError(f"gave up after {len(seen)} states: too many calls on {calls[0].key!r} overlap")
        first = (~happened & happened + 1).bit_length() - 1
        for index in reversed(range(first, bisect_right(called_at, by_end[ended][0]))):
            if happened >> index & 1 or (behind[index] >= 0 and not happened >> behind[index] & 1):
                continue
            call = calls[index]
            stored = after(call.name, call.arguments, call.result, state)
            if state is ANYTHING and call.called_at < anything_before:
                stored = ANYTHING
            step = happened | 1 << index, stored
            if stored is not IMPOSSIBLE and step not in seen:
                seen.add(step)
                stack.append((step[0], ended, stored))
    return False


def _behind(calls: Sequence[Call]) -> list[int]:
    """For each call, which one its client made before it; -1 if there is none."""
    last: dict[str, int] = {}
    behind = []
    for index, call in enumerate(calls):
        behind.append(last.get(call.client, -1))
        last[call.client] = index
    return behind


# The search for a short contradiction: each step keeps it one, because it only allows for more.


def _shortened(calls: list[Call], states_max: int) -> Contradiction:
    def contradicts(some: list[Call], since: float = -math.inf) -> bool:
        try:
            return not _has_order(some, min(states_max, _STATES_MAX_TO_SHORTEN), since)
        except UndecidedError:
            return False

    ends = sorted({call.ended_at for call in calls if call.ended_at != NEVER})
    until = _first(ends, lambda end: contradicts(_seen_until(calls, end)))
    kept = _seen_until(calls, until)
    starts = sorted({call.called_at for call in kept}, reverse=True)
    since = _first([*starts, -math.inf], lambda start: contradicts(_ended_since(kept, start), start))
    kept = _ended_since(kept, since)
    for call in tuple(kept):
        without = [other for other in kept if other is not call]
        loose = [] if call.name in READS else [_loosened(call)]
        if without and contradicts([*loose, *without], since):
            kept = [*loose, *without]
    kept = list(dropwhile(lambda call: call.called_at == -math.inf, kept))
    return Contradiction(tuple(kept), len(calls) - len(kept))


def _first(values: Sequence[float], holds: Callable[[float], bool]) -> float:
    """The first for which it holds, if from then on it holds for all; the last one if it is never found to hold."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(values[middle]) else (middle + 1, high)
    return values[low]


def _seen_until(calls: Sequence[Call], until: float) -> list[Call]:
    """The history as it stood at a time: of what was still under way, nothing is known."""
    begun = [call for call in calls if call.called_at <= until]
    return [call if call.ended_at <= until else replace(call, ended_at=NEVER, result=UNKNOWN) for call in begun]


def _loosened(call: Call) -> Call:
    """The call, which may now happen at any time, or not at all."""
    return replace(call, client=f"{call.client}, loose", called_at=-math.inf, ended_at=NEVER, result=UNKNOWN)


def _ended_since(calls: Sequence[Call], since: float) -> list[Call]:
    return [call for call in calls if call.ended_at >= since]
