"""How a node gets into a round of an elastic job: it draws a ticket, leaves a record, and waits in the lobby.

In all five operations, whatever the number of nodes: read the head, draw a ticket, write the record, wait for the
outcome, read one's own assignment. One node of the lobby leads it and does the rest (`lead`): the one with the first
ticket, or whoever finds it silent. While they wait, nodes beat, so that the dead are not made members.

A node that is not in the sealed round (it came late, or is one too many) goes on to the next lobby: it is late or a
spare, and waits there. Nothing here knows a socket or a clock: flows are generators (see `effects`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rdzv.core import wire
from rdzv.core.decide import Pulse
from rdzv.core.documents import MOVED_ON, TICKETS_MAX, Assignment, Head, Keys, Notice, Record, Settings, farewell
from rdzv.core.effects import Effect, ReadHead, Sleep, WriteHead
from rdzv.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.effects import Flow
    from rdzv.core.wire import Request

_ABSENT = b"-"  # no node writes this anywhere


def read(key: bytes) -> Request:
    """A request that gives the value of a key at once, see `found`; unlike GET it never waits, and it writes nothing.

    A comparison with what is not there is answered with what was expected.
    """
    return (wire.COMPARE_SET, key, _ABSENT, _ABSENT)


def found(value: bytes) -> bytes:
    """What the reply of `read` says: the value, empty if there is none."""
    return b"" if value == _ABSENT else value


@dataclass(frozen=True, slots=True)
class Member:
    """A node in a sealed round.

    Attributes:
        keys: The keys of the round.
        ticket: The node's ticket in the lobby that it came from.
        record: What it wrote there.
        beat: Its last beat there.
        assignment: What it took home.
    """

    keys: Keys
    ticket: int
    record: Record
    beat: int
    assignment: Assignment


@dataclass(slots=True)
class Standing:
    """One node on its way into a round: what it brings, and where it has got to.

    Attributes:
        run_id: The job's name.
        settings: What the node was given; the head's must be the same.
        record: Who it is. If it was a member of a round, `former` says of which.
        job: A text that no other job has had, in case that this node is the first.
        former: Its place in the round before, if it was a member until now.
        silent: Whom it had seen fall silent there, as `Record.silent` has it.
        reopen: Whether to open a closed job again.
        report: Is told what happens, as a kind and some facts.
        head: The head as last read, with its `token`.
        keys: The keys of the lobby in which the node stands.
        ticket: Its ticket there; 0 while it has none.
        beat: The node's last beat there.
        asked_at: When it showed that beat.
        sure_at: When it asked whether it still counts, and was told that it does.
        give_up_at: When its patience ends.
        waits_since: Since when it waits for a place; a spare's patience begins when a place becomes free.
        is_first: Whether it was the first in its lobby, and has not led it yet.
        is_spare: Whether it came to a full round, so that nothing has failed if the job ends before it gets a place.
        why: What the lobby waits for, as last heard.
    """

    run_id: str
    settings: Settings
    record: Record
    job: str
    former: Member | None = None
    silent: tuple[tuple[int, str, float], ...] = ()
    reopen: bool = False
    report: Callable[..., None] = lambda *_, **__: None
    head: Head = field(init=False)
    token: Any = None
    keys: Keys = field(init=False)
    ticket: int = 0
    beat: int = 0
    asked_at: float = 0.0
    sure_at: float = 0.0
    give_up_at: float = 0.0
    waits_since: float = 0.0
    is_first: bool = False
    is_spare: bool = False
    why: str = "nobody leads the lobby yet"

    def deadline(self, now: float) -> float:
        """Until when a request must be answered."""
        return now + self.settings.heartbeat_s

    def next_beat(self, now: float) -> Request:
        """The request that shows life; its reply is the new beat, or else why the node is not counted any more."""
        self.asked_at = now
        return (wire.COMPARE_SET, self.keys.key("beat", self.ticket), b"%d" % self.beat, b"%d" % (self.beat + 1))

    def wait_for(self, why: str, *, is_spare: bool) -> None:
        """Note what the lobby waits for, and whether this node is a spare there; once one, it stays one."""
        is_spare |= self.is_spare
        if (why, is_spare) != (self.why, self.is_spare):
            self.why, self.is_spare = why, is_spare
            self.report("spare" if is_spare else "waiting", round=self.keys.round, why=why)

    def took_beat(self, value: bytes) -> bool:
        """Whether the reply of `next_beat` says that this node still counts."""
        self.beat += 1
        is_counted = value == b"%d" % self.beat
        if is_counted:
            self.sure_at = self.asked_at
        return is_counted

    def was_held_up(self, now: float) -> bool:
        """Whether it was away for so long that others may have taken it for dead."""
        return now - self.sure_at > self.settings.keep_alive_interval_s + self.settings.poll_s


def join(standing: Standing, now: float) -> Flow[Member]:
    """Become a member of a round.

    Raises:
        RendezvousClosedError: The job is closed.
        RendezvousGracefulExitError: So it is, and this node was a spare.
        RendezvousTimeoutError: The round was not complete in time; the text says what it waited for.
        RendezvousStateError: The settings differ from those of the others, or the store holds what no node writes.
    """
    asked_at, standing.waits_since, standing.give_up_at = now, now, now + standing.settings.join_s
    try:
        now = yield from _enter(standing, now)
        while True:
            now = yield from _line_up(standing, asked_at, now)  # since it asked for the head
            assignment, now = yield from _stand(standing, now)
            if assignment:
                standing.report("joined", round=assignment.round, rank=assignment.rank, size=assignment.size)
                return Member(standing.keys, standing.ticket, standing.record, standing.beat, assignment)
            now = yield from _pass_over(standing, asked_at := now)
    except RendezvousError as error:
        yield from _abandon(standing, f"{type(error).__name__}: {error}", now)
        raise


def _pass_over(standing: Standing, now: float) -> Flow[float]:
    """Go on from a lobby whose round goes on without this node.

    Raises:
        RendezvousClosedError, RendezvousGracefulExitError: The job is closed.
        RendezvousStateError: The lobby has an outcome, but nobody decided it.
    """
    keys, ticket = standing.keys, standing.ticket
    standing.report("passed over", round=keys.round)
    standing.ticket = 0
    now = yield from read_head(standing, now)
    ((outcome,),), now = yield Effect([read(keys.key("outcome"))], standing.deadline(now))
    if standing.head.rounds == keys.round:  # then it was taken for dead, and can come again
        if found(outcome):
            where = f"the outcome of round {keys.round} of run {standing.run_id!r}"
            raise RendezvousStateError(f"{where} holds what no node writes there, {outcome[:60]!r}: it is not over")
    elif standing.head.sealed_round > keys.round:
        # Its keys will be cleared away with all others; or they were before it came, and it has brought some back.
        late = [*keys.of_node(ticket), *(() if found(outcome) else keys.common())]
        _, now = yield Effect([(wire.DELETE_KEY, key) for key in late], standing.deadline(now))
    return now


def read_head(standing: Standing, now: float, beat: bool = False) -> Flow[float]:
    """Read the head anew; whoever finds the job closed is told so.

    Raises:
        RendezvousClosedError, RendezvousGracefulExitError: It is closed.
    """
    state, now = yield ReadHead(standing.deadline(now), beat)
    _accept_head(standing, *(state or (b"", None)))
    return now


def write_head(standing: Standing, head: Head, now: float) -> Flow[tuple[bool, float]]:
    """Replace the head as it was last read; false if it was another by now, which is then known.

    Raises:
        RendezvousClosedError, RendezvousGracefulExitError: It is closed.
    """
    result, now = yield WriteHead(head.dump(), standing.token, standing.deadline(now))
    state, token, is_written = result or (b"", None, False)
    _accept_head(standing, state, token)
    return is_written, now


def _accept_head(standing: Standing, state: bytes, token: Any) -> None:
    """Take the head as it is now.

    Raises:
        RendezvousStateError: There is none any more, it is that of another job, or of one with other settings.
        RendezvousClosedError, RendezvousGracefulExitError: The job is closed.
    """
    if not state:
        raise RendezvousStateError(f"the document of run {standing.run_id!r} is gone: its store was lost or emptied")
    head = Head.load(state, f"the document of run {standing.run_id!r}")
    if standing.token is not None and standing.head.job != head.job:
        raise RendezvousStateError(f"the store has lost run {standing.run_id!r}: another run of that name began there")
    standing.head, standing.token = head, token
    if head.closed:
        error = RendezvousGracefulExitError if standing.is_spare else RendezvousClosedError
        raise error(f"run {standing.run_id!r} is {head.closed}")
    if head.settings != standing.settings:
        difference = standing.settings.difference(head.settings)
        raise RendezvousStateError(f"the settings of this node are not those of the job: {difference}")


def _enter(standing: Standing, now: float) -> Flow[float]:
    """Read the head, or write it if this node is the first: one operation in either case."""
    first = standing.head = Head(standing.settings, standing.job)
    try:
        _, now = yield from write_head(standing, first, now)
    except RendezvousClosedError:
        if not standing.reopen:
            raise
        # Another number than that of the lobby that was closed: nothing of it can be read in the new one. Members of
        # the round that was closed may still be at work; the new one is not sealed before they have gone.
        head = standing.head
        head = replace(head, settings=standing.settings, closed=None, rounds=head.rounds + 1)
        _, now = yield from write_head(standing, head, now)
    return now


def _line_up(standing: Standing, asked_at: float, now: float) -> Flow[float]:
    """Draw a ticket and leave a record. A ticket whose node was lost before it left its record harms nobody."""
    keys, former = Keys(standing.run_id, standing.head.rounds), standing.former
    standing.keys, standing.ticket, standing.beat = keys, 0, standing.record.first_beat
    ((ticket,),), now = yield Effect([(wire.ADD, keys.key("ticket"), 1)], standing.deadline(now))
    if not 0 < ticket <= TICKETS_MAX:
        raise RendezvousStateError(f"the tickets of round {keys.round} are no node's: they have come to {ticket}")
    record = standing.record
    if former and former.keys.round == standing.head.sealed_round:
        was = former.assignment
        record = replace(record, was_round=was.round, was_rank=was.rank, silent=standing.silent)
    standing.ticket, standing.record = ticket, record
    items = [keys.key("node", ticket), record.dump(), keys.key("beat", ticket), b"%d" % standing.beat]
    _, now = yield Effect([(wire.MULTI_SET, items)], standing.deadline(now))
    standing.sure_at = now
    # One who was held up since it asked for the head may find that another leads by now, or that all is over here.
    standing.is_first = ticket == 1 and now - asked_at <= standing.settings.poll_s
    standing.report("in lobby", round=keys.round, ticket=ticket)
    return now


def _stand(standing: Standing, now: float) -> Flow[tuple[Assignment | None, float]]:
    """Wait for the lobby's outcome: the assignment, or nothing if the round goes on without this node."""
    from rdzv.core.lead import lead  # the two call each other

    settings, keys = standing.settings, standing.keys
    leader, polls, leads = Pulse(), 0, standing.ticket == 1
    while True:
        if leads:
            is_over, assignment, now = yield from lead(standing, leader.value, now)
            if is_over:
                return (yield from _in_time(standing, assignment, now))
            leads, leader = False, Pulse()
        until = max(now, min(now + settings.poll_s, standing.give_up_at))
        wait: Request = (wire.WAIT, [keys.key("outcome")])
        ((met,),), now = yield Effect([wait], standing.deadline(until), until, beat=polls > 0)
        if met:
            return (yield from _in_time(standing, *(yield from take_assignment(standing, now))))
        polls += 1
        requests = [standing.next_beat(now), read(keys.key("lobby"))]
        ((beat,), (notice,)), now = yield Effect(requests, standing.deadline(now), beat=True)
        if not standing.took_beat(beat):
            return None, now  # it was taken for dead: even if it is in the round's plan, the others go on without it
        leader.observe(found(notice), now, settings)
        leads = heed(standing, heard(leader.value), now) or leader.is_silent(settings)
        if polls % settings.polls_per_bound == 0:
            now = yield from read_head(standing, now, beat=True)
            if standing.head.rounds > keys.round != standing.head.sealed_round:
                return None, now  # else the outcome is about to be written
        if now >= standing.give_up_at and not leads:
            return (yield from give_up(standing, now))


def _in_time(standing: Standing, assignment: Assignment | None, now: float) -> Flow[tuple[Assignment | None, float]]:
    """This node's assignment; nothing if it was held up on the way to it, and the others have given it up since."""
    if assignment and standing.was_held_up(now):
        ((beat,),), now = yield Effect([standing.next_beat(now)], standing.deadline(now))
        if not standing.took_beat(beat):
            return None, now
    return assignment, now


def heard(notice: bytes) -> Notice | None:
    """What a lobby's leader has to say, if there is one.

    What no leader writes is as good as nothing: it never changes, so a new leader comes, and writes over it.
    """
    try:
        return Notice.load(notice, "a lobby") if notice else None
    except RendezvousStateError:
        return None


def heed(standing: Standing, notice: Notice | None, now: float) -> bool:
    """Do what the lobby's leader says; true if it leads no more.

    Raises:
        RendezvousStateError: This node must not stay.
    """
    if notice is None:
        return False
    if notice.refused == standing.ticket:
        raise RendezvousStateError(notice.refusal)
    standing.wait_for(notice.why, is_spare=notice.full)
    if notice.full:
        standing.give_up_at = now + standing.settings.join_s
    return notice.leader == 0


def take_assignment(standing: Standing, now: float) -> Flow[tuple[Assignment | None, float]]:
    """This node's assignment in the lobby where it stands, or nothing if the round goes on without it."""
    key = standing.keys.key("rank", standing.ticket)
    ((text,),), now = yield Effect([read(key)], standing.deadline(now))
    where = f"rank/{standing.ticket} of round {standing.keys.round} of run {standing.run_id!r}"
    return Assignment.load(text, where) if found(text) else None, now


def give_up(standing: Standing, now: float) -> Flow[tuple[Assignment | None, float]]:
    """Leave the lobby, unless the round was sealed at the last moment.

    Raises:
        RendezvousTimeoutError: The round was not sealed.
    """
    waited_s = now - standing.waits_since
    gone = farewell(f"it gave up after {waited_s:.1f} s")
    assignment, now = yield from _leave_lobby(standing, gone, now)
    if assignment:
        stay: Request = (wire.COMPARE_SET, standing.keys.key("beat", standing.ticket), gone, b"%d" % standing.beat)
        _, now = yield Effect([stay], standing.deadline(now))
        return assignment, now
    standing.ticket = 0
    raise RendezvousTimeoutError(
        f"run {standing.run_id!r}: round {standing.keys.round} was not complete after {waited_s:.1f} s: {standing.why}"
    )


def _abandon(standing: Standing, reason: str, now: float) -> Flow[None]:
    """Leave for good, whatever has come of the lobby: a round that has this node in hears of it from its watchers."""
    _, now = yield Sleep(now)  # only to know the time
    gone = farewell(reason)
    if not standing.ticket:
        yield Effect(_leave_former(standing, gone), standing.deadline(now))
        return
    assignment, now = yield from _leave_lobby(standing, gone, now)
    if assignment:
        yield Effect([(wire.ADD, standing.keys.key("gone"), 1)], standing.deadline(now))


def _leave_former(standing: Standing, gone: bytes) -> list[Request]:
    """The requests after which nobody waits for this node to come back from the round before."""
    former = standing.former
    if not former or former.keys.round < standing.head.sealed_round:
        return []
    former_beat = former.keys.key("beat", former.ticket)
    return [(wire.COMPARE_SET, former_beat, MOVED_ON, gone), (wire.ADD, former.keys.key("gone"), 1)]


def _leave_lobby(standing: Standing, gone: bytes, now: float) -> Flow[tuple[Assignment | None, float]]:
    """Say in place of the next beat that this node waits no more; its assignment, if it is a member by now."""
    key = standing.keys.key("beat", standing.ticket)
    while True:
        leave: Request = (wire.COMPARE_SET, key, b"%d" % standing.beat, gone)
        ((beat,), *_), now = yield Effect([leave, *_leave_former(standing, gone)], standing.deadline(now))
        if beat == gone:
            return (yield from take_assignment(standing, now))
        if not standing.took_beat(beat):  # else it was interrupted while this beat was on its way
            return None, now  # it was taken for dead before
