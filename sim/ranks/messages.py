"""What the processes of a test say to each other, besides what those of any run do.

In the same form as that, which `sim.process.messages` has; apart from it, since a run need not load this.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from sim.process.messages import know


class RunTest(NamedTuple):
    """To the zygote, and on to a rank that has run a test before: run this one.

    Attributes:
        node_id: The test's, as pytest names it.
        path: Its file.
        world_size: In how many ranks.
        port: Where the test's store is served, on the loopback address.
        timeout_s: When the ranks will be ended.
        reuse: Whether they may be those of the last test, and stay for the next.
        directory: Where each rank writes its reports and its output.
    """

    node_id: str
    path: str
    world_size: int
    port: int
    timeout_s: float
    reuse: bool
    directory: str


class TestStarted(NamedTuple):
    """From the zygote: all ranks run; their processes, by rank."""

    pids: tuple[int, ...]


class Reported(NamedTuple):
    """From a rank: how a phase of its test came out; ``kind`` as in `sim.ranks.outcome.kind_of`."""

    rank: int
    when: str
    kind: str
    at: float


class Debugging(NamedTuple):
    """From a rank: somebody looks at it in a debugger, and must not be hurried."""

    rank: int


class RankDone(NamedTuple):
    """From a rank: all is reported."""

    rank: int


class EndRanks(NamedTuple):
    """To the zygote: have the ranks that are left write down their stacks, and kill them."""


class FinishTest(NamedTuple):
    """To the zygote: end what the ranks have left behind, and tear down what the next test does not need.

    Attributes:
        keep: How many nodes, from the session down, the next test shares with this one.
        dismiss: Whether ranks that could be reused are ended.
    """

    keep: int
    dismiss: bool


class TestFinished(NamedTuple):
    """From the zygote: done; ``error`` is the traceback of a failed tear-down, or empty."""

    error: str


class EndSession(NamedTuple):
    """To the zygote: tear all down, and end."""


TestMessage: TypeAlias = (
    RunTest | TestStarted | Reported | Debugging | RankDone | EndRanks | FinishTest | TestFinished | EndSession
)
know(RunTest, TestStarted, Reported, Debugging, RankDone, EndRanks, FinishTest, TestFinished, EndSession)
