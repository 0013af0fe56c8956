"""How one node of a lobby leads it: it looks who is there, decides with `decide`, and seals the round.

The decision is one write of the head under its token: it says which round is sealed, and whose plan holds. Before it
the plan is written, after it each member's assignment and then the outcome, which wakes them all. If the leader dies on
the way, the next one finds either an unsealed round, and decides anew, or a sealed one, and finishes that very plan.
Two leaders at a time, or one that was paused and goes on later, are harmless: the head's token lets only one decide,
and the plan that it names is carried out the same by whoever does it. So that not all do at once what one has left
undone, who wants to lead writes the lobby's notice first.

A leader that meets a round whose members have not all come, left or died waits for them, since they may still be at
work: so there are never two live worlds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.decide import Candidate, Decision, assign_ranks, decide, was_member
from rdzv.core.documents import TICKETS_MAX, Plan
from rdzv.core.effects import Effect, Sleep
from rdzv.core.join import give_up, read, read_head, write_head
from rdzv.core.lobby import BATCH, Leadership
from rdzv.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
)

if TYPE_CHECKING:
    from rdzv.core.documents import Assignment
    from rdzv.core.effects import Flow
    from rdzv.core.join import Standing
    from rdzv.core.wire import Request

    Verdict = tuple[bool, Assignment | None, float]  # whether the lobby is over for this node, its assignment, the time


def lead(standing: Standing, notice: bytes, now: float) -> Flow[Verdict]:
    """Lead the lobby, as the first one in it or after a leader that has fallen silent.

    Args:
        standing: This node.
        notice: What the last leader has written, empty if nothing.
        now: The time, on the driver's clock, in seconds.

    Returns:
        As `Verdict`; if the lobby is not over, another node leads it.

    Raises:
        RendezvousError: As `join`.
    """
    leadership = Leadership(standing, notice, now)
    try:
        if standing.is_first:
            standing.is_first = False
            return (yield from _begin(leadership, now))
        return (yield from _take_over(leadership, now))
    except RendezvousError:
        _, now = yield Sleep(now)  # only to know the time
        yield from leadership.resign(now)
        raise


def _begin(leadership: Leadership, now: float) -> Flow[Verdict]:
    """Lead as the first node in the lobby: whoever comes, comes while it looks."""
    standing = leadership.standing
    now = yield from leadership.read_former(now)
    leadership.highest, leadership.has_looked = standing.ticket, True
    me = Candidate(standing.ticket, standing.record, now)
    leadership.admit(me, now)
    if standing.head.size and not was_member(me, leadership.former_keys.round):
        leadership.poll_at = now  # a running round waits for the news that somebody waits
    return (yield from _gather(leadership, now))


def _take_over(leadership: Leadership, now: float) -> Flow[Verdict]:
    """Lead after another, or in place of the first: what it had begun may have to be finished."""
    standing = leadership.standing
    ((notice,),), now = yield Effect([leadership.claim()], standing.deadline(now), beat=True)
    if notice != leadership.notice:
        return False, None, now
    now = yield from read_head(standing, now)
    if standing.head.rounds > standing.keys.round:  # the last leader may live in the round that it has sealed
        return (yield from _finish(standing, now))
    now = yield from leadership.bury(now)
    now = yield from leadership.read_former(now)
    leadership.admit(Candidate(standing.ticket, standing.record, now), now)
    leadership.poll_at = now
    return (yield from _gather(leadership, now))


def _gather(leadership: Leadership, now: float) -> Flow[Verdict]:
    """Take in who comes, until the round is sealed, by this leader or another."""
    standing = leadership.standing
    while True:
        decision = decide(leadership.lobby(), standing.settings, now)
        standing.wait_for(decision.why, is_spare=False)
        if now >= leadership.poll_at:
            still_leads, now = yield from _poll(leadership, decision, now)
            if standing.head.rounds > standing.keys.round:
                return (yield from _finish(standing, now))
            if not still_leads:
                return False, None, now
        elif decision.seal and not leadership.refused:  # who must go is to hear why, or would wait for the next round
            return (yield from _seal(leadership, now))
        elif now >= standing.give_up_at and not leadership.is_about_to_know(now):
            return True, *(yield from give_up(standing, now))
        else:
            now = yield from _await_more(leadership, decision, now)


def _await_more(leadership: Leadership, decision: Decision, now: float) -> Flow[float]:
    """Wait for so many further nodes that the decision may change, or until it is time to look around."""
    standing, first = leadership.standing, leadership.highest + 1
    tickets = range(first, first + min(decision.need, BATCH))
    wait: Request = (wire.WAIT, [leadership.keys.key("node", ticket) for ticket in tickets])
    give_up_at = standing.give_up_at if standing.give_up_at > now else leadership.poll_at
    until = max(now, min(leadership.poll_at, decision.until, give_up_at))
    ((met,),), now = yield Effect([wait], standing.deadline(until), until, beat=leadership.beat > 0)
    if met and now <= until + standing.settings.poll_s:  # else the lobby may be over by now, and cleared away
        leadership.highest = tickets[-1]
        now = yield from leadership.read_records(tickets, now, is_proven=True)
    elif not met and now >= decision.until:
        leadership.poll_at = now  # who came since the last look extends the last call
    return now


def _poll(leadership: Leadership, decision: Decision, now: float) -> Flow[tuple[bool, float]]:
    """Look whether the job goes on, who has come and who is alive; tell the others. False if another leads now."""
    standing = leadership.standing
    # Whoever came since the last poll lives; but not if that was long ago, or was another leader's.
    is_prompt = leadership.has_looked and now <= leadership.poll_at + standing.settings.poll_s
    leadership.has_looked = True
    try:
        now = yield from read_head(standing, now, beat=True)
    except (RendezvousClosedError, RendezvousGracefulExitError):  # who closed may have died before telling the lobby
        yield Effect([(wire.MULTI_SET, [leadership.keys.key("outcome"), b"closed"])], standing.deadline(now))
        raise
    if standing.head.rounds > leadership.keys.round:
        return False, now
    count: Request = (wire.ADD, leadership.keys.key("ticket"), 0)
    requests = [standing.next_beat(now), leadership.next_notice(decision, now), count]
    ((beat,), (notice,), (highest,)), now = yield Effect(requests, standing.deadline(now), beat=True)
    if not standing.took_beat(beat) or notice != leadership.notice:
        return False, now
    if highest <= TICKETS_MAX:  # no node draws more, so nobody looks for their records
        leadership.unread += range(leadership.highest + 1, highest + 1)
        leadership.highest = max(leadership.highest, highest)
    now = yield from _read_late_records(leadership, now, is_proven=is_prompt)
    now = yield from leadership.poll_former(now)
    now = yield from leadership.poll_candidates(now)
    leadership.refuse_rivals()
    leadership.poll_at = now + standing.settings.poll_s
    return True, now


def _read_late_records(leadership: Leadership, now: float, *, is_proven: bool) -> Flow[float]:
    """Take in those whose tickets were known before their records: a ticket may stay without one for ever."""
    there: list[int] = []
    for first in range(0, len(leadership.unread), BATCH):
        batch = leadership.unread[first : first + BATCH]
        checks: list[Request] = [(wire.CHECK, [leadership.keys.key("node", ticket)]) for ticket in batch]
        replies, now = yield Effect(checks, leadership.standing.deadline(now), beat=True)
        there += [ticket for ticket, (not_ready,) in zip(batch, replies, strict=True) if not not_ready]
    read_now = set(there)
    leadership.unread = [ticket for ticket in leadership.unread if ticket not in read_now]
    others = [ticket for ticket in there if ticket not in leadership.candidates]
    return (yield from leadership.read_records(others, now, is_proven=is_proven))


def _seal(leadership: Leadership, now: float) -> Flow[Verdict]:
    """Write the plan, and then the head: that is the decision."""
    standing, keys = leadership.standing, leadership.keys
    candidates = list(leadership.lobby().candidates)
    members = assign_ranks(candidates, leadership.former_keys.round, standing.settings.max_nodes)
    rank_0 = members[0].record
    plan = Plan(tuple((member.ticket, member.record.name) for member in members), rank_0.addr, rank_0.port)
    dumped = plan.dump()
    write: Request = (wire.COMPARE_SET, keys.key("plan", standing.ticket), b"", dumped)
    ((text,),), now = yield Effect([write], standing.deadline(now))
    if text != dumped:  # sealed with it, no later round could be made
        raise RendezvousStateError(f"the plan of round {keys.round} holds what no node writes there, {text[:60]!r}")
    began_at = now
    head = replace(
        standing.head,
        rounds=keys.round + 1,
        sealed_round=keys.round,
        sealed_by=standing.ticket,
        size=len(members),
    )
    is_written, now = yield from write_head(standing, head, now)
    if not is_written:
        return (yield from _finish(standing, now))
    return (yield from _carry_out(standing, plan, now, is_alone=now - began_at < standing.settings.poll_s))


def _finish(standing: Standing, now: float) -> Flow[Verdict]:
    """The lobby is over. If it was sealed, its members must learn of it: who did that may have died since."""
    head, keys = standing.head, standing.keys
    if head.sealed_round != keys.round:
        return True, None, now  # they have learnt of it, and are in a later round; or the job was opened anew
    ((text,),), now = yield Effect([read(keys.key("plan", head.sealed_by))], standing.deadline(now))
    plan = Plan.load(text, f"the plan of round {keys.round} of run {standing.run_id!r}")
    return (yield from _carry_out(standing, plan, now, is_alone=False))


def _carry_out(standing: Standing, plan: Plan, now: float, *, is_alone: bool) -> Flow[Verdict]:
    """Give each member its assignment, and then wake them all: the outcome is the last key that is written.

    Args:
        standing: Whose lobby it was.
        plan: Who is a member.
        now: The time, in seconds.
        is_alone: Whether nobody else can have done it; else all of it may have been cleared away again meanwhile.
    """
    keys, mine = standing.keys, None
    if standing.was_held_up(now):  # then others may have done it, and have cleared it away since
        now = yield from read_head(standing, now)
        if standing.head.sealed_round != keys.round:
            return True, None, now
    for first in range(0, len(plan.members), BATCH):
        items: list[bytes] = []
        for rank, (ticket, _) in enumerate(plan.members[first : first + BATCH], first):
            assignment = plan.assignment(keys.round, rank)
            items += (keys.key("rank", ticket), assignment.dump())
            if ticket == standing.ticket:
                mine = assignment
        if first + BATCH >= len(plan.members):
            items += (keys.key("outcome"), b"sealed")
        _, now = yield Effect([(wire.MULTI_SET, items)], standing.deadline(now))
    if not is_alone:
        now = yield from read_head(standing, now)
        if standing.head.sealed_round != keys.round:
            late = [keys.key("outcome"), *(keys.key("rank", ticket) for ticket, _ in plan.members)]
            _, now = yield Effect([(wire.DELETE_KEY, key) for key in late], standing.deadline(now))
            return True, None, now
    return True, mine, now
