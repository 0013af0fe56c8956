"""How a fixed world meets: all ranks wait for all, within one deadline; who fails says who was missing.

A store belongs to one meeting, which ``/rdzv/meeting`` names: who finds another run's name or another world size there
has come to the wrong store, or to that of an earlier run which has not ended, and leaves without a trace. The host has
it there before anybody can ask, so that who errs cannot take its store from it. Each rank leaves a mark (``rank/R``,
written once, so that two processes that claim one rank notice) and counts itself in at ``init/``, the key that torch's
own static handler counts at, so that worlds may be mixed. Then all wait for one key, ``outcome``. It is written once,
by COMPARE_SET, and decides for everybody:

* ``met`` is written by the rank whose arrival makes the world complete;
* a list of who is missing is written by the first rank whose deadline passes. It leaves then, so the world cannot be
  complete any more, and the others need not wait for their own deadlines to learn it.

So a rank's operations and bytes do not grow with the world, but for the one that must name the missing. A member that
runs torch's handler leaves only a count: it is waited for in slices, since nobody writes ``met`` when it comes last.

Nothing here knows a socket or a clock: `meet` is a generator of effects (see `effects`).
"""

# Annotations are not put off here: for a named tuple each would be compiled by itself, and every start waits for that.
import json
from typing import TYPE_CHECKING, NamedTuple

from rdzv.core import wire
from rdzv.core.effects import Effect

if TYPE_CHECKING:
    from rdzv.core.effects import Flow
    from rdzv.core.wire import Request

COUNT_KEY = b"init/"
MEETING = "rdzv/meeting"  # as a store's user names the key
MEETING_KEY = b"/" + MEETING.encode()
_MET = b"met"
_SLICE_S_FIRST_RANK, _SLICE_S_OTHERS, _SLICE_S_MAX = 0.05, 0.5, 1.0  # one that looks often is enough
_LOOKS_PER_S_MAX = 200  # by all others together: those who are still to come must not be held up by those who wait
_SLICE_S_LARGEST = 5.0  # however many they are
_REPORT_S_MAX = 0.25  # of the time, at the end, is kept for saying who is missing
_REPORT_SHARE = 0.05
_KEYS_AT_ONCE = 1000  # when marks are read: enough to be quick, and not so many as to hold up others


class Meeting(NamedTuple):
    """What one rank knows when it comes.

    Attributes:
        run_id: The job's name: meetings of two jobs on one store do not meet.
        rank: This rank, 0 to ``world_size - 1``.
        world_size: How many ranks are to meet, 1 or more.
        token: What tells this process from any other that claims the same rank.
        started_at: When it began to wait, on the driver's clock, in seconds.
        deadline_at: When it gives up.
    """

    run_id: str
    rank: int
    world_size: int
    token: str
    started_at: float
    deadline_at: float

    def key(self, name: str) -> bytes:
        """A key of this meeting, as the server has it."""
        return f"/rdzv/{self.world_size}/{self.run_id}/{name}".encode()

    @property
    def identity(self) -> bytes:
        """What the members of one meeting agree on."""
        return f"run {self.run_id!r} of {self.world_size}".encode()


class Outcome(NamedTuple):
    """What came of a meeting.

    Attributes:
        met: Whether all ranks have met.
        missing: The ranks that left no mark, in ascending order.
        unmarked: How many others came without a mark, being members that run torch's handler. Which of the ranks in
            ``missing`` they are cannot be told; if they are all of them, it is one of the others that gave up.
        gave_up: The rank whose deadline decided that the meeting failed.
        waited_s: For how long that rank had waited, in seconds.
        refused: Why this rank cannot take part in the meeting of this store; empty if it can.
    """

    met: bool
    missing: tuple[int, ...] = ()
    unmarked: int = 0
    gave_up: int = 0
    waited_s: float = 0.0
    refused: str = ""


_HAS_MET = Outcome(met=True)


def meet(meeting: Meeting, now: float) -> "Flow[Outcome]":
    """Meet the others: returns as soon as the outcome is known, and before the deadline in any case.

    Args:
        meeting: Who comes, and until when it waits.
        now: The time, on the driver's clock, in seconds.

    Raises:
        ValueError: A key of the meeting holds what no member writes.
    """
    report_s = min(_REPORT_S_MAX, _REPORT_SHARE * (meeting.deadline_at - meeting.started_at))
    give_up_at = meeting.deadline_at - report_s
    token = meeting.token.encode()
    ours, mark, outcome = meeting.identity, meeting.key(f"rank/{meeting.rank}"), meeting.key("outcome")
    introduce = [(wire.COMPARE_SET, MEETING_KEY, b"", ours), (wire.COMPARE_SET, mark, b"", token)]
    ((identity,), (holder,)), now = yield Effect(introduce, meeting.deadline_at)
    assert isinstance(identity, bytes)
    assert isinstance(holder, bytes)
    if identity != ours:
        return Outcome(met=False, refused=f"the store there is that of {identity.decode(errors='replace')}")
    if holder != token:
        return Outcome(met=False, refused=f"this rank is held by {holder.decode(errors='replace')}")
    ((count,),), now = yield Effect([(wire.ADD, COUNT_KEY, 1)], meeting.deadline_at)
    slice_s = _SLICE_S_FIRST_RANK
    if meeting.rank:
        slice_s = max(_SLICE_S_OTHERS, min(_SLICE_S_LARGEST, meeting.world_size / _LOOKS_PER_S_MAX))
    wait = (wire.WAIT, [outcome])
    while True:
        assert isinstance(count, int)
        if count >= meeting.world_size:
            return (yield from _decide(meeting, outcome, _MET))
        if now >= give_up_at:
            missing = yield from _find_missing(meeting, now)
            return (yield from _decide(meeting, outcome, missing))
        ((decided,),), now = yield Effect([wait], meeting.deadline_at, min(give_up_at, now + slice_s))
        if decided:
            return (yield from _decide(meeting, outcome, b""))
        slice_s = max(slice_s, min(_SLICE_S_MAX, 2 * slice_s))
        ((text,),), now = yield Effect([(wire.GET, COUNT_KEY)], meeting.deadline_at)
        assert isinstance(text, bytes)
        count = int(text)


def _decide(meeting: Meeting, key: bytes, proposal: bytes) -> "Flow[Outcome]":
    """Write the outcome if nobody has, and return the one that holds."""
    request: Request = (wire.COMPARE_SET, key, b"", proposal) if proposal else (wire.GET, key)
    ((value,),), _ = yield Effect([request], meeting.deadline_at)
    assert isinstance(value, bytes)
    return _read_outcome(value)


def _read_outcome(value: bytes) -> Outcome:
    """The outcome that a value stands for.

    Raises:
        ValueError: No member writes such a value.
    """
    if value == _MET:
        return _HAS_MET
    try:
        failure = json.loads(value)
        missing, unmarked, gave_up = (
            tuple(map(int, failure["missing"])),
            int(failure["unmarked"]),
            int(failure["gave_up"]),
        )
        return Outcome(False, missing, unmarked, gave_up, float(failure["waited_s"]))
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise ValueError(f"the outcome {value[:80]!r} is none") from error


def _find_missing(meeting: Meeting, now: float) -> "Flow[bytes]":
    """The proposal of a rank that gives up: who has left no mark."""
    missing: list[int] = []
    for first in range(0, meeting.world_size, _KEYS_AT_ONCE):
        ranks = range(first, min(first + _KEYS_AT_ONCE, meeting.world_size))
        checks = [(wire.CHECK, [meeting.key(f"rank/{rank}")]) for rank in ranks]
        replies, _ = yield Effect(checks, meeting.deadline_at)
        missing += [rank for rank, (not_ready,) in zip(ranks, replies, strict=True) if not_ready]
    ((count,),), _ = yield Effect([(wire.ADD, COUNT_KEY, 0)], meeting.deadline_at)
    assert isinstance(count, int)
    unmarked = max(0, count - (meeting.world_size - len(missing)))
    waited_s = round(now - meeting.started_at, 3)
    failure = {"missing": missing, "unmarked": unmarked, "gave_up": meeting.rank, "waited_s": waited_s}
    return json.dumps(failure).encode()
