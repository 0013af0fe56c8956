"""What supervisor, keeper and ranks say to each other: frozen values, and the one line of JSON each travels as.

Knows nothing of sockets (that is `sim.process.channel`). All times are those of `time.monotonic`, in seconds: one
clock on one machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from sim.check.history import Meeting


@dataclass(frozen=True, slots=True)
class StartJob:
    """To the keeper: fork a rank of the built-in job. With it: the rank's socket and, for rank 0, the listening one.

    Attributes:
        rank: Its number, from 0.
        world_size: How many there are.
        rounds: How often they meet.
        endpoint: Where, as text.
        run_id: Under which name.
        deadline_at: When the rank itself gives up waiting for others.
        delay_s: How long it waits before it asks for the first meeting, in seconds.
    """

    rank: int
    world_size: int
    rounds: int
    endpoint: str
    run_id: str
    deadline_at: float
    delay_s: float


@dataclass(frozen=True, slots=True)
class StartProgram:
    """To the keeper: fork a rank that becomes a program. With it: the rank's socket, and its two outputs.

    Attributes:
        rank: Its number, from 0.
        argv: The program and its arguments.
        environ: The variables to set over the ones the supervisor has.
    """

    rank: int
    argv: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NotStarted:
    """From the keeper: the machine refused the rank its process."""

    rank: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """From the keeper: a rank has ended; ``exit`` is negative for a signal."""

    rank: int
    pid: int
    exit: int
    at: float


@dataclass(frozen=True, slots=True)
class Started:
    """From a rank: it runs."""

    pid: int


@dataclass(frozen=True, slots=True)
class Phase:
    """From a rank: what it does now: ``join``, ``exchange`` or ``leave``."""

    name: str
    round: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From a rank: it cannot go on, and why: a traceback, or one line."""

    text: str


@dataclass(frozen=True, slots=True)
class Release:
    """To a rank: all have completed the last round; begin this one, after a delay in seconds."""

    round: int
    delay_s: float


Message: TypeAlias = StartJob | StartProgram | NotStarted | Exited | Started | Phase | Failed | Release | Meeting
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (StartJob, StartProgram, NotStarted, Exited, Started, Phase, Failed, Release, Meeting)
}


def encode(message: Message) -> bytes:
    """The message as one JSON array: its kind, then its fields in order.

    >>> encode(Phase("join", 2))
    b'["Phase", "join", 2]'
    """
    fields = [getattr(message, name) for name in message.__match_args__]
    return json.dumps([type(message).__name__, *fields]).encode()


def decode(line: bytes) -> Message:
    """The message that `encode` made the line of.

    >>> decode(b'["Phase", "join", 2]')
    Phase(name='join', round=2)
    """
    kind, *fields = json.loads(line)
    message: Message = _KINDS[kind](*map(_frozen, fields))
    return message


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
