"""A run as a picture needs it: what each rank was doing from when to when, what happened to it, and what it said.

Knows the result, and what `sim.report.recorder` and `sim.report.tales` have. Must not know how it is written down: that
is `document`, `page`, `chrome` and `junit`. All times are seconds since the run began.

A rank is always in one *state*, and what is heard of it changes that: `_heard` and `_told` are the rules. A span is the
time between two changes, so that a rank that ends in the midst of something is seen to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from sim.check.history import Meeting
from sim.check.invariants import exit_text
from sim.plan import VirtualResult
from sim.process.messages import Asks, Message, Phase, Release, StartActor, Started, StartJob, StartProgram, Struck
from sim.report.passages import Passage, passages
from sim.report.tales import Tale

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sim.plan import Plan, RankResult, RunResult
    from sim.report.recorder import Line, Recorder

Moment: TypeAlias = "tuple[float, Message | Tale]"
State: TypeAlias = "tuple[str, int | None]"  # a span's name, empty between two; and its round

_QUIET = ("connected", "in lobby", "joined", "met")  # what is told by these is seen in the spans
_BACK = ("left", "end", "closed", "evicted", "store lost")  # a node that tells one of these is a member no more
_IDLE = ("barrier", "rejoin", "member", "spare")  # what belongs to a round, but does not make it last


@dataclass(frozen=True, slots=True)
class Span:
    """What a rank was doing for a while.

    Attributes:
        rank: Which; ``None`` for the whole world, whose spans are its rounds.
        name: ``spawn``, ``connect``, ``join``, ``exchange``, ``leave``, ``barrier``, ``program``, ``member``,
            ``spare``, ``round``, or what a rank calls a phase of its own.
        round: Which round, as the rank counts; ``None`` outside of any.
        begin_s: From when.
        end_s: Until when.
    """

    rank: int | None
    name: str
    round: int | None
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Mark:
    """What happened in one moment.

    Attributes:
        rank: To whom; ``None`` if to all.
        name: ``exit``, ``failed``, ``ended``, ``fault``, ``heal``, or an event's name as a node told it.
        text: What there is to say about it.
        at_s: When.
    """

    rank: int | None
    name: str
    text: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run.

    Attributes:
        result: What came of it.
        command: The command that runs it again.
        directory: Where to do that; empty if it is gone.
        began: When it began, in ISO 8601, UTC.
        spans: Rank by rank, each in the order of time; then the rounds.
        marks: In the order of time.
        lines: What the ranks printed, in the order of time.
        cut_bytes: How much is left out of what a rank printed first, for those that printed too much.
        passages: What passed between ranks and the store, by the time it was sent; of a run in virtual time alone.
    """

    result: RunResult
    command: str
    directory: str
    began: str
    spans: tuple[Span, ...]
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    cut_bytes: dict[int, int]
    passages: tuple[Passage, ...] = ()


def timeline(result: RunResult, recorder: Recorder, tales: Sequence[Tale], command: str, directory: str) -> Timeline:
    """Put together what is known of a run.

    Args:
        result: What came of it.
        recorder: What was heard while it went.
        tales: What the nodes told.
        command: The command that runs it again.
        directory: Where to do that.
    """
    moments: defaultdict[int | None, list[Moment]] = defaultdict(list)
    marks = []
    for at_s, number, message in recorder.heard:
        if isinstance(message, Struck):
            marks.append(Mark(number, "heal" if message.is_healed else "fault", message.fault, at_s))
        else:
            moments[number].append((at_s, message))
    for number, tale in _by_rank(tales, result.ranks):
        if number is not None:
            moments[number].append((tale.at_s, tale))
        if number is None or tale.event not in _QUIET:
            marks.append(Mark(number, tale.event, tale.text, tale.at_s))
    spans: list[Span] = []
    for rank in result.ranks:
        ended_s = rank.ending.at - recorder.began_at if rank.ending.at else result.duration_s
        spans += _spans(rank.rank, moments[rank.rank], ended_s, result.plan)
        marks.append(_end(rank, ended_s))
    return Timeline(
        result=result,
        command=command,
        directory=directory,
        began=recorder.began.isoformat(timespec="milliseconds"),
        spans=(*spans, *_rounds(spans, result.ranks)),
        marks=tuple(sorted(marks, key=lambda mark: mark.at_s)),
        lines=tuple(recorder.lines()),
        cut_bytes=dict(recorder.cut_bytes),
        passages=tuple(passages(result.trace)) if isinstance(result, VirtualResult) else (),
    )


def _by_rank(tales: Sequence[Tale], ranks: Iterable[RankResult]) -> Iterator[tuple[int | None, Tale]]:
    """Each tale with the rank that tells it: by its process, or by the node's name where a child of the rank tells."""
    by_pid = {rank.pid: rank.rank for rank in ranks}
    by_node = {tale.by: by_pid[tale.pid] for tale in tales if tale.pid in by_pid}
    for tale in tales:
        yield by_pid.get(tale.pid, by_node.get(tale.by)), tale


def _spans(rank: int, moments: list[Moment], ended_s: float, plan: Plan) -> Iterator[Span]:
    moments.sort(key=lambda moment: moment[0])  # the end of a rank may be heard before its last words
    has_phases = any(isinstance(what, Phase) for _, what in moments)
    changes: list[tuple[float, State]] = []
    state: State = ("", None)
    for at_s, what in moments:
        to = _told(what, state, has_phases) if isinstance(what, Tale) else _heard(what, plan)
        if to is not None and to != state:
            state = to
            changes.append((min(at_s, ended_s), state))
    for (begin_s, (name, number)), (end_s, _) in pairwise([*changes, (ended_s, state)]):
        if name and begin_s < end_s:
            yield Span(rank, name, number, begin_s, end_s)


def _heard(message: Message, plan: Plan) -> State | None:
    """The state that a message puts its rank in; ``None`` if it stays in the one it is in."""
    if isinstance(message, StartJob | StartProgram | StartActor):
        return "spawn", None
    if isinstance(message, Started):
        return ("program" if plan.program else ""), None
    if isinstance(message, Phase):
        return ("connect" if message.name == "join" else message.name), message.round
    if isinstance(message, Asks):
        return "connect", message.round
    if isinstance(message, Meeting):  # the built-in job says it when it has left, and waits for the others
        return ("barrier" if message.round < plan.rounds and not plan.scenario else ""), message.round
    return ("", None) if isinstance(message, Release) else None


def _told(tale: Tale, state: State, has_phases: bool) -> State | None:
    """Likewise for what a node tells. A rank that tells its phases itself is believed, and told more of its joins."""
    if tale.event in ("connected", "in lobby") and (state[0] == "connect" or not has_phases):
        return "join", state[1] if has_phases else tale.round
    if has_phases:
        return None
    if tale.event in ("met", "spare"):
        return ("member" if tale.event == "met" else "spare"), tale.round
    return ("program", None) if tale.event in _BACK else None


def _end(rank: RankResult, at_s: float) -> Mark:
    ending = rank.ending
    if not ending.by_itself:
        by = f": {exit_text(ending.exit)}" if ending.exit is not None else ""  # in virtual time there is no signal
        return Mark(rank.rank, "ended", f"had to be ended in {ending.phase}{rank.waiting}{by}", at_s)
    text = exit_text(ending.exit)
    if ending.exit != 0:
        last_word = (rank.error.strip().splitlines() or [""])[-1]
        text += f" in {ending.phase}" + (", as the scenario has it" if rank.expected else "")
        text += f": {last_word}" if last_word else ""
    return Mark(rank.rank, "failed" if rank.failed else "exit", text, at_s)


def _rounds(spans: Iterable[Span], ranks: Iterable[RankResult]) -> Iterator[Span]:
    """From when the first rank sets out for a round until the last is through it; of those that met, if any did."""
    met = {(rank.rank, meeting.round) for rank in ranks for meeting in rank.meetings}
    by_round: defaultdict[int, list[Span]] = defaultdict(list)
    for span in spans:
        if span.round is not None and span.name not in _IDLE:
            by_round[span.round].append(span)
    for number, tried in sorted(by_round.items()):
        parts = [span for span in tried if (span.rank, number) in met] or tried
        yield Span(None, "round", number, min(part.begin_s for part in parts), max(part.end_s for part in parts))
