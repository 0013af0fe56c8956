"""Who is in a round, as far as one member can tell: for people who ask, not for the protocol.

A survey reads as much as the round is large, so it is made on demand only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.documents import LEFT, LOST, MOVED_ON
from rdzv.core.effects import Effect
from rdzv.core.lobby import BATCH
from rdzv.core.tend import read_members

if TYPE_CHECKING:
    from rdzv.core.effects import Flow
    from rdzv.core.tend import Membership
    from rdzv.core.wire import Request


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member of a round.

    Attributes:
        rank: Its rank.
        name: Its name.
        state: ``alive``, ``moved on`` (to the next lobby), or ``left`` or ``lost``, with the reason.
        last_beat_s: How long ago this node saw it beat, in seconds, by its own looks: ``None`` until two of them have
            seen different beats, and for one that has left or is lost.
    """

    rank: int
    name: str
    state: str
    last_beat_s: float | None


@dataclass(slots=True)
class Sightings:
    """What earlier surveys of one round have seen: the beat of each rank, and when it was seen to change to that."""

    beats: dict[int, tuple[bytes, float | None]] = field(default_factory=dict)

    def age_s(self, rank: int, beat: bytes, now: float) -> float | None:
        """How long ago a rank's beat was seen to change; ``None`` if it never was, or if it is none any more."""
        last, changed_at = self.beats.get(rank, (beat, None))
        if not beat.isdigit():
            changed_at = None
        elif beat != last:
            changed_at = now
        self.beats[rank] = (beat, changed_at)
        return None if changed_at is None else now - changed_at


def survey(membership: Membership, sightings: Sightings, now: float) -> Flow[list[MemberStatus]]:
    """All members of a node's round, in the order of their ranks; none if the round is over.

    Raises:
        RendezvousStateError: The store holds what no node writes.
    """
    members, now = yield from read_members(membership, now)
    beats: list[bytes] = []
    for first in range(0, len(members), BATCH):
        batch = [membership.keys.key("beat", ticket) for ticket, _ in members[first : first + BATCH]]
        request: Request = (wire.MULTI_GET, batch)
        (values,), now = yield Effect([request], membership.deadline(now))
        beats += values
    return [
        MemberStatus(rank, name, _state(beat), sightings.age_s(rank, beat, now))
        for rank, ((_, name), beat) in enumerate(zip(members, beats, strict=True))
    ]


def _state(beat: bytes) -> str:
    if beat.startswith((LEFT, LOST)):
        return beat.decode(errors="replace")
    return "moved on" if beat == MOVED_ON else "alive"
