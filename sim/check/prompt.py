"""What an elastic job must do in good time, and not without need, where nothing but starts and deaths has happened.

Pure functions over the facts of `sim.check.rounds`. Where something else has struck, or may still be felt, a job may be
late and may meet once more: what is seen there is held against nobody. What is asked of launchers only: others go on
when they are told to.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.check.rounds import Given, Out
from sim.check.settled import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sim.check.rounds import Fact
    from sim.scenario import Scenario

PLAIN = ("late", "kill", "crash")
"""The faults that leave nothing to get over but that somebody came or died."""

SLACK_S = 2.5  # two polls, and what messages take
BRIEF_S = 0.5  # what messages take
WATCHED_MAX = 2  # the ranks before a member watch it
_NEVER = float("inf")
_KEY = re.compile(rb"/rdzv/[^/]+/(\d+)/")  # of one round; there they count from 0
_FAREWELLS = (b"/end", b"/gone")
_LATE = (*_FAREWELLS, b"/ticket")


@dataclass(frozen=True, slots=True)
class Haste:
    """What a job was set to.

    Attributes:
        min_nodes: The fewest nodes of a round.
        max_nodes: The most.
        bound_s: After how long without a sign of life a node is dead, in seconds.
        last_call_s: For how long further nodes are waited for, in seconds.
        join_s: For how long a node waits for its place, in seconds.
        look_s: How long a launcher takes at most to see that its round should end.
        wilful: The nodes that also go on to the next round of their own will.
    """

    min_nodes: int
    max_nodes: int
    bound_s: float
    last_call_s: float
    join_s: float
    look_s: float
    wilful: frozenset[str] = frozenset()

    @classmethod
    def of(cls, scenario: Scenario) -> Haste:
        """Those of a scenario."""
        options, nodes = dict(scenario.options), scenario.nodes
        last_call_s, join_s = float(options.get("last_call_timeout", 30)), float(options.get("join_timeout", 600))
        wilful = frozenset(f"rank {rank}" for rank in range(nodes.started) if len(scenario.steps_of(rank)) > 1)
        return cls(nodes.min, nodes.max, scenario.bound_s, last_call_s, join_s, scenario.look_s, wilful)


class Course:
    """What has happened to the launchers of a job with one store.

    Attributes:
        facts: In order of time.
        haste: What the job was set to.
        struck: When anything struck or healed that is not plain.
        given: Who was given each round, in order of time, by its number.
    """

    def __init__(self, facts: Sequence[Fact], haste: Haste, struck: Sequence[float]) -> None:
        self.facts, self.haste, self.struck = facts, haste, struck
        self.given: dict[int, list[Given]] = defaultdict(list)
        for fact in facts:
            if isinstance(fact, Given):
                self.given[fact.round].append(fact)

    def faults(self) -> Iterator[str]:
        """What was late or needless."""
        for node in dict.fromkeys(fact.node for fact in self.facts):
            yield from self._failed(node)
        for number in self.given:
            yield from self._late(number)
            yield from self._left_out(number)
            yield from self._taken_in(number)
            yield from self._needless(number)
            yield from self._moved(number)
        for fact in self.facts:
            if isinstance(fact, Out) and fact.why == "died":
                yield from self._unnoticed(fact)

    def is_calm(self, since: float, until: float) -> bool:
        """Whether nothing was to be got over then but starts and deaths."""
        return not any(since - 3 * self.haste.bound_s <= at <= until for at in self.struck)

    def _failed(self, node: str) -> Iterator[str]:
        """Joins that failed before their time was up, which has not begun for a spare while the round is full."""
        asked_at = _NEVER
        for fact in self.facts:
            if fact.node != node:
                continue
            if isinstance(fact, Out) and fact.why == "re-entered":
                is_early = fact.at_s - asked_at < self.haste.join_s or self._is_full(fact.at_s)
                is_early |= self._were_enough(node, asked_at)
                if fact.at_s - asked_at > 0 and is_early and self.is_calm(asked_at, fact.at_s):
                    yield f"{node} asked for a place at {asked_at:g} s and, without one, at {fact.at_s:g} s"
                asked_at = fact.at_s
            else:
                asked_at = _NEVER

    def _were_enough(self, node: str, asked_at: float) -> bool:
        """Whether one that had come first had waited to the end among enough others, and there was no round yet."""
        until = asked_at + self.haste.join_s
        before = [fact for fact in self.facts if fact.at_s <= until]
        if any(isinstance(fact, Given) or (isinstance(fact, Out) and fact.why != "re-entered") for fact in before):
            return False
        waiting = {fact.node: fact.at_s for fact in before if isinstance(fact, Out)}
        others = [at_s for other, at_s in waiting.items() if other != node]
        is_first = all(at_s > asked_at + BRIEF_S for at_s in others)
        return is_first and 1 + sum(at_s < until - BRIEF_S for at_s in others) >= self.haste.min_nodes

    def _late(self, number: int) -> Iterator[str]:
        """A round that could have been complete before, or that others should have been waited for."""
        haste, given = self.haste, self.given[number]
        at, asked = given[0].at_s, sorted(self._asked_at(fact) for fact in given)
        if not haste.min_nodes <= len(given) == given[0].size or not self.is_calm(asked[0], given[-1].at_s):
            return
        former_at = min([fact.at_s for fact in self.given.get(number - 1, ())], default=0.0)
        gone = [out for out in self._outs(former_at, at) if out.why != "re-entered"]
        since, deaths_in_turn = max([asked[-1], *(out.at_s for out in gone)]), self._deaths_in_turn(number, gone)
        enough_at = asked[haste.min_nodes - 1]
        # The last call is for strangers; one who left is one of them when it comes again.
        back = {fact.node for fact in given} & {fact.node for fact in self.given.get(number - 1, ())}
        is_whole = given[0].size == haste.max_nodes or bool(back - {out.node for out in gone})
        patience_s = SLACK_S + (0.0 if is_whole else haste.last_call_s)
        if at - since > patience_s + deaths_in_turn * haste.bound_s:
            yield f"round {number}: all were there or gone at {since:g} s, and the first was given it at {at:g} s"
        if gone or deaths_in_turn or is_whole:
            return
        # Each who comes is followed by as long a call for the next, within a bound.
        bound_at = enough_at + CALLS * haste.last_call_s
        if at < min(asked[-1] + haste.last_call_s, bound_at, asked[0] + haste.join_s) - 0.01 or at > bound_at + BRIEF_S:
            yield f"round {number}: given at {at:g} s, {haste.min_nodes} were there at {enough_at:g} s"

    def _left_out(self, number: int) -> Iterator[str]:
        """Those who waited when a round was made that had room for them."""
        given, former = self.given[number], self.given.get(number - 1)
        at = given[0].at_s
        is_known = len(given) == given[0].size < self.haste.max_nodes
        if not is_known or (former and former[-1].at_s > at - SLACK_S):
            return
        last = {fact.node: fact for fact in self.facts if fact.at_s < at}
        is_first = all(isinstance(fact, Out) and fact.why == "re-entered" for fact in self.facts if fact.at_s < at)
        slack_s = BRIEF_S if is_first else SLACK_S  # whoever leads has looked as the last call was over
        for node, fact in last.items():
            waits = isinstance(fact, Out) and fact.why == "re-entered" and slack_s < at - fact.at_s < self.haste.join_s
            if waits and node not in {fact.node for fact in given} and self.is_calm(fact.at_s, given[-1].at_s):
                yield f"round {number} of {given[0].size} was given at {at:g} s; {node} had asked at {fact.at_s:g} s"

    def _taken_in(self, number: int) -> Iterator[str]:
        """Members who were never given their places, though nobody has gone who could have been one of them."""
        given, haste = self.given[number], self.haste
        missing = given[0].size - len(given)
        since, until = given[0].at_s - haste.bound_s - SLACK_S, given[-1].at_s + haste.bound_s
        if missing <= 0 or until > self.facts[-1].at_s or not self.is_calm(since - haste.bound_s, until):
            return
        gone, asks = set(), {fact.node for fact in self.facts if fact.at_s < since}
        for out in self._outs(since, until):
            if out.why != "re-entered" or out.node in asks:  # a second time: its patience has ended
                gone.add(out.node)
            asks.add(out.node)
        if len(gone) < missing:
            given_to = f"was given to {len(given)} at {given[0].at_s:g} s"
            yield f"round {number} of {given[0].size} {given_to}, and only {sorted(gone)} may have gone"

    def _needless(self, number: int) -> Iterator[str]:
        """A round of the same nodes as the one before, of whom none was gone and which no other could have joined."""
        former, given = self.given.get(number - 1), self.given[number]
        nodes = {fact.node for fact in given}
        if not former or nodes != {fact.node for fact in former} or nodes & self.haste.wilful:
            return
        if len(former) < former[0].size:  # somebody died before it was given its place
            return
        if not self.is_calm(former[0].at_s, given[-1].at_s):
            return
        is_full = former[0].size == self.haste.max_nodes
        reasons = [
            out
            for out in self._outs(former[0].at_s - self.haste.bound_s, given[0].at_s)
            if (out.why != "re-entered" and (out.node in nodes or not is_full)) or not (out.node in nodes or is_full)
        ]
        if not reasons:
            yield f"round {number} has the nodes of the one before, of whom none was gone, and no other had come"

    def _moved(self, number: int) -> Iterator[str]:
        """Ranks that have changed without need, or of newcomers that are not in the order of names."""
        given = {fact.node: fact for fact in self.given[number]}
        before = {fact.node: fact for fact in self.given.get(number - 1, ())}
        newcomers = sorted(given.keys() - before.keys(), key=lambda node: given[node].rank)
        if newcomers != sorted(newcomers, key=lambda node: _natural(given[node].name or node)):
            yield f"round {number}: the ranks of those who are new are {', '.join(newcomers)}"
        for node, fact in given.items():
            was = before.get(node)
            if was and was.rank != fact.rank and was.rank < fact.size and self.is_calm(was.at_s, fact.at_s):
                outs = [out.why for out in self._outs(was.at_s, fact.at_s) if out.node == node]
                if outs == ["re-entered"]:  # one whose patience ended in between has come back as a stranger
                    yield f"round {number}: {node} was rank {was.rank} and is rank {fact.rank} of {fact.size}"

    def _unnoticed(self, death: Out) -> Iterator[str]:
        """Members who go on in a round, or do so for too long, in which somebody has died."""
        round_ = self._round_of(death.node, death.at_s)
        due_at = death.at_s + self.haste.bound_s + self.haste.look_s + SLACK_S
        if round_ is None or due_at > self.facts[-1].at_s or not self.is_calm(death.at_s, due_at):
            return
        others = [fact for fact in self._outs(death.at_s - self.haste.bound_s, due_at) if fact.why != "re-entered"]
        if others != [death]:
            return
        for fact in self.given[round_]:
            if fact.at_s < death.at_s and self._round_of(fact.node, due_at) == round_:
                yield f"{fact.node} is still in round {round_} at {due_at:g} s; {death.node} died at {death.at_s:g} s"

    def _round_of(self, node: str, at: float) -> int | None:
        """Where a node was just before a time."""
        where = None
        for fact in self.facts:
            if fact.at_s < at and fact.node == node:
                where = fact.round if isinstance(fact, Given) else None if isinstance(fact, Out) else where
        return where

    def _is_full(self, at: float) -> bool:
        """Whether there was a whole round just before a time, without room for anybody else."""
        for given in reversed(self.given.values()):
            if given[-1].at_s < at - SLACK_S:
                members = {fact.node for fact in given}
                is_whole = len(members) == given[0].size == self.haste.max_nodes
                return is_whole and not any(out.node in members for out in self._outs(given[0].at_s, at))
        return False

    def _deaths_in_turn(self, number: int, gone: Sequence[Out]) -> int:
        """How many bounds pass at most until all are found who died before a round.

        Who has watched them in their round knows within one. Else a leader may be among them: whoever leads then learns
        of the others anew.
        """
        died = [out for out in gone if out.why == "died"]
        former = {fact.node: fact for fact in self.given.get(number - 1, ())}
        back = {former[fact.node].rank for fact in self.given[number] if fact.node in former}
        if any(len(former) < fact.size for fact in former.values()):  # one has died before it was given its place there
            return 2
        for out in died:
            if self._round_of(out.node, out.at_s) != number - 1:
                return 2
            was = former[out.node]
            if not any((was.rank - step) % was.size in back for step in range(1, WATCHED_MAX + 1)):
                return 2
        return 2 if self._has_died_unseen(number) else bool(died)

    def _has_died_unseen(self, number: int) -> bool:
        """Whether one of the round before died when no other was left there; or one that never was in a round."""
        back, former = ({fact.node for fact in self.given.get(each, ())} for each in (number, number - 1))
        once = {fact.node for facts in self.given.values() for fact in facts}
        died = {out.node for out in self._outs(0.0, self.given[number][0].at_s) if out.why == "died"}
        return bool(died - once) or (not former & back and bool(former & died))

    def _outs(self, since: float, until: float) -> list[Out]:
        return [fact for fact in self.facts if isinstance(fact, Out) and since <= fact.at_s <= until]

    def _asked_at(self, given: Given) -> float:
        """When a node asked for the place that it was given."""
        asked = [out.at_s for out in self._outs(0.0, given.at_s) if (out.node, out.why) == (given.node, "re-entered")]
        return asked[-1] if asked else given.at_s


def _natural(name: str) -> tuple[str, int]:
    """Ranks, and processes, are numbered in their names."""
    word, _, number = name.rpartition(" ")
    return word, int(number)


def leftovers(
    keys: Sequence[bytes], facts: Sequence[Fact], over_at: float, bound_s: float, *, is_plain: bool = True
) -> Iterator[str]:
    """Keys of rounds that were over long before the end.

    Of the round before the last, the farewell of one that left may have come after its keys were cleared away; of one
    that was cut off as it left, or as it drew a ticket, even later. What a leader wrote that was cut off comes when it
    comes: then of one round anything may be left.

    Args:
        keys: What the store holds.
        facts: As above, of launchers.
        over_at: When the run was over.
        bound_s: After how long without a sign of life a node is dead, in seconds.
        is_plain: Whether nothing has struck but what is in `PLAIN`.
    """
    course = [fact for fact in facts if fact.at_s < over_at]
    if not course or over_at - course[-1].at_s < 2 * bound_s:
        return
    members = [fact for fact in course if isinstance(fact, Given) and not _is_out(fact, course)]
    round_ = max((fact.round for fact in members if fact.rank == 0), default=0)  # who is to clear away
    numbered = [(int(match[1]) + 1, key) for key in keys if (match := _KEY.match(key))]
    old = [key for number, key in numbered if number < round_ - key.endswith(_FAREWELLS)]
    later = {number for number, _ in numbered if number < round_ - 1}
    if old and not (len(later) == 1 and all(key.endswith(_LATE if is_plain else b"") for key in old)):
        yield f"in round {round_} the store holds {len(old)} keys such as {old[0].decode(errors='replace')}"


def _is_out(given: Given, facts: Sequence[Fact]) -> bool:
    """Whether a node is not any more where it was given a place."""
    return any(isinstance(fact, Out) and fact.node == given.node and fact.at_s >= given.at_s for fact in facts)
