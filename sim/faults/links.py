"""What can go wrong between a rank and the store: its link. See `sim.faults.fault` for what these have in common.

All that ranks say to each other goes through the store. So a partition is between ranks that have the store on their
side and others that have not. Which bytes are lost, and which only held up, each fault says.

Faults may overlap: a link is good again when all of a kind are over. Of two delays, or two rates, the later one counts
while it lasts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sim.faults.fault import SPAN, Fault, OfRanks
from sim.scenario_text import Ranks, ScenarioError, require_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from sim.faults.fault import Link, Stage
    from sim.faults.triggers import Trigger

_RATE = re.compile(r"([1-9][0-9]{0,11})(B|kB|MB)", re.ASCII)
_RATES = {"MB": 1_000_000, "kB": 1000, "B": 1}
_CUTS = {"|": {"up", "down"}, ">": {"down"}, "<": {"up"}}


def _rate(text: str) -> int:
    if not (match := _RATE.fullmatch(text)):
        raise ScenarioError(f"{text!r} is no rate in bytes per second", hint="write 500B, 64kB or 1MB")
    return int(match[1]) * _RATES[match[2]]


def _rate_text(rate: int) -> str:
    return next(f"{rate // size}{unit}" for unit, size in _RATES.items() if rate % size == 0)


def _way(text: str) -> str:
    if text not in ("up", "down"):
        raise ScenarioError(f"{text!r} is no way", hint="write up, to the store, or down, from it")
    return text


@dataclass(frozen=True, slots=True)
class Split:
    """Two groups, and what does not pass between them.

    Attributes:
        near: Those who have the store on their side.
        ways: ``|`` if nothing passes, ``>`` if nothing from near to far, ``<`` if nothing from far to near.
        far: The others.
    """

    near: Ranks
    ways: str
    far: Ranks

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``0,1|2,3``, ``0,1>2,3`` or ``0,1<2,3``.

        Raises:
            ScenarioError: It is none of these.
        """
        parts = re.split(r"([|<>])", text)
        if len(parts) != 3:
            raise ScenarioError(f"{text!r} are no two groups", hint="write 0,1|2,3; or > or < for one way")
        near, far = Ranks.parse(parts[0]), Ranks.parse(parts[2])
        if None in (near.numbers, far.numbers) or set(near.numbers or ()) & set(far.numbers or ()):
            raise ScenarioError(f"in {text!r} somebody is in both groups", hint="the groups have no rank in common")
        return cls(near, parts[1], far)

    def __str__(self) -> str:
        return f"{self.near}{self.ways}{self.far}"


@dataclass(frozen=True, slots=True)
class OfLinks(OfRanks):
    """A fault that is about some ranks' ways to the store, each by itself."""

    is_of_links = True


@dataclass(frozen=True, slots=True)
class Lasting(OfLinks):
    """One that is there until it heals."""

    def strike(self, stage: Stage, rank: int) -> None:
        """Add it to what there is."""
        link = stage.link(rank)
        link.struck.append(self)
        self.settle(link)

    def mend(self, stage: Stage, rank: int) -> None:
        """Leave what is there besides."""
        link = stage.link(rank)
        link.struck.remove(self)
        self.settle(link)

    @classmethod
    def settle(cls, link: Link) -> None:
        """Let a link be as all faults of this kind want it that are there now."""
        raise NotImplementedError

    @classmethod
    def of_kind(cls, link: Link) -> list[Self]:
        """Those, in the order in which they came."""
        return [fault for fault in link.struck if isinstance(fault, cls)]


@dataclass(frozen=True, slots=True)
class Delay(Lasting):
    """All bytes take so much longer, each way, and as much as the jitter beyond that; nothing overtakes.

    Attributes:
        by: How much longer, in seconds.
        jitter: At most how much longer still, in seconds.
    """

    name = "delay"
    example = "delay:*:50ms:10ms"
    by: float = field(metadata=SPAN)
    jitter: float = field(metadata=SPAN, default=0.0)

    @classmethod
    def settle(cls, link: Link) -> None:
        """Slow it down, or let it be as fast as it can."""
        link.delay_s, link.jitter_s = next(((fault.by, fault.jitter) for fault in cls.of_kind(link)[::-1]), (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Bandwidth(Lasting):
    """No more than so many bytes pass in a second, each way.

    Attributes:
        per_second: How many.
    """

    name = "bandwidth"
    example = "bandwidth:1:64kB"
    per_second: int = field(metadata={"read": _rate, "write": _rate_text})

    @classmethod
    def settle(cls, link: Link) -> None:
        """Narrow it, or let through what comes."""
        link.bytes_per_s = next((float(fault.per_second) for fault in cls.of_kind(link)[::-1]), 0.0)


@dataclass(frozen=True, slots=True)
class Partition(Fault):
    """Nothing passes between two groups, or with > or < only one way; the store is with the first; bytes wait.

    Attributes:
        groups: Which.
    """

    name = "partition"
    example = "partition:0,1|2,3@round2~1s"
    is_of_links = True
    groups: Split = field(metadata={"read": Split.parse, "write": str})

    def apply(self, stage: Stage) -> None:
        """Cut the far ones off."""
        for rank in self.groups.far.numbers or ():
            stage.isolate(rank, is_held=True)
            stage.link(rank).struck.append(self)
            _cut(stage.link(rank))

    def heal(self, stage: Stage) -> None:
        """Let what has waited pass."""
        for rank in self.groups.far.numbers or ():
            stage.link(rank).struck.remove(self)
            _cut(stage.link(rank))
            stage.isolate(rank, is_held=False)

    def require(self, world_size: int, at: Trigger) -> None:
        """As `Fault.require`."""
        del at
        try:
            require_ranks((*(self.groups.near.numbers or ()), *(self.groups.far.numbers or ())), world_size)
        except ScenarioError as error:
            raise error.within("groups") from None

    def each(self, world_size: int) -> Sequence[Fault]:
        """One for each rank that is cut off."""
        return [replace(self, groups=replace(self.groups, far=Ranks.of(r))) for r in self.subjects(world_size)]

    def subjects(self, world_size: int) -> Sequence[int]:
        """Those who are cut off."""
        return self.groups.far.among(world_size)


def _cut(link: Link) -> None:
    """Let stand still what any partition cuts."""
    cuts = [_CUTS[fault.groups.ways] for fault in link.struck if isinstance(fault, Partition)]
    link.cut = set().union(*cuts)
    link.change()


@dataclass(frozen=True, slots=True)
class HalfOpen(Lasting):
    """The rank can connect, and whatever it sends is lost; its connections are reset when that heals."""

    name = "half-open"
    example = "half-open:2@join~1s"

    def strike(self, stage: Stage, rank: int) -> None:
        """Swallow what it sends."""
        stage.isolate(rank, is_held=True)
        Lasting.strike(self, stage, rank)

    def mend(self, stage: Stage, rank: int) -> None:
        """Let it begin anew."""
        Lasting.mend(self, stage, rank)
        stage.isolate(rank, is_held=False)

    @classmethod
    def settle(cls, link: Link) -> None:
        """Swallow what comes, or let all begin anew."""
        link.is_mute = bool(cls.of_kind(link))
        if not link.is_mute:
            link.lose()


@dataclass(frozen=True, slots=True)
class Lose(OfLinks):
    """The rank's oldest connection is reset; it may connect again."""

    name = "lose"
    example = "lose:1@read"

    def strike(self, stage: Stage, rank: int) -> None:
        """Reset it."""
        stage.link(rank).lose(1)


@dataclass(frozen=True, slots=True)
class Refuse(Lasting):
    """The rank's new connections are refused, as if nobody served there; those it has go on."""

    name = "refuse"
    example = "refuse:1~500ms"

    @classmethod
    def settle(cls, link: Link) -> None:
        """Close the door, or open it."""
        if cls.of_kind(link):
            link.refuse()
        else:
            link.admit()


@dataclass(frozen=True, slots=True)
class Truncate(OfLinks):
    """Of the next bytes on the way up to the store (or down), only the first half comes; then the connection ends.

    Attributes:
        way: Which.
    """

    name = "truncate"
    example = "truncate:2:down@read"
    way: str = field(metadata={"read": _way, "write": str}, default="up")

    def strike(self, stage: Stage, rank: int) -> None:
        """Lie in wait for them."""
        stage.link(rank).spoil[self.way] = "truncate"


@dataclass(frozen=True, slots=True)
class Garbage(OfLinks):
    """In place of the next bytes on the way down from the store (or up) come as many random ones.

    Attributes:
        way: Which.
    """

    name = "garbage"
    example = "garbage:2:up@read"
    way: str = field(metadata={"read": _way, "write": str}, default="down")

    def strike(self, stage: Stage, rank: int) -> None:
        """Lie in wait for them."""
        stage.link(rank).spoil[self.way] = "garble"
