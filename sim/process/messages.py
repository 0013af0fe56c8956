"""What the processes of a run say to each other: tuples with names, each sent as a line of JSON.

Those of a test say more: that is in `sim.ranks.messages`, which a run need not load. Knows nothing of sockets (that is
`sim.process.channel`). All times are those of `time.monotonic`, in seconds: one clock on one machine. Fields are plain:
numbers, text, and tuples of them. No dataclasses: to define one takes seven times as long, and every run waits for
that. Nor are annotations put off, which would have each compiled by itself.
"""

import json
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sim.check.history import Meeting

if TYPE_CHECKING:
    from sim.ranks.messages import TestMessage


class StartJob(NamedTuple):
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


class StartProgram(NamedTuple):
    """To the keeper: fork a rank that becomes a program. With it: the rank's socket, and its two outputs.

    Attributes:
        rank: Its number, from 0.
        argv: The program and its arguments.
        environ: The variables to set over the ones the supervisor has.
        says_where: Whether it is asked where it is when it has to be ended, if it can say that.
    """

    rank: int
    argv: tuple[str, ...]
    environ: tuple[tuple[str, str], ...]
    says_where: bool = False


class Scratch(NamedTuple):
    """To the keeper: in the end, remove this directory."""

    directory: str


class Resolver(NamedTuple):
    """How a rank resolves the name of the store's host.

    Attributes:
        known_at: From when on.
        is_wrong: Whether to an address where nobody serves.
    """

    known_at: float
    is_wrong: bool


class StartActor(NamedTuple):
    """To the keeper: fork a rank of a scenario. With it: the rank's socket, its two outputs, maybe a listening socket.

    Attributes:
        rank: Its number, from 0.
        nodes_min: The fewest nodes of a round.
        nodes_max: The most.
        backend: The rendezvous' backend.
        endpoint: Where they meet, as text.
        run_id: Under which name.
        options: The handler's: pairs of name and value.
        steps: What it does, as texts.
        resolver: How it resolves the host's name, if the endpoint has one.
        clock_offset_s: How far its clocks are ahead of the others', in seconds; less than 0 if behind.
        join_timeout_s: For how long a node of an elastic job waits for a round; all nodes must say the same.
        deadline_at: When the rank itself gives up waiting for others.
    """

    rank: int
    nodes_min: int
    nodes_max: int
    backend: str
    endpoint: str
    run_id: str
    options: tuple[tuple[str, str | int | float | bool], ...]
    steps: tuple[str, ...]
    resolver: Resolver | None
    clock_offset_s: float
    join_timeout_s: int
    deadline_at: float


class Signal(NamedTuple):
    """To the keeper: send a rank a signal, if it lives; it answers with `Signalled` in any case."""

    rank: int
    number: int


class Signalled(NamedTuple):
    """From the keeper: the signal was sent."""

    rank: int


class NotStarted(NamedTuple):
    """From the keeper: the machine refused the rank its process."""

    rank: int
    reason: str


class Exited(NamedTuple):
    """From the keeper: a rank has ended; ``exit`` is negative for a signal."""

    rank: int
    pid: int
    exit: int
    at: float


class Started(NamedTuple):
    """From a rank: it runs."""

    pid: int
    at: float


class Phase(NamedTuple):
    """From a rank: what it does now: ``join``, ``exchange`` or ``leave``; of a scenario, the step that it may begin."""

    name: str
    round: int
    at: float


class Failed(NamedTuple):
    """From a rank, or the keeper: it cannot go on, and why.

    Attributes:
        text: A traceback, or one line.
        kind: The name of the error's class, if it was one.
        missing: The ranks that the error names as missing.
    """

    text: str
    kind: str = ""
    missing: tuple[int, ...] = ()


class Hung(NamedTuple):
    """From a rank that has to be ended: where it is.

    Attributes:
        stack: Its Python stack, as `sim.process.stacks` writes it.
        keys: What it waits for in a store.
    """

    stack: str
    keys: tuple[str, ...]


class Asks(NamedTuple):
    """From a rank of a scenario: it may go into this round, as far as it knows, and leaves the last one for it."""

    round: int


class Wrote(NamedTuple):
    """From a rank of a scenario: it writes a value in the round that it is in."""

    value: str


class Read(NamedTuple):
    """From a rank of a scenario: what it has read there: (rank, value) pairs."""

    values: tuple[tuple[int, str], ...]


class Left(NamedTuple):
    """From a rank of a scenario: it is about to leave the round."""


class Proceed(NamedTuple):
    """To a rank of a scenario: begin what you have announced; or fail there."""

    crash: bool


class Struck(NamedTuple):
    """Sent to nobody, but told to whoever looks on: a fault, by its short form, strikes now, or heals."""

    fault: str
    is_healed: bool


class Release(NamedTuple):
    """To a rank: all have completed the last round; begin this one, after a delay in seconds."""

    round: int
    delay_s: float


_ALL = (
    *(StartJob, StartProgram, NotStarted, Exited, Started, Phase, Failed, Hung, Release, Meeting),
    *(Scratch, StartActor, Signal, Signalled, Asks, Wrote, Read, Left, Proceed, Struck),
)
Message: TypeAlias = (
    "StartJob | StartProgram | NotStarted | Exited | Started | Phase | Failed | Hung | Release | Meeting"
    "| Scratch | StartActor | Signal | Signalled | Asks | Wrote | Read | Left | Proceed | Struck | TestMessage"
)
_kinds: dict[str, type[Any]] = {}


def know(*kinds: type[Any]) -> None:
    """Let `decode` know messages of these kinds."""
    _kinds.update({kind.__name__: kind for kind in kinds})


know(*_ALL)


def encode(message: Message) -> bytes:
    """The message as one JSON array: its kind, then its fields in order.

    >>> encode(Phase("join", 2, 0.5))
    b'["Phase", "join", 2, 0.5]'
    """
    return "".join(_write((type(message).__name__, *message), 0)).encode()


def decode(line: bytes) -> Message:
    """The message that `encode` made the line of.

    >>> decode(b'["Phase", "join", 2, 0.5]')
    Phase(name='join', round=2, at=0.5)
    """
    (kind, *fields), _ = _read(line.decode())
    message: Message = _kinds[kind]._make([_frozen(value) if isinstance(value, list) else value for value in fields])
    return message


_plain = json.JSONEncoder()
# What that does itself, but once and not anew for each message, which would cost a rank that has just been forked the
# copy of 30 pages of memory.
_write = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, _plain.default, json.encoder.encode_basestring_ascii, None, ": ", ", ", False, False, True
)
_read = json.JSONDecoder().raw_decode  # `json.loads` also looks for the encoding, and for blanks: as long again


def _frozen(values: list[Any]) -> tuple[Any, ...]:
    return tuple([_frozen(value) if isinstance(value, list) else value for value in values])
