"""What the nodes of an elastic job write for each other: small JSON texts, checked when they are read.

`Head` is the backend's document, the only place where anything is decided; all else lies in the store, under keys of
one round (see `Keys`). The head says which version all of it is of. No text is ever executed, and all but a plan are
bounded; what no node of this protocol writes is a `RendezvousStateError` that says where it stood.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

from rdzv.errors import RendezvousStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

PROTOCOL = 1
TEXT_BYTES_MAX = 16384  # any document but a plan
NAME_CHARS_MAX = 255  # a node's name, address or topology
NAMES_MAX = 8  # of nodes, in one text for people
_REASON_CHARS_MAX = 500

TICKETS_MAX = 1 << 20  # of one lobby: ten for each of 100,000 nodes
WATCHED_MAX = 2  # members that one watches at least: if one dies, another still knows; see `tend` for many at once

MOVED_ON, LEFT, LOST = b"next", b"left", b"lost"  # what a beat may be beside a number: see `Pulse`


class Document:
    """A frozen dataclass that travels as a JSON object with just its fields."""

    __slots__ = ()

    def dump(self) -> bytes:
        """The text, of ASCII characters."""
        return _ENCODER.encode(self).encode()

    @classmethod
    @lru_cache(maxsize=256)  # most texts are read more than once: at each poll, or by many nodes of one process
    def load(cls, text: bytes, where: str) -> Self:
        """Read a text.

        Raises:
            RendezvousStateError: No node writes such a text.
        """
        try:
            if len(text) > TEXT_BYTES_MAX:
                raise ValueError(f"{len(text)} bytes are more than {TEXT_BYTES_MAX}")
            document = json.loads(text.decode())
            if type(document) is not dict or len(document) != len(cls.__slots__):
                raise ValueError("it does not have the fields that it must have")
            return cls(**document)  # a TypeError, if one is of another name
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RendezvousStateError(f"{where} holds what no node writes there, {text[:60]!r}: {error}") from error

    def _require(self, **kinds: type | tuple[type, ...]) -> None:
        for name, kind in kinds.items():
            value = getattr(self, name)
            found = type(value)
            if found is not kind and (type(kind) is not tuple or found not in kind):
                raise TypeError(f"{name} is {value!r}")
            if found is int and not 0 <= value < 1 << 53:
                raise ValueError(f"{name} is {value!r}")


_ENCODER = json.JSONEncoder(
    separators=(",", ":"),
    default=lambda document: {name: getattr(document, name) for name in document.__slots__},
    check_circular=False,
)
_NUMBER = (int, float)


@dataclass(frozen=True, slots=True)
class Settings(Document):
    """What all nodes of a job must have in common.

    Attributes:
        min_nodes: The fewest nodes of a round, 1 or more.
        max_nodes: The most.
        join_s: For how long a node waits for a round to be complete, in seconds.
        last_call_s: For how long, once there are enough nodes, each further one is waited for, in seconds.
        close_s: For how long to try to close the job, in seconds.
        heartbeat_s: For how long the store may leave one request unanswered, in seconds.
        keep_alive_interval_s: How often a node shows that it lives, at the least, in seconds.
        keep_alive_max_attempt: How many intervals without a sign of life make a node a dead one.
    """

    min_nodes: int
    max_nodes: int
    join_s: float = 600.0
    last_call_s: float = 30.0
    close_s: float = 30.0
    heartbeat_s: float = 5.0
    keep_alive_interval_s: float = 5.0
    keep_alive_max_attempt: int = 3

    def __post_init__(self) -> None:
        self._require(min_nodes=int, max_nodes=int, keep_alive_max_attempt=int)
        self._require(join_s=_NUMBER, last_call_s=_NUMBER, close_s=_NUMBER, heartbeat_s=_NUMBER)
        self._require(keep_alive_interval_s=_NUMBER)

    def difference(self, theirs: Settings) -> str:
        """In what these settings differ from others, for people."""
        names = [name for name in self.__slots__ if getattr(self, name) != getattr(theirs, name)]
        both = [(name, getattr(self, name), getattr(theirs, name)) for name in names]
        return ", ".join(f"{name} is {here!r} here and {there!r} there" for name, here, there in both)

    @property
    def bound_s(self) -> float:
        """After how long without a sign of life a node is dead, in seconds."""
        return self.keep_alive_interval_s * self.keep_alive_max_attempt

    @property
    def poll_s(self) -> float:
        """How often a node looks and beats, in seconds: often enough to find a death within a second of the bound.

        And twice within it at the least, since between two looks a living node need not have beaten.
        """
        return min(self.keep_alive_interval_s, self.bound_s / 2, 1.0)

    @property
    def polls_per_bound(self) -> int:
        """How many polls there are within the bound."""
        return -int(-self.bound_s // self.poll_s)


@dataclass(frozen=True, slots=True)
class Closed(Document):
    """That a job is over: by whom, why, and when by that node's calendar (for people; nothing compares it)."""

    by: str
    why: str
    at: str

    def __post_init__(self) -> None:
        self._require(by=str, why=str, at=str)

    def __str__(self) -> str:
        return f"closed by {self.by} at {self.at}: {self.why}"


@dataclass(frozen=True, slots=True)
class Head(Document):
    """The backend's document. It changes once for each round, and once to close.

    Attributes:
        settings: Those of the node that came first.
        protocol: The version of everything that is written.
        job: What tells this job from one that had the store before or after it.
        rounds: The number of the round that gathers now, from 0.
        sealed_round: The number of the round that was sealed last, -1 if none was. It is the one before, unless the job
            was closed and opened again in between.
        sealed_by: The ticket there of the node that sealed it: it wrote the plan.
        size: How many nodes that round has.
        closed: Who has closed the job, if anyone has.
    """

    settings: Settings
    job: str
    protocol: int = PROTOCOL
    rounds: int = 0
    sealed_round: int = -1
    sealed_by: int = 0
    size: int = 0
    closed: Closed | None = None

    def __post_init__(self) -> None:
        settings: Any = self.settings  # as JSON has them, perhaps
        closed: Any = self.closed
        if type(settings) is dict:
            object.__setattr__(self, "settings", Settings(**settings))
        if type(closed) is dict:
            object.__setattr__(self, "closed", Closed(**closed))
        self._require(
            settings=Settings, job=str, protocol=int, rounds=int, sealed_by=int, size=int, closed=(Closed, type(None))
        )
        if type(self.sealed_round) is not int or not -1 <= self.sealed_round < self.rounds:
            raise ValueError(f"sealed_round is {self.sealed_round!r}, and round {self.rounds} gathers")

    @classmethod
    @lru_cache(maxsize=16)
    def load(cls, text: bytes, where: str) -> Self:
        """Read a head; one of another version of the protocol is told as such.

        Raises:
            RendezvousStateError: No node writes such a text, or nodes of another version do.
        """
        try:
            protocol = json.loads(text)["protocol"]
        except (ValueError, TypeError, KeyError, RecursionError):
            protocol = PROTOCOL  # and `Document.load` says what is wrong
        if protocol != PROTOCOL:
            raise RendezvousStateError(f"{where} is of protocol version {protocol!r}; this node speaks {PROTOCOL}")
        return super(Head, cls).load(text, where)


@dataclass(frozen=True, slots=True)
class Record(Document):
    """Who stands in a lobby: written once by the node itself.

    Attributes:
        name: The node, for people and for the order of ranks.
        token: What tells this handler from any other.
        addr: Where the others reach this node's processes.
        port: A port there that this node holds for the round, in case it becomes rank 0.
        rank: The rank that its parameters ask for.
        topology: Where it stands, as its parameters have it, empty if they do not.
        was_round: The round that it was a member of, -1 if none.
        was_rank: Its rank there.
        silent: Of the members of that round whom it watched, those that had been silent: the rank, the last beat, and
            for how long no other had followed, in seconds.
    """

    name: str
    token: str
    addr: str
    port: int
    rank: int | None = None
    topology: str = ""
    was_round: int = -1
    was_rank: int = 0
    silent: tuple[tuple[int, str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.silent != ():
            silent = tuple((int(rank), str(beat), float(silent_s)) for rank, beat, silent_s in self.silent)
            object.__setattr__(self, "silent", silent)
        self._require(name=str, token=str, addr=str, port=int, rank=(int, type(None)), topology=str, was_rank=int)
        if type(self.was_round) is not int or self.was_round < -1:
            raise ValueError(f"was_round is {self.was_round!r}")
        if max(map(len, (self.name, self.token, self.addr, self.topology))) > NAME_CHARS_MAX:
            raise ValueError(f"a name, an address and a topology have at most {NAME_CHARS_MAX} characters")

    @property
    def first_beat(self) -> int:
        """A number of its own to count beats from: in a store that was emptied, another may beat at the same key."""
        return crc32(self.token.encode()) & 0xFFFFFF


@dataclass(frozen=True, slots=True)
class Assignment(Document):
    """What a member of a sealed round takes home. All but its rank and its neighbours is the same for all.

    Attributes:
        round: The round, from 0.
        rank: This member's rank.
        size: How many members there are.
        addr: Where rank 0's processes are reached.
        port: The port there that rank 0 holds.
        watched: The ticket and the name of each member that this one watches: those of the next ranks.
    """

    round: int
    rank: int
    size: int
    addr: str
    port: int
    watched: tuple[tuple[int, str], ...]

    def __post_init__(self) -> None:
        self._require(round=int, rank=int, size=int, addr=str, port=int)
        object.__setattr__(self, "watched", tuple((int(ticket), str(name)) for ticket, name in self.watched))


@dataclass(frozen=True, slots=True)
class Notice(Document):
    """What the leader of a lobby lets the others know, once for each poll.

    Attributes:
        leader: Its ticket.
        beat: Counts up.
        waiting: How many nodes the next round could take in from this lobby, had the present round ended.
        full: Whether the present round has as many members as it may have, so that whoever waits here is a spare.
        why: What the leader waits for.
        refused: The ticket of a node that must not stay, 0 if all may.
        refusal: Why it must not.
    """

    leader: int
    beat: int
    waiting: int
    full: bool
    why: str
    refused: int = 0
    refusal: str = ""

    def __post_init__(self) -> None:
        self._require(leader=int, beat=int, waiting=int, full=bool, why=str, refused=int, refusal=str)


@dataclass(frozen=True, slots=True)
class End(Document):
    """Why a round must end: who was the first to leave it, to go on to the next or to be lost, or who closed the job.

    Attributes:
        kind: ``left``, ``next``, ``lost`` or ``closed``.
        node: Who it was.
        rank: Its rank, if it was a member.
        why: The reason that it gave, or how the loss was found.
    """

    kind: str
    node: str
    rank: int | None
    why: str

    def __post_init__(self) -> None:
        self._require(kind=str, node=str, rank=(int, type(None)), why=str)
        if self.kind not in _ENDS:
            raise ValueError(f"kind is {self.kind!r}")

    def __str__(self) -> str:
        member = "" if self.rank is None else f" (rank {self.rank})"
        return f"{self.node}{member} {_ENDS[self.kind]}: {self.why}"


_ENDS = {"left": "has left", "next": "has gone on", "lost": "is lost", "closed": "has closed the job"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the sealer of a round decided.

    Attributes:
        members: The ticket and the name of each member, in the order of their ranks.
        addr: Where rank 0's processes are reached.
        port: The port there that rank 0 holds.
    """

    members: tuple[tuple[int, str], ...]
    addr: str
    port: int

    def dump(self) -> bytes:
        """The text; it is as long as the round is large, and is read by leaders only."""
        return json.dumps([self.addr, self.port, *self.members], separators=(",", ":")).encode()

    @classmethod
    def load(cls, text: bytes, where: str) -> Plan:
        """Read a plan.

        Raises:
            RendezvousStateError: No leader writes such a text.
        """
        try:
            addr, port, *members = json.loads(text)
            return cls(tuple((int(ticket), str(name)) for ticket, name in members), str(addr), int(port))
        except (ValueError, TypeError, RecursionError) as error:
            raise RendezvousStateError(f"{where} holds what no node writes there, {text[:60]!r}: {error}") from error

    def assignment(self, round_: int, rank: int) -> Assignment:
        """What the member of that rank takes home."""
        size = len(self.members)
        watched = [self.members[(rank + step) % size] for step in range(1, min(WATCHED_MAX, size - 1) + 1)]
        return Assignment(round_, rank, size, self.addr, self.port, tuple(watched))


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one round of a run; nothing of one round can be found under another's."""

    run_id: str
    round: int

    def key(self, name: str, ticket: int | None = None) -> bytes:
        """One key: lobby, outcome, end, gone or ticket; of the node with a ticket: node, beat, rank or plan."""
        text = f"/rdzv/{self.run_id}/{self.round}/{name}"
        return (text if ticket is None else f"{text}/{ticket}").encode()

    def of_node(self, ticket: int) -> list[bytes]:
        """All that there may be of one node."""
        return [self.key(name, ticket) for name in ("node", "beat", "rank", "plan")]

    def common(self) -> list[bytes]:
        """All that there may be of the round as a whole; the last is there as long as any other may be."""
        return [self.key(name) for name in ("lobby", "outcome", "end", "gone", "ticket")]


def brief(reason: str) -> str:
    """A reason that somebody gave, cut so that it fits into any document; what UTF-8 cannot carry, as an escape."""
    reason = reason.encode(errors="backslashreplace").decode()
    return reason if len(reason) <= _REASON_CHARS_MAX else reason[: _REASON_CHARS_MAX - 3] + "..."


def farewell(reason: str) -> bytes:
    """The last beat of a node that leaves."""
    return LEFT + b": " + brief(reason).encode()


def listed(names: Sequence[str]) -> str:
    """Some names, for people."""
    more = f" and {len(names) - NAMES_MAX} more" * (len(names) > NAMES_MAX)
    return ", ".join(names[:NAMES_MAX]) + more
