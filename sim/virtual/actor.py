"""One rank of a scenario in virtual time: what `sim.process.actor` does in a process, as one more flow of a node.

Its own connection is the one over which a rank's program writes and reads. How it meets is for `handlers`. It asks the
stage before each step, and sleeps until something changes: nothing here polls. Must not know the faults.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from rdzv.core import wire
from rdzv.core.effects import Effect, Sleep
from rdzv.errors import (
    DistError,
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    StoreTimeoutError,
)
from sim.check.history import Meeting
from sim.direction import Crash
from sim.process.messages import Asks, Left, Phase, Read, Wrote
from sim.process.rank import peers_read
from sim.scenario import JOINS

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdzv.core.effects import Flow
    from sim.process.messages import Message
    from sim.scenario import Step
    from sim.virtual.handlers import Handler, Met
    from sim.virtual.stage import VirtualStage
    from sim.virtual.task import Task

LOOK_S = 0.02  # how long a launcher takes at most to see that its round should end
ANSWER_S = 1.0  # how long the store may take at least to answer, as `rdzv.store.client` has it
IN_TURN = 0.3  # of how many nodes the driver asks one thing at a time


class Actor:
    """A rank, and where it stands. Its public methods that are given a step are the steps.

    Attributes:
        rank: The number under which it was started.
        stage: Where.
        node: What it runs on.
        task: The flow of all its steps; ``None`` before it is started.
        phase: What it was last seen in.
        meetings: The rounds that it was given.
    """

    def __init__(self, stage: VirtualStage, rank: int) -> None:
        self.rank, self.stage, self.phase = rank, stage, "the start"
        self.node = stage.world.node(f"rank {rank}")
        self.node.asks_in_turn = stage.world.streams[f"asking of {self.node.name}"].chance(IN_TURN)
        self.task: Task | None = None
        self.meetings: list[Meeting] = []
        self._answer: bool | None = None  # the stage's: whether to fail
        self._handler: Handler | None = None
        self._met: Met | None = None
        self._round = 0

    # As the stage and the handler see it

    def start(self, on_done: Callable[[Task], object]) -> None:
        """Begin."""
        self.task = self.node.spawn(self._perform(), on_done)

    def go_on(self, *, crashes: bool) -> None:
        """Let it begin the step that it has announced; or fail there."""
        self._answer = crashes
        self.wake()

    def wake(self, _: object = None) -> None:
        """Something has changed that it may wait for."""
        if self.task:
            self.task.wake()

    def until(self, is_so: Callable[[], object], at: float = inf) -> Flow[None]:
        """Sleep until something is so, or until a time of its node's clock."""
        while not is_so() and self.node.now < at:
            yield Sleep(at)

    @property
    def deadline_at(self) -> float:
        """When it gives up waiting for others, on its node's clock: before the run is ended, so that it can say so."""
        return self.node.offset_s + self.stage.deadline_s

    # Steps

    def join(self, _: Step) -> Flow[None]:
        """Meet the others, at once."""
        stage, handler = self.stage, self._handler
        if handler and handler.meets_once:
            yield from self._leave()
        yield from self._announce(Asks(self._round + 1))
        began_at = stage.now()
        handler = self._handler = self._handler or stage.handler(self)
        met = self._met = yield from handler.meet()
        self._round, at = met.round or self._round + 1, stage.now()
        meeting = Meeting(
            node=self.rank,
            round=self._round,
            rank=met.rank,
            world_size=met.size,
            run_id=stage.run_id,
            master_addr=met.addr,
            master_port=met.port,
            join_s=at - began_at,
            at=at,
        )
        self.meetings.append(meeting)
        self.phase = f"the barrier of round {self._round}"
        stage.hear(self.rank, meeting)

    def rejoin(self, step: Step) -> Flow[None]:
        """Meet anew when the round should end; a static one can end at any time."""
        handler = self._in_round()[0]
        if not handler.meets_once:
            yield from self._until_end(handler, LOOK_S, self.deadline_at)
        yield from self.join(step)

    def launch(self, step: Step) -> Flow[None]:
        """Be a member whenever that is possible, until the job is closed or the run is over."""
        look_s = max(LOOK_S, step.seconds)
        while True:
            try:
                yield from self.join(step)
                yield from self._until_end(self._in_round()[0], look_s, inf)
            except (RendezvousClosedError, RendezvousGracefulExitError):
                raise
            except (RendezvousError, DistError):
                yield from self._pause(look_s)

    def barrier(self, _: Step) -> Flow[None]:
        """Nothing more: all have come, or it would not have been let on."""
        yield from ()

    def write(self, _: Step) -> Flow[None]:
        """Write a value that no other rank writes, and none of another round."""
        met = self._in_round()[1]
        value = f"rank {met.rank}, node {self.rank}, round {self._round}"
        self.stage.hear(self.rank, Wrote(value))  # before it can be read
        yield Effect([(wire.SET, self._key(met.rank), value.encode())], self._answer_by())

    def read(self, _: Step) -> Flow[None]:
        """Read what the others write; of a large world, what some of them do."""
        met = self._in_round()[1]
        peers = peers_read(met.rank, met.size)
        keys = [self._key(peer) for peer in peers]
        take = Effect([(wire.MULTI_GET, keys)], self._answer_by())
        (values,), now = yield take
        if not all(values):
            until = max(now, self.deadline_at)
            ((is_there,),), now = yield Effect([(wire.WAIT, keys)], until + ANSWER_S, until)
            if not is_there:
                raise StoreTimeoutError(f"of {len(keys)} keys that others write not all are there")
            (values,), now = yield take._replace(deadline_at=self._answer_by())
        texts = (value.decode(errors="replace") for value in values)
        self.stage.hear(self.rank, Read(tuple(zip(peers, texts, strict=True))))

    def compute(self, step: Step) -> Flow[None]:
        """Let time pass, as if there were work to do."""
        yield from self._pause(min(step.seconds, self.deadline_at - self.node.now))

    def leave(self, _: Step) -> Flow[None]:
        """Leave for good."""
        self._in_round()
        yield from self._leave()

    # Inside

    def _perform(self) -> Flow[None]:
        """Take all steps.

        Raises:
            RendezvousError: The ranks did not meet.
            DistError: The store failed.
            Crash: The scenario has it so.
        """
        for step in self.stage.scenario.steps_of(self.rank):
            number = self._round + (step.name in JOINS)
            self.phase = f"the {step.name} of round {number}"
            yield from self._announce(Phase(step.name, number, self.stage.now()))
            yield from getattr(self, step.name)(step)

    def _announce(self, message: Message) -> Flow[None]:
        """Say what is to come, and wait until it may."""
        self._answer = None
        self.stage.ask(self.rank, message)
        yield from self.until(lambda: self._answer is not None)
        if self._answer:
            raise Crash(f"the scenario lets rank {self.rank} fail here")

    def _leave(self) -> Flow[None]:
        assert self._handler
        self.stage.hear(self.rank, Left())
        yield from self._handler.leave()
        self._handler = self._met = None

    def _until_end(self, handler: Handler, look_s: float, at: float) -> Flow[None]:
        """Sleep until the round should end, and then until this launcher looks."""
        while True:
            yield from self.until(handler.should_end, at)
            if self.node.now >= at:
                return
            yield from self._pause(self.stage.world.streams["looks"].between(0.0, look_s))
            if handler.should_end():
                return

    def _pause(self, seconds: float) -> Flow[None]:
        yield from self.until(bool, self.node.now + seconds)

    def _in_round(self) -> tuple[Handler, Met]:
        if self._handler is None or self._met is None:
            raise RuntimeError(f"rank {self.rank} is in no round: a step before this one must be a join")
        return self._handler, self._met

    def _key(self, rank: int) -> bytes:
        return f"/{self._in_round()[1].prefix}/written/{rank}".encode()

    def _answer_by(self) -> float:
        return max(self.deadline_at, self.node.now + ANSWER_S)
