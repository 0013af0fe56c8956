"""The decisions of the elastic rounds, as pure functions: who is dead, when a round is sealed, who gets which rank.

Each takes what is known and the time, and says what to do and why; the reason is what people get to read. They know no
store and no clock: `lead` gathers what they need, and carries out what they say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdzv.core.documents import LEFT, LOST, MOVED_ON, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rdzv.core.documents import Record, Settings

LAST_CALL_EXTENSIONS_MAX = 4  # the last call is over after so many times its length, whoever comes


@dataclass(slots=True)
class Pulse:
    """One node's signs of life, as another sees them. No clock of the node itself plays a part.

    A beat is a number that the node counts up. A node is dead when polls that followed each other in time have seen no
    change for as long as the bound: an observer that was itself held up knows nothing, and begins anew. A node that
    goes says so in place of its next number: `MOVED_ON` to the next round, or `LEFT`. Who finds it dead writes
    `LOST`.

    Attributes:
        value: The beat that was seen last.
        silent_s: For how long polls, each on time, have seen no change, in seconds.
        seen_at: When it was last looked at.
        beat_at: When a beat was last seen that followed another.
    """

    value: bytes = b""
    silent_s: float = 0.0
    seen_at: float = float("-inf")
    beat_at: float = float("-inf")

    def observe(self, value: bytes, now: float, settings: Settings) -> None:
        """Take what a poll has seen."""
        if value != self.value:
            if self.value:
                self.beat_at = now
            self.value, self.silent_s = value, 0.0
        else:
            gap_s = now - self.seen_at
            # What held up the observer may have held up the node: it always has the other half of the bound to beat in.
            on_time = gap_s <= max(settings.bound_s / 2, 2 * settings.poll_s)
            self.silent_s = self.silent_s + gap_s if on_time else 0.0
        self.seen_at = now

    def is_silent(self, settings: Settings) -> bool:
        """Whether it has been without a sign of life for as long as a living node never is."""
        return self.silent_s >= settings.bound_s - settings.poll_s / 2  # no two polls are quite as far apart

    @property
    def is_gone(self) -> bool:
        """Whether the node has left for good, or was found dead."""
        return self.value.startswith((LEFT, LOST))

    def last_words(self) -> dict[str, str]:
        """Of a node that is gone: whether it left or was lost, and why, or who found it so."""
        kind, _, why = self.value.decode(errors="replace").partition(": ")
        return {"kind": kind, "why": why}

    @property
    def has_moved_on(self) -> bool:
        """Whether it stands in the next round's lobby, or is about to."""
        return self.value.startswith(MOVED_ON)


@dataclass(slots=True)
class Candidate:
    """One node in the lobby, as the leader sees it.

    Attributes:
        ticket: Its ticket.
        record: What it wrote.
        came_at: When the leader took it in.
        is_proven: Whether it is known to live: it came while the leader looked. Else its beats must show it.
        pulse: Its signs of life.
    """

    ticket: int
    record: Record
    came_at: float
    is_proven: bool = True
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def lives(self) -> bool:
        """Whether there was a sign of life. A record alone may be that of a node that died before the leader came."""
        return self.is_proven or self.pulse.beat_at >= self.came_at


@dataclass(frozen=True, slots=True)
class Lobby:
    """What the leader knows when it decides.

    Attributes:
        candidates: The living nodes in the lobby, one entry for each.
        unproven: The names of those of whom it is not known yet whether they live.
        running: The names of the members of the round before that are neither back, nor gone, nor dead.
        gone: The names of those that have left, or were lost.
        rivals: Two nodes that ask for the same rank, and of which none was refused yet.
        former_round: The round before, if it had members; -1 if not.
        enough_since: Since when there have been ``min_nodes`` candidates.
        last_arrival_at: When the last of them came.
        give_up_at: When the leader's own patience ends.
    """

    candidates: Collection[Candidate]
    unproven: Sequence[str] = ()
    running: Sequence[str] = ()
    gone: Sequence[str] = ()
    rivals: tuple[Candidate, Candidate] | None = None
    former_round: int = -1
    enough_since: float = float("inf")
    last_arrival_at: float = float("-inf")
    give_up_at: float = float("inf")

    @property
    def is_any_back(self) -> bool:
        """Whether a member of the round before is here."""
        return any(was_member(candidate, self.former_round) for candidate in self.candidates)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the leader is to do.

    Attributes:
        seal: Whether to seal the round now; if not, wait.
        why: The reason.
        until: When the decision changes even if nobody comes.
        need: How many more nodes must come, at the least, before the decision changes; 1 or more.
    """

    seal: bool
    why: str
    until: float = float("inf")
    need: int = 1


def decide(lobby: Lobby, settings: Settings, now: float) -> Decision:
    """Whether the round can be sealed. First match decides."""
    here = len(lobby.candidates)
    if lobby.running:
        # Else there could be two live worlds: these members do not know that their round is over.
        why = f"round {lobby.former_round} still has {listed(lobby.running)}, who have not come to the next"
        return Decision(False, why, need=len(lobby.running))
    if lobby.rivals:
        # The later may be the earlier one started anew: either that one is seen to beat, and the later is refused; or
        # it is found dead within the bound.
        first, second = (candidate.record.name for candidate in lobby.rivals)
        why = f"both {first} and {second} ask for rank {lobby.rivals[0].record.rank}; is {first} still alive?"
        return Decision(False, why)
    if here >= settings.max_nodes:
        return Decision(True, f"all {settings.max_nodes} nodes are here")
    if lobby.unproven:
        # Within the bound they have beaten, or are dead; to go on without them would shut out the living ones.
        why = f"whether {listed(lobby.unproven)} are still alive is not known yet"
        return Decision(False, why, need=settings.max_nodes - here)
    if here < settings.min_nodes:
        names = listed([candidate.record.name for candidate in lobby.candidates])
        gone = f"; {listed(lobby.gone)} of round {lobby.former_round} are gone" if lobby.gone else ""
        why = f"{here} of at least {settings.min_nodes} nodes are here ({names}){gone}"
        return Decision(False, why, need=settings.min_nodes - here)
    if lobby.is_any_back:
        # The last call is for strangers: those who were in the round before are known to be here or gone.
        return Decision(True, f"every living member of round {lobby.former_round} is back")
    closes_at = last_call_ends_at(lobby, settings)
    if now >= closes_at:
        return Decision(True, f"the last call is over: {here} nodes are here, of at most {settings.max_nodes}")
    why = f"{here} nodes are here, which is enough; the last call for up to {settings.max_nodes} is on"
    return Decision(False, why, until=closes_at, need=settings.max_nodes - here)


def last_call_ends_at(lobby: Lobby, settings: Settings) -> float:
    """Until when strangers are waited for: each arrival gives the next one as much time again, up to a bound.

    A call that ended at a fixed time would shut out those who come in one stream; one without a bound need not end. Nor
    does it outlast the leader's own patience: enough nodes are here, and it would fail in the midst of them.
    """
    extended = max(lobby.enough_since, lobby.last_arrival_at) + settings.last_call_s
    bound = lobby.enough_since + LAST_CALL_EXTENSIONS_MAX * settings.last_call_s
    return min(extended, bound, lobby.give_up_at)


def assign_ranks(candidates: Sequence[Candidate], former_round: int, max_nodes: int) -> list[Candidate]:
    """The members of the round in the order of their ranks.

    If there are too many, members of the round before come first, then who came first. Those whom the parameters give
    a place stand first, in that order. A node that was a member keeps its rank if it can; the holes are filled with
    those who cannot, and then with strangers in natural order (node7 before node66).
    """
    chosen = sorted(candidates, key=lambda candidate: (not was_member(candidate, former_round), candidate.ticket))
    chosen = chosen[:max_nodes]
    placed = [candidate for candidate in chosen if candidate.record.rank is not None or candidate.record.topology]
    ranks: list[Candidate | None] = [*sorted(placed, key=_place), *[None] * (len(chosen) - len(placed))]
    taken = {candidate.ticket for candidate in placed}
    displaced = []
    for candidate in sorted(chosen, key=lambda candidate: _seniority(candidate, former_round)):
        if candidate.ticket in taken:
            continue
        rank = candidate.record.was_rank
        if was_member(candidate, former_round) and rank < len(ranks) and ranks[rank] is None:
            ranks[rank] = candidate
        else:
            displaced.append(candidate)
    fillers = iter(displaced)
    return [candidate or next(fillers) for candidate in ranks]


def was_member(candidate: Candidate, former_round: int) -> bool:
    """Whether the node was in the round before, if there was one."""
    return candidate.record.was_round == former_round >= 0


def _place(candidate: Candidate) -> tuple[object, ...]:
    record = candidate.record
    return (record.rank is None, record.rank or 0, natural(record.topology), natural(record.name))


def _seniority(candidate: Candidate, former_round: int) -> tuple[object, ...]:
    record, is_former = candidate.record, was_member(candidate, former_round)
    return (not is_former, record.was_rank if is_former else 0, natural(record.name))


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key that sorts as people do: runs of digits count as numbers."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", text)]


def find_rivals(candidates: Sequence[Candidate]) -> tuple[Candidate, Candidate] | None:
    """Two living nodes that ask for the same rank: the one that was first, and the one that must go."""
    first: dict[int, Candidate] = {}
    for candidate in candidates:
        rank = candidate.record.rank
        if rank is not None and first.setdefault(rank, candidate) is not candidate:
            return first[rank], candidate
    return None
