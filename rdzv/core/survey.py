"""Who is in a round, as far as one member can tell: for people who ask, not for the protocol.

A survey reads as much as the round is large, so it is made on demand only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdzv.core.documents import LEFT, LOST, MOVED_ON
from rdzv.core.lobby import read_beats
from rdzv.core.tend import read_members

if TYPE_CHECKING:
    from rdzv.core.effects import Flow
    from rdzv.core.tend import Membership


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
    keys = membership.keys
    members, now = yield from read_members(membership, now)
    beats, now = yield from read_beats([keys.key("beat", ticket) for ticket, _ in members], membership.deadline, now)
    if not all(beats):  # it may have been over and cleared away since
        members, now = yield from read_members(membership, now)
    return [
        MemberStatus(rank, name, _state(beat), sightings.age_s(rank, beat, now))
        for rank, ((_, name), beat) in enumerate(zip(members, beats, strict=False))
    ]


def _state(beat: bytes) -> str:
    if beat.startswith((LEFT, LOST)):
        return beat.decode(errors="replace")
    return "moved on" if beat == MOVED_ON else "alive"
