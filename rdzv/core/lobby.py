"""What the leader of a lobby knows: who is here and alive, who of the round before is still to come, what it has told.

`lead` decides upon it with `decide`, and carries out what is decided. Everything here can be learnt anew from the
store, so nothing is lost with a leader but time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.decide import Candidate, Lobby, Pulse, find_rivals, was_member
from rdzv.core.documents import LOST, Keys, Notice, Plan, Record, brief
from rdzv.core.effects import Effect
from rdzv.core.join import found, heard, heed, read
from rdzv.errors import RendezvousStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdzv.core.decide import Decision
    from rdzv.core.effects import Flow
    from rdzv.core.join import Standing
    from rdzv.core.wire import Request

BATCH = 1000  # keys in one request: enough to be quick, and not so many as to hold up others


def read_beats(
    keys: Sequence[bytes], deadline: Callable[[float], float], now: float
) -> Flow[tuple[list[bytes], float]]:
    """The last words of the nodes that beat at these keys; empty where nothing is, or is not any more.

    Args:
        keys: Where.
        deadline: Until when a request that is made then must be answered.
        now: The time, on the driver's clock, in seconds.
    """
    values: list[bytes] = []
    for first in range(0, len(keys), BATCH):
        batch = keys[first : first + BATCH]
        ((not_ready,),), now = yield Effect([(wire.CHECK, batch)], deadline(now), beat=True)
        if not_ready:  # MULTI_GET would wait for what is not there any more
            replies, now = yield Effect([*map(read, batch)], deadline(now), beat=True)
            values += [found(value) for (value,) in replies]
        else:
            (texts,), now = yield Effect([(wire.MULTI_GET, batch)], deadline(now), beat=True)
            values += texts
    return values, now


class Leadership:
    """One node's knowledge of the lobby that it leads."""

    def __init__(self, standing: Standing, notice: bytes, now: float) -> None:
        self.standing, self.settings, self.keys = standing, standing.settings, standing.keys
        self.former_keys: Keys  # of the round before, as `read_former` has found it
        self.former: dict[int, tuple[int, str, Pulse]] = {}  # rank -> ticket, name and pulse of who is not back
        self.gone: list[str] = []  # the names of those of them who have left or were lost
        self.candidates: dict[int, Candidate] = {}  # ticket -> who is here
        self.tickets: dict[str, int] = {}  # token -> the ticket of who is here
        self.highest = 0  # of the tickets that are known to be drawn
        self.unread: list[int] = []  # tickets without a record yet, perhaps for ever
        self.notice = notice  # as last written
        last = heard(notice)
        self.last_leader = last.leader if last else int(not notice)  # the first leads before it says so
        self.beat = 0
        self.has_looked = False  # whether it has seen the lobby before, so that who is new there has just come
        self.refused: dict[int, str] = {}  # ticket -> why that node must go
        self.enough_since, self.last_arrival_at = float("inf"), float("-inf")
        self.began_at, self.poll_at = now, now + self.settings.poll_s

    def lobby(self) -> Lobby:
        """What to decide upon."""
        wanted = [candidate for candidate in self.candidates.values() if candidate.ticket not in self.refused]
        return Lobby(
            candidates=[candidate for candidate in wanted if candidate.lives],
            unproven=[candidate.record.name for candidate in wanted if not candidate.lives],
            running=[name for _, name, _ in self.former.values()],
            gone=self.gone,
            rivals=self.rivals(),
            former_round=self.former_keys.round,
            enough_since=self.enough_since,
            last_arrival_at=self.last_arrival_at,
            give_up_at=self.standing.give_up_at,
        )

    # Who is here

    def read_records(self, tickets: Sequence[int], now: float, *, is_proven: bool) -> Flow[float]:
        """Take in the nodes with these tickets, whose records are there; what is no record is left where it is."""
        for first in range(0, len(tickets), BATCH):
            batch = tickets[first : first + BATCH]
            request: Request = (wire.MULTI_GET, [self.keys.key("node", ticket) for ticket in batch])
            (texts,), now = yield Effect([request], self.standing.deadline(now))
            for ticket, text in zip(batch, texts, strict=True):
                try:
                    record = Record.load(text, f"node/{ticket} of round {self.keys.round}")
                except RendezvousStateError as error:
                    self.standing.report("garbage", round=self.keys.round, ticket=ticket, why=str(error))
                else:
                    self.admit(Candidate(ticket, record, now, is_proven), now)
        return now

    def admit(self, candidate: Candidate, now: float) -> None:
        """Take in one node."""
        token = candidate.record.token
        if token in self.tickets:  # the same node, which had given up and has come again
            older, newer = sorted((self.tickets[token], candidate.ticket))
            self._drop(older)
            if newer != candidate.ticket:
                return
        self.tickets[token] = candidate.ticket
        self.candidates[candidate.ticket] = candidate
        if was_member(candidate, self.former_keys.round):
            self.former.pop(candidate.record.was_rank, None)
            self._take_over_watch(candidate.record)
        self.last_arrival_at = now
        self._note_whether_enough(now)

    def _take_over_watch(self, record: Record) -> None:
        """Go on where a member has stopped watching: or a node that died just before would be waited for anew."""
        for rank, beat, silent_s in record.silent:
            if rank in self.former:
                _, _, pulse = self.former[rank]
                if pulse.value == beat.encode():
                    pulse.silent_s = max(pulse.silent_s, min(silent_s, self.settings.bound_s - self.settings.poll_s))

    def _drop(self, ticket: int) -> None:
        self.candidates.pop(ticket, None)
        self.refused.pop(ticket, None)

    def _note_whether_enough(self, now: float) -> None:
        """Note since when there have been enough nodes, if there are."""
        if len(self.candidates) < self.settings.min_nodes:
            self.enough_since = float("inf")
        else:
            self.enough_since = min(self.enough_since, now)

    def read_former(self, now: float) -> Flow[float]:
        """Learn who was in the round before, and who of them has left or was lost since."""
        head = self.standing.head
        self.former_keys = Keys(self.standing.run_id, head.sealed_round)
        if head.sealed_round < 0:
            return now
        plan_key = self.former_keys.key("plan", head.sealed_by)
        ((text,),), now = yield Effect([read(plan_key)], self.standing.deadline(now))
        plan = Plan.load(text, f"the plan of round {self.former_keys.round} of run {self.standing.run_id!r}")
        self.former = {rank: (ticket, name, Pulse()) for rank, (ticket, name) in enumerate(plan.members)}
        return (yield from self.poll_former(now))

    # Who is alive

    def poll_former(self, now: float) -> Flow[float]:
        """Look for the members of the round before that are not here: those who left or died are not waited for."""
        beats = {rank: self.former_keys.key("beat", ticket) for rank, (ticket, _, _) in self.former.items()}
        values, now = yield from read_beats(list(beats.values()), self.standing.deadline, now)
        gone_key = self.former_keys.key("gone")
        for rank, value in zip(beats, values, strict=True):
            _, name, pulse = self.former[rank]
            pulse.observe(value, now, self.settings)
            if pulse.is_silent(self.settings):
                now = yield from self._declare_lost(beats[rank], pulse, [(wire.ADD, gone_key, 1)], now)
            if pulse.is_gone:
                del self.former[rank]
                self.gone.append(name)
                self.standing.report("gone", round=self.former_keys.round, rank=rank, node=name, **pulse.last_words())
        return now

    def poll_candidates(self, now: float) -> Flow[float]:
        """Drop those in the lobby who left it or died."""
        others = [candidate for candidate in self.candidates.values() if candidate.ticket != self.standing.ticket]
        keys = [self.keys.key("beat", candidate.ticket) for candidate in others]
        values, now = yield from read_beats(keys, self.standing.deadline, now)
        for candidate, key, value in zip(others, keys, values, strict=True):
            candidate.pulse.observe(value, now, self.settings)
            if candidate.pulse.is_silent(self.settings):
                now = yield from self._declare_lost(key, candidate.pulse, [], now)
            if candidate.pulse.is_gone:
                self._drop(candidate.ticket)
                words = candidate.pulse.last_words()
                self.standing.report("gone", round=self.keys.round, node=candidate.record.name, **words)
        self._note_whether_enough(now)
        return now

    def is_about_to_know(self, now: float) -> bool:
        """Whether silent ones will be found dead soon, so that this leader must not give up yet.

        Each leader sees for itself that they are dead: if those who lead came and went faster, nobody ever would.
        """
        pulses = [pulse for _, _, pulse in self.former.values()]
        pulses += [candidate.pulse for candidate in self.candidates.values() if not candidate.lives]
        is_any_silent = any(pulse.silent_s > self.settings.poll_s for pulse in pulses)
        return is_any_silent and now < self.began_at + 2 * self.settings.bound_s  # on slow links polls are far apart

    def rivals(self) -> tuple[Candidate, Candidate] | None:
        """Two nodes that ask for one rank, in order of tickets."""
        wanted = [candidate for candidate in self.candidates.values() if candidate.ticket not in self.refused]
        return find_rivals(sorted(wanted, key=lambda candidate: candidate.ticket))

    def refuse_rivals(self) -> None:
        """Refuse the later of two such nodes, once the earlier has beaten since: it may be that one, started anew."""
        while rivals := self.rivals():
            first, second = rivals
            beat_s = first.pulse.beat_at - second.came_at
            if first.ticket != self.standing.ticket and beat_s <= 2 * self.settings.poll_s:
                return
            names = f"{first.record.name} and {second.record.name}"
            self.refused[second.ticket] = (
                f"both {names} ask for rank {first.record.rank}, and {first.record.name} was first"
            )

    def _declare_lost(self, key: bytes, pulse: Pulse, more: list[Request], now: float) -> Flow[float]:
        """Write that a node is dead where it beats, so that it learns of it if it is not; unless it beat just now."""
        by = LOST + b": found by " + self.standing.record.name.encode()
        requests = [(wire.COMPARE_SET, key, pulse.value, by), *more]
        ((pulse.value,), *_), now = yield Effect(requests, self.standing.deadline(now))
        return now

    def bury(self, now: float) -> Flow[float]:
        """Write that the leader before this one is dead, of whom this node has seen nothing for the bound."""
        if self.last_leader not in (0, self.standing.ticket):
            key = self.keys.key("beat", self.last_leader)
            ((beat,),), now = yield Effect([read(key)], self.standing.deadline(now), beat=True)
            now = yield from self._declare_lost(key, Pulse(found(beat)), [], now)
        return now

    # What the others must know

    def claim(self) -> Request:
        """The request that makes this node the leader; its reply is the new notice, unless another was quicker."""
        last = heard(self.notice)
        why = "a new leader of the lobby looks who is here"
        waiting, full = (last.waiting, last.full) if last else (0, False)
        return self._publish(Notice(self.standing.ticket, 0, waiting, full, why))

    def next_notice(self, decision: Decision, now: float) -> Request:
        """The request that shows that the lobby is led, and says what it waits for; its reply must be the new notice.

        The leader heeds its own notice, as all others do.

        Raises:
            RendezvousStateError: It is the leader itself that must not stay.
        """
        lobby = self.lobby()
        room = max(0, self.settings.max_nodes - len(lobby.running))
        refused = min(self.refused, default=0)
        self.beat += 1
        notice = Notice(
            self.standing.ticket,
            self.beat,
            min(len(lobby.candidates), room),
            full=not room and not lobby.is_any_back,
            why=brief(decision.why),
            refused=refused,
            refusal=brief(self.refused.get(refused, "")),
        )
        heed(self.standing, notice, now)
        return self._publish(notice)

    def resign(self, now: float) -> Flow[None]:
        """Tell the others that they need a new leader; also if this overtakes this node's last notice."""
        last = Notice(0, self.beat + 1, 0, full=False, why="the leader of the lobby has left it").dump()
        while True:
            request = (wire.COMPARE_SET, self.keys.key("lobby"), self.notice, last)
            ((notice,),), now = yield Effect([request], self.standing.deadline(now))
            there = heard(notice)
            if notice in (last, self.notice) or there is None or there.leader != self.standing.ticket:
                return
            self.notice = notice  # an earlier one of its own: the later one comes to nothing now

    def _publish(self, notice: Notice) -> Request:
        before, self.notice = self.notice, notice.dump()
        return (wire.COMPARE_SET, self.keys.key("lobby"), before, self.notice)
