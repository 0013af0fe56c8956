"""The invariants of a rendezvous, each a pure function from a history to a verdict that names what is wrong.

Knows `sim.check.history` and nothing else. Whoever ran the nodes calls `judge`; a new invariant is one function here
and its name in `INVARIANTS`.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sim.check.history import Ending, History, Meeting

FAULTS_SHOWN_MAX = 3
_KEYS_SHOWN_MAX = 8


class Check(NamedTuple):
    """A verdict.

    Attributes:
        name: The invariant's stable name.
        passed: Whether it held.
        detail: What was looked at if it held; who broke it and when if it did not.
    """

    name: str
    passed: bool
    detail: str


def verdict(name: str, faults: Iterable[str], detail: str) -> Check:
    """The check of a name: it holds if there are no faults; of many, the first few are told.

    Args:
        name: The invariant's.
        faults: What breaks it, a sentence each.
        detail: What was looked at, if nothing does.
    """
    found = list(faults)
    if not found:
        return Check(name, passed=True, detail=detail)
    more = [f"and {len(found) - FAULTS_SHOWN_MAX} more"] if len(found) > FAULTS_SHOWN_MAX else []
    return Check(name, passed=False, detail="; ".join(found[:FAULTS_SHOWN_MAX] + more))


def judge(history: History) -> tuple[Check, ...]:
    """The verdicts of all invariants, in the order of `INVARIANTS`."""
    return tuple(invariant(history) for invariant in INVARIANTS)


def ranks(history: History) -> Check:
    """In every round each of 0..N-1 is somebody's rank, and nobody else's."""

    def faults() -> Iterator[str]:
        expected = range(history.world_size)
        for round_number, meetings in _by_round(history):
            holders = defaultdict(list)
            for meeting in meetings:
                holders[meeting.rank].append(meeting.node)
            for rank, nodes in sorted(holders.items()):
                if rank not in expected:
                    yield f"round {round_number}: {named('node', nodes)} got rank {rank}"
                elif len(nodes) > 1:
                    yield f"round {round_number}: {named('node', nodes)} all got rank {rank}"
            if missing := [rank for rank in expected if rank not in holders]:
                yield f"round {round_number}: nobody got {named('rank', missing)}"

    detail = f"0..{history.world_size - 1}, each held once, in {counted(history.rounds, 'round')}"
    return verdict("ranks", faults(), detail)


def world_size(history: History) -> Check:
    """Every member of every round is told the number of nodes there are."""

    def faults() -> Iterator[str]:
        for round_number, meetings in _by_round(history):
            told = defaultdict(list)
            for meeting in meetings:
                told[meeting.world_size].append(meeting.node)
            for size, nodes in sorted(told.items()):
                if size != history.world_size:
                    yield f"round {round_number}: {named('node', nodes)} told {size}, not {history.world_size}"

    return verdict("world_size", faults(), f"{history.world_size} in {counted(len(history.meetings), 'meeting')}")


def run_id(history: History) -> Check:
    """All members of all rounds meet under one run id."""
    return _agreed("run_id", history, lambda meeting: repr(meeting.run_id), across_rounds=True)


def bootstrap(history: History) -> Check:
    """All members of a round are given the same bootstrap address and port."""
    return _agreed("bootstrap", history, lambda meeting: f"{meeting.master_addr} port {meeting.master_port}")


def repeats(history: History) -> Check:
    """Asking again within a round gives what the first call gave."""
    faults = (
        f"round {meeting.round}: node {meeting.node} first got rank {meeting.rank} of {meeting.world_size}, "
        f"then rank {again[0]} of {again[1]}"
        for meeting in history.meetings
        for again in meeting.repeats
        if again != (meeting.rank, meeting.world_size)
    )
    asked = sum(len(meeting.repeats) for meeting in history.meetings)
    return verdict("repeats", faults, f"{asked} repeated calls, each with the first one's answer")


def values(history: History) -> Check:
    """What one rank writes in a round every rank that reads it reads; and somebody else reads it."""

    def faults() -> Iterator[str]:
        for round_number, meetings in _by_round(history):
            written = {meeting.rank: meeting.wrote for meeting in meetings}
            unread = set(written)
            for meeting in meetings:
                for rank, value in meeting.reads:
                    if value != written.get(rank):
                        wrote = f"which wrote {written[rank]!r}" if rank in written else "which nobody held"
                        yield f"round {round_number}: node {meeting.node} read {value!r} of rank {rank}, {wrote}"
                    if rank != meeting.rank or history.world_size == 1:
                        unread.discard(rank)
            if unread:
                yield f"round {round_number}: nobody read what {named('rank', unread)} wrote"

    read = sum(len(meeting.reads) for meeting in history.meetings)
    return verdict("values", faults(), f"{read} readings, each as written in its round")


def exits(history: History) -> Check:
    """Every node ended by itself, with exit status 0."""

    def faults() -> Iterator[str]:
        failed = [ending for ending in history.endings if ending.by_itself and ending.exit != 0]
        for ending in sorted(failed, key=blame):
            yield f"node {ending.node} failed in {ending.phase}: {exit_text(ending.exit)}"
        ended = sorted((ending for ending in history.endings if not ending.by_itself), key=lambda ending: ending.phase)
        for phase, endings in groupby(ended, key=lambda ending: ending.phase):
            yield f"{named('node', (ending.node for ending in endings))} had to be ended in {phase}"

    return verdict("exits", faults(), f"{counted(history.world_size, 'node')} ended with exit status 0")


INVARIANTS: tuple[Callable[[History], Check], ...] = (ranks, world_size, run_id, bootstrap, repeats, values, exits)


def blame(ending: Ending) -> tuple[float, bool, int]:
    """Sorts endings by who is to blame first: the earlier, then the one that a signal ended, then the lower number."""
    return ending.at, (ending.exit or 0) >= 0, ending.node


def exit_text(status: int | None) -> str:
    """An exit status for people: ``exit 3``, ``SIGKILL``."""
    if status is None:
        return "its exit is unknown"
    if status >= 0:
        return f"exit {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal has no name of its own
        return f"signal {-status}"


def named(noun: str, numbers: Iterable[int]) -> str:
    """Numbers for people, with their noun: ``rank 3``, ``ranks 0-2, 5``."""
    ordered = sorted(set(numbers))
    runs = [
        [number for _, number in group] for _, group in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0])
    ]
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{noun}{'s' if len(ordered) > 1 else ''} {text}"


def named_keys(keys: Sequence[str]) -> str:
    """Keys for people, or the first ones of many: ``the key 'a', the key 'b' and 9 more``."""
    more = f" and {len(keys) - _KEYS_SHOWN_MAX} more" if len(keys) > _KEYS_SHOWN_MAX else ""
    return ", ".join(f"the key {key!r}" for key in keys[:_KEYS_SHOWN_MAX]) + more


def counted(number: int, noun: str) -> str:
    """A number of things for people: ``1 rank``, ``2 ranks``."""
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _agreed(name: str, history: History, told: Callable[[Meeting], str], *, across_rounds: bool = False) -> Check:
    """All members of a round (or of all rounds) were told the same; the few that were not are named."""

    def faults() -> Iterator[str]:
        whole = [("all rounds", list(history.meetings))]
        groups = whole if across_rounds else [(f"round {number}", meetings) for number, meetings in _by_round(history)]
        for group, meetings in groups:
            (most_told, _), *others = Counter(map(told, meetings)).most_common() or [("", 0)]
            for answer, _ in others:
                nodes = (meeting.node for meeting in meetings if told(meeting) == answer)
                yield f"{group}: {named('node', nodes)} told {answer}, most others {most_told}"

    answers = ", ".join(sorted(set(map(told, history.meetings)))[:FAULTS_SHOWN_MAX])
    return verdict(name, faults(), f"{answers} in {counted(len(history.meetings), 'meeting')}".lstrip())


def _by_round(history: History) -> Iterator[tuple[int, list[Meeting]]]:
    """Every round there was to be, with its meetings, even if it has none."""
    meetings = defaultdict(list)
    for meeting in history.meetings:
        meetings[meeting.round].append(meeting)
    for round_number in range(1, history.rounds + 1):
        yield round_number, meetings[round_number]
