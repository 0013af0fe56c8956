"""What each call of a store means, on one key, as a function: what is stored after it, if it may return what it did.

Written anew from the protocol, not taken from the store's code, which is what it is to judge.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Special(Enum):
    """What is neither a value nor a result.

    Attributes:
        UNKNOWN: What a call returned whose reply was lost.
        ANYTHING: The key may have any value, or none, or the queue any items.
        IMPOSSIBLE: The call cannot return this, or not now.
    """

    UNKNOWN = "unknown"
    ANYTHING = "anything"
    IMPOSSIBLE = "impossible"

    def __repr__(self) -> str:
        return "?" if self is Special.UNKNOWN else self.value


UNKNOWN: Literal[Special.UNKNOWN] = Special.UNKNOWN
ANYTHING: Literal[Special.ANYTHING] = Special.ANYTHING
IMPOSSIBLE: Literal[Special.IMPOSSIBLE] = Special.IMPOSSIBLE

State = bytes | tuple[bytes, ...] | Special | None
"""A key's value, ``None`` if it has none; a queue's items."""

READS = frozenset({"get", "check", "queue_len"})
"""The calls that leave everything as it is."""


def initial(name: str) -> State:
    """What is stored before the first call, if this is one of the calls: no value, or no items."""
    return () if name.startswith("queue_") else None


def after(name: str, arguments: Sequence[bytes | int], result: object, state: State) -> State:
    """What is stored after a call, or `IMPOSSIBLE`.

    Args:
        name: The call.
        arguments: Its arguments, without the key.
        result: What it returned, or `UNKNOWN`.
        state: What was stored before it, or `ANYTHING`.
    """
    if state is ANYTHING:
        return _after_anything(name, arguments, result)
    stored, returned = MODELS[name](state, *arguments)
    return stored if result in (UNKNOWN, returned) else IMPOSSIBLE


# From a state: what is stored then, and what the call returns


def _get(state: State) -> tuple[State, object]:
    return (IMPOSSIBLE if state is None else state), state  # it waits until there is a value


def _check(state: State) -> tuple[State, object]:
    return state, state is not None


def _set(_: State, value: bytes) -> tuple[State, object]:
    return value, None


def _append(state: State, value: bytes) -> tuple[State, object]:
    return (state if isinstance(state, bytes) else b"") + value, None


def _add(state: State, amount: int) -> tuple[State, object]:
    try:
        number = int(state) if isinstance(state, bytes) else 0
    except ValueError:
        return IMPOSSIBLE, None
    number = (number + amount + 2**63) % 2**64 - 2**63
    return b"%d" % number, number


def _compare_set(state: State, expected: bytes, desired: bytes) -> tuple[State, object]:
    if state == expected or (state is None and not expected):
        return desired, desired
    return state, expected if state is None else state


def _delete_key(state: State) -> tuple[State, object]:
    return None, state is not None


def _queue_push(state: State, value: bytes) -> tuple[State, object]:
    assert isinstance(state, tuple)
    return (*state, value), None


def _queue_pop(state: State) -> tuple[State, object]:
    assert isinstance(state, tuple)
    return state[1:], state[0] if state else None


def _queue_len(state: State) -> tuple[State, object]:
    assert isinstance(state, tuple)
    return state, len(state)


MODELS: dict[str, Callable[..., tuple[State, object]]] = {
    "get": _get,
    "check": _check,
    "set": _set,
    "append": _append,
    "add": _add,
    "compare_set": _compare_set,
    "delete_key": _delete_key,
    "queue_push": _queue_push,
    "queue_pop": _queue_pop,
    "queue_len": _queue_len,
}
"""The calls that are known, by name."""


def _after_anything(name: str, arguments: Sequence[bytes | int], result: object) -> State:
    """What is stored after a call that found nobody knows what, as far as its result tells."""
    match name, result:
        case "set", _:
            return arguments[0] if isinstance(arguments[0], bytes) else IMPOSSIBLE
        case ("delete_key", _) | ("check", False):
            return None
        case "get", bytes():
            return result
        case "add", int():
            return b"%d" % result
        case "compare_set", bytes() if arguments[0] != arguments[1]:
            return None if result == arguments[0] else result  # what was expected is returned only if there is nothing
        case ("queue_pop", None) | ("queue_len", 0):
            return ()
    return ANYTHING
