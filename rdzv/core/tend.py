"""What a member of a round does while the round lasts, and how it goes.

A ring: each member beats, and watches the members of the next two ranks; so a poll costs each node the same, however
many there are. If one falls silent, those whom it watched are watched as well: they may have died together, and nobody
else would know. Who finds a neighbour dead, or leaves, writes the round's ``end``, once; all others wait on that key,
so they hear of it at once. What they do about it is their user's choice: the round stays as it is, and the next one
begins when they come to its lobby.

Each poll also looks at the next lobby's notice: how many wait there. A notice whose leader has died is worth nothing,
so the dead are not counted for ever.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.decide import Pulse
from rdzv.core.documents import LEFT, LOST, MOVED_ON, Assignment, Closed, End, Head, Keys, Plan, brief, farewell
from rdzv.core.effects import Effect, ReadHead, Sleep, WriteHead
from rdzv.core.join import found, heard, join, read
from rdzv.core.lobby import BATCH
from rdzv.core.sweep import clear, find_rubbish
from rdzv.errors import RendezvousStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rdzv.core.documents import Settings
    from rdzv.core.effects import Flow
    from rdzv.core.join import Member, Standing
    from rdzv.core.wire import Request


@dataclass(slots=True)
class Neighbour:
    """A member that another watches.

    Attributes:
        name: Its name.
        rank: Its rank.
        ticket: Its ticket.
        key: Where it beats.
        pulse: Its signs of life.
        is_covered: Whether those whom it watches are watched by this node too.
    """

    name: str
    rank: int
    ticket: int
    key: bytes
    pulse: Pulse = field(default_factory=Pulse)
    is_covered: bool = False

    @property
    def silence(self) -> tuple[int, str, float]:
        """As `Record.silent` has it."""
        return self.rank, self.pulse.value.decode(errors="replace"), self.pulse.silent_s


@dataclass(slots=True)
class Membership:
    """What a member knows of its round. Only `tend` and the other flows of this module write it.

    Attributes:
        member: Who it is.
        settings: Those of the job.
        job: What tells the job from any other.
        report: Is told what happens, as a kind and some facts.
        beat: The node's last beat.
        seen_at: When the store was asked to take that, on the driver's clock, in seconds: it has taken it since. Before
            the first one of the round it is not known: for all that is, this node may have been given up by then.
        watched: The members that this one watches.
        beat_key: Where this node beats.
        waiting: How many nodes the next round could take in from its lobby.
        end: Why the round should end, once it should.
        evicted: Why this node does not belong to the round any more; empty while it does.
    """

    member: Member
    settings: Settings
    job: str
    report: Callable[..., None] = lambda *_, **__: None
    beat: int = field(init=False)
    watched: list[Neighbour] = field(default_factory=list, init=False)
    beat_key: bytes = field(init=False)
    seen_at: float = field(default=float("-inf"), init=False)
    waiting: int = 0
    end: End | None = None
    evicted: str = ""

    def __post_init__(self) -> None:
        self.beat = self.member.beat
        self.beat_key = self.keys.key("beat", self.member.ticket)
        self.watch_also(self.member.assignment)

    def watch_also(self, assignment: Assignment) -> None:
        """Watch those too whom the member with this assignment has to watch, but for this node itself."""
        known = {self.member.assignment.rank, *(neighbour.rank for neighbour in self.watched)}
        for step, (ticket, name) in enumerate(assignment.watched, 1):
            if (rank := (assignment.rank + step) % assignment.size) not in known:
                self.watched.append(Neighbour(name, rank, ticket, self.keys.key("beat", ticket)))

    @property
    def keys(self) -> Keys:
        """The keys of the round."""
        return self.member.keys

    @property
    def num_nodes_waiting(self) -> int:
        """For how many nodes the round should end: who waits, a member that left or was lost, this one if evicted."""
        kind = self.end.kind if self.end else ""
        if kind == "next":  # it is one of those who wait, unless it has died over it
            return max(self.waiting, 1) + bool(self.evicted)
        return self.waiting + (kind in ("left", "lost")) + bool(self.evicted)

    def say(self, value: bytes) -> Request:
        """The request that replaces the last beat; its reply is ``value``, or else why the node was evicted."""
        return (wire.COMPARE_SET, self.beat_key, b"%d" % self.beat, value)

    def deadline(self, now: float) -> float:
        """Until when a request must be answered."""
        return now + self.settings.heartbeat_s

    def evict(self, why: str) -> None:
        """Note that the round goes on without this node."""
        self.evicted = why
        self.report("evicted", round=self.keys.round, why=why)


def tend(membership: Membership, now: float) -> Flow[None]:
    """Beat and watch, until this node is evicted or the caller stops.

    Raises:
        RendezvousStateError: The job's document is gone, or no node writes such a one.
    """
    settings, keys, lobby, polls, poll_at = membership.settings, membership.keys, Pulse(), 0, now
    next_lobby = Keys(keys.run_id, keys.round + 1).key("lobby")
    looks = [read(next_lobby), *(read(neighbour.key) for neighbour in membership.watched)]
    is_rank_0 = membership.member.assignment.rank == 0
    rubbish: Iterator[bytes] = iter(())
    if is_rank_0:
        rubbish, now = yield from find_rubbish(membership, now)
    while True:
        mine = b"%d" % (membership.beat + 1)
        requests, asked_at = [membership.say(mine), *looks], now
        ((mine_now,), (notice,), *beats), now = yield Effect(requests, membership.deadline(now), beat=True)
        if mine_now != mine and not (yield from _is_still_in(membership, mine_now, mine, now)):
            return
        membership.beat, membership.seen_at = membership.beat + 1, asked_at
        lobby.observe(found(notice), now, settings)
        _count_waiting(membership, lobby)
        for neighbour, (beat,) in zip(tuple(membership.watched), beats, strict=True):
            neighbour.pulse.observe(found(beat), now, settings)
            if neighbour.pulse.silent_s or not beat.isdigit():  # else it has beaten
                now = yield from _watch(membership, neighbour, now)
        looks += [read(neighbour.key) for neighbour in membership.watched[len(looks) - 1 :]]
        polls += 1
        if is_rank_0 or membership.end or polls % settings.polls_per_bound == 0:
            now = yield from _look_at_head(membership, now)
            if membership.evicted:
                return
        now = yield from clear(rubbish, membership, poll_at + settings.poll_s / 2, now)  # the next beat must be in time
        poll_at += settings.poll_s
        if poll_at <= now:  # it was held up: no hasty polls, in which no living node could have beaten
            poll_at = now + settings.poll_s
        now = yield from _pause(membership, poll_at, now)
        if membership.evicted:
            return


def _is_still_in(membership: Membership, beat: bytes, mine: bytes, now: float) -> Flow[bool]:
    """Whether this node belongs to its round though its beat is not its last one; if not, it is evicted."""
    if not beat.startswith(LOST):  # nobody took it for dead: the round is over, or the store was lost
        now = yield from _look_at_head(membership, now)
        if not membership.evicted and beat == b"%d" % membership.beat:
            # There is none, and the round goes on: the last one was lost with a connection, for no reply was awaited.
            request: Request = (wire.COMPARE_SET, membership.beat_key, b"", mine)
            ((beat,),), now = yield Effect([request], membership.deadline(now), beat=True)
    if beat != mine and not membership.evicted:
        membership.evict(_reason(beat))
    return beat == mine


def _pause(membership: Membership, until: float, now: float) -> Flow[float]:
    """Sleep until the next poll; an end of the round is heard of meanwhile."""
    if membership.end:
        _, now = yield Sleep(until)
        return now
    end_key = membership.keys.key("end")
    ((met,),), now = yield Effect([(wire.WAIT, [end_key])], membership.deadline(until), until, beat=True)
    if met:
        ((text,),), now = yield Effect([read(end_key)], membership.deadline(now), beat=True)
        if not (end := found(text)):  # it was held up for so long that the round's keys are gone
            return (yield from _look_at_head(membership, now))
        _note_end(membership, end)
    return now


def _count_waiting(membership: Membership, lobby: Pulse) -> None:
    notice = heard(lobby.value) if lobby.value and not lobby.is_silent(membership.settings) else None
    waiting = notice.waiting if notice else 0
    if waiting != membership.waiting:
        membership.waiting = waiting
        membership.report("waiting nodes", round=membership.keys.round, count=waiting)


def _watch(membership: Membership, neighbour: Neighbour, now: float) -> Flow[float]:
    """If a neighbour has died, or has gone and could not say so to all, tell them."""
    pulse = neighbour.pulse
    if pulse.silent_s > membership.settings.poll_s and not neighbour.is_covered:
        now = yield from _cover(membership, neighbour, now)
    if pulse.is_silent(membership.settings) and not (pulse.is_gone or pulse.has_moved_on):
        why = f"{membership.member.record.name} saw no sign of life for {membership.settings.bound_s:g} s"
        requests: list[Request] = [
            (wire.COMPARE_SET, neighbour.key, pulse.value, LOST + b": " + why.encode()),
            (wire.ADD, membership.keys.key("gone"), 1),
        ]
        ((pulse.value,), _), now = yield Effect(requests, membership.deadline(now), beat=True)
    if (pulse.is_gone or pulse.has_moved_on) and not membership.end:
        kind, _, why = pulse.value.decode(errors="replace").partition(": ")
        if pulse.value.startswith(LEFT):  # it may have left the lobby as this round was sealed, and is not counted yet
            _, now = yield Effect([(wire.ADD, membership.keys.key("gone"), 1)], membership.deadline(now))
        end = End(kind, neighbour.name, neighbour.rank, brief(why) or "it waits for the next round")
        now = yield from _end(membership, end, now)
    return now


def _cover(membership: Membership, neighbour: Neighbour, now: float) -> Flow[float]:
    """Watch those whom a silent neighbour had to watch."""
    neighbour.is_covered = True
    key = membership.keys.key("rank", neighbour.ticket)
    ((text,),), now = yield Effect([read(key)], membership.deadline(now), beat=True)
    with suppress(RendezvousStateError):  # the round is over, and its keys are gone; or it is not a node's
        membership.watch_also(Assignment.load(text, f"rank/{neighbour.ticket} of round {membership.keys.round}"))
    return now


def _end(membership: Membership, end: End, now: float) -> Flow[float]:
    """Write why the round should end, if nobody has."""
    request: Request = (wire.COMPARE_SET, membership.keys.key("end"), b"", end.dump())
    ((text,),), now = yield Effect([request], membership.deadline(now), beat=True)
    _note_end(membership, text)
    return now


def _note_end(membership: Membership, text: bytes) -> None:
    if membership.end:
        return
    try:
        end = End.load(text, f"the end of round {membership.keys.round}")
    except RendezvousStateError as error:  # whoever wrote it, the round can hear of no other end
        end = End("lost", "somebody", None, brief(str(error)))
    if end.kind == "lost" and end.rank == membership.member.assignment.rank:  # its beats are worth nothing any more
        membership.evict(end.why)
    membership.end = end
    membership.report("end", round=membership.keys.round, kind=end.kind, node=end.node, why=str(end))


def _look_at_head(membership: Membership, now: float) -> Flow[float]:
    """Whether the job is closed, or has gone on without this node: who did that may have died before it told."""
    state, now = yield ReadHead(membership.deadline(now), beat=True)
    if state is None:
        raise RendezvousStateError("the job's document is gone: the store was lost or emptied; start the job again")
    head = Head.load(state[0], "the job's document")
    if head.job != membership.job or head.sealed_round < membership.keys.round:
        raise RendezvousStateError("the store was lost: another job of this name has begun there")
    if head.closed and not (membership.end and membership.end.kind == "closed"):
        end = End("closed", head.closed.by, None, head.closed.why)
        membership.end = None  # whatever it was, this is the last word
        _note_end(membership, end.dump())
        yield Effect([(wire.COMPARE_SET, membership.keys.key("end"), b"", end.dump())], membership.deadline(now))
    if head.sealed_round > membership.keys.round:
        membership.evict("the next round was sealed without this node")
    return now


def _reason(beat: bytes) -> str:
    """Why a node's beat is not its own any more."""
    kind, _, why = beat.partition(b": ")
    return why.decode(errors="replace") if kind == LOST else "its round is over, and its keys are gone"


# Going


def next_round(standing: Standing, membership: Membership | None, now: float) -> Flow[Member]:
    """Go from the round where the node is a member, if it is in one, into the next.

    Raises:
        RendezvousError: As `join`.
    """
    standing.former = None
    if membership:
        is_member, now = yield from _last_word(membership, MOVED_ON, now)
        standing.former = membership.member if is_member else None
        standing.silent = tuple(neighbour.silence for neighbour in membership.watched if neighbour.pulse.silent_s)
    return (yield from join(standing, now))


def _last_word(membership: Membership, word: bytes, now: float) -> Flow[tuple[bool, float]]:
    """Say something in place of the next beat; false if the node has been evicted."""
    while not membership.evicted:
        ((value,),), now = yield Effect([membership.say(word)], membership.deadline(now))
        if value == word:
            return True, now
        if value != b"%d" % (membership.beat + 1):  # `tend` was stopped while this beat was on its way
            membership.evict(_reason(value))
        membership.beat += 1
    return False, now


def leave(membership: Membership, reason: str, at: str, now: float) -> Flow[None]:
    """Leave the round: the others are told, and go on. Who is the last to leave closes the job.

    Args:
        membership: What this node knows of its round.
        reason: Why it leaves.
        at: The date and time, for people.
        now: The time, on the driver's clock, in seconds.
    """
    keys, record, assignment = membership.keys, membership.member.record, membership.member.assignment
    reason = brief(reason)
    is_member, now = yield from _last_word(membership, farewell(reason), now)
    if not is_member:
        return
    ((gone,),), now = yield Effect([(wire.ADD, keys.key("gone"), 1)], membership.deadline(now))
    membership.report("left", round=keys.round, why=reason)
    # Some may be counted twice, so that the last must make sure; but no other need look at all the beats.
    is_last = gone >= assignment.size
    if is_last:
        is_last, now = yield from _is_deserted(membership, now)
    if is_last:
        closed = Closed(record.name, f"all {assignment.size} nodes of round {keys.round} have left or were lost", at)
        yield from close(keys.run_id, membership.settings, membership.job, closed, now, keys.round)
    else:
        yield from _end(membership, End("left", record.name, assignment.rank, reason), now)


def _is_deserted(membership: Membership, now: float) -> Flow[tuple[bool, float]]:
    """Whether every member of the round has left or was lost, and none is in the next lobby."""
    members, now = yield from read_members(membership, now)
    for first in range(0, len(members), BATCH):
        batch = [read(membership.keys.key("beat", ticket)) for ticket, _ in members[first : first + BATCH]]
        beats, now = yield Effect(batch, membership.deadline(now))
        if not all(beat.startswith((LEFT, LOST)) for (beat,) in beats):
            return False, now
    return bool(members), now


def read_members(membership: Membership, now: float) -> Flow[tuple[Sequence[tuple[int, str]], float]]:
    """The ticket and the name of each member, in the order of their ranks.

    None if a later round has begun, or if the job was closed and opened again: it is not for those who are left to end.

    Raises:
        RendezvousStateError: The store holds what no node writes.
    """
    keys = membership.keys
    state, now = yield ReadHead(membership.deadline(now))
    head = Head.load(state[0], "the job's document") if state else None
    if head is None or (head.sealed_round, head.rounds) != (keys.round, keys.round + 1):
        return (), now
    ((text,),), now = yield Effect([read(keys.key("plan", head.sealed_by))], membership.deadline(now))
    if not found(text):  # a later round has begun since, and has cleared it away
        return (), now
    return Plan.load(text, f"the plan of round {keys.round}").members, now


def close(
    run_id: str, settings: Settings, job: str, closed: Closed, now: float, round_: int | None = None
) -> Flow[Closed]:
    """Close the job for all its nodes; returns who has closed it, which may be another who was first.

    The head decides. Then those who wait in the last round or in the lobby are woken; if the closer dies before that,
    they find out by themselves, since they look at the head from time to time. Nothing is closed if a round is given,
    and it is not the last one any more.
    """
    closed = replace(closed, why=brief(closed.why))
    state, now = yield ReadHead(now + settings.heartbeat_s)
    while True:
        head = Head.load(state[0], f"the document of run {run_id!r}") if state else Head(settings, job)
        if head.closed or round_ not in (None, head.sealed_round):
            return head.closed or closed
        token = state[1] if state else None
        state, now = yield WriteHead(replace(head, closed=closed).dump(), token, now + settings.heartbeat_s)
        if state and state[2]:
            break
    end = End("closed", closed.by, None, closed.why)
    wakes: list[Request] = [(wire.COMPARE_SET, Keys(run_id, head.rounds).key("outcome"), b"", b"closed")]
    if head.size:
        wakes.append((wire.COMPARE_SET, Keys(run_id, head.sealed_round).key("end"), b"", end.dump()))
    yield Effect(wakes, now + settings.heartbeat_s)
    return closed
