"""What the ranks of a plan are given to do, the built-in job or a program, and what must be there before they start.

Knows how to describe a rank's start to the keeper. Must not know how the start is sent, nor what comes of it.
"""

from __future__ import annotations

import math
import os
import socket
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sim.check import invariants
from sim.check.history import Meeting
from sim.process.messages import Release, StartActor, StartJob, StartProgram
from sim.process.stacks import keys_awaited

if TYPE_CHECKING:
    import selectors
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from sim.check.history import History
    from sim.check.invariants import Check
    from sim.plan import Plan
    from sim.process.messages import Message

HOST = "127.0.0.1"


class Start(NamedTuple):
    """One rank's start.

    Attributes:
        message: For the keeper.
        fds: Descriptors that go with the message, behind the rank's channel; the receiver of this owns them.
        outputs: Descriptors to read what the rank prints from, by the stream's name; the receiver's as well.
    """

    message: StartJob | StartProgram | StartActor
    fds: tuple[int, ...]
    outputs: Mapping[str, int]


class Crew(Protocol):
    """What the supervisor does for the work. Ranks are numbers, from 0.

    Attributes:
        selector: What the loop waits for: files, each with a function of the events.
    """

    selector: selectors.BaseSelector

    def start(self, number: int) -> None:
        """Start a rank."""

    def tell(self, number: int, message: Message) -> None:
        """Say something to a rank, if it lives."""

    def order(self, message: Message) -> None:
        """Say something to the keeper."""

    def note(self, number: int | None, message: Message) -> None:
        """Say something of a rank, or of all, to whoever looks on."""


class Work:
    """What ranks do, and what the supervisor asks about it and tells it.

    Attributes:
        descriptors_per_rank: How many files this process opens for each rank, at least.
        scratch: A directory that the keeper removes in the end; empty for none.
    """

    descriptors_per_rank: int
    scratch = ""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def begin(self, crew: Crew) -> Sequence[int]:
        """The ranks to start now, in order."""
        self.crew = crew
        return self.plan.arrivals(1)

    def start(self, rank: int) -> Start:
        """The start of a rank."""
        raise NotImplementedError

    def checks(self, history: History, duration_s: float) -> tuple[Check, ...]:
        """The verdicts, when all is over; the run took so many seconds."""
        raise NotImplementedError

    @property
    def due_at(self) -> float:
        """When `on_time` has something to do, on the clock of `time.monotonic`; ``inf`` for never."""
        return math.inf

    def on_time(self) -> None:
        """It may be that late."""

    def on_started(self, rank: int) -> None:
        """The keeper was told to start a rank."""

    def on_message(self, rank: int, message: Message) -> None:
        """A rank has said something."""

    def on_keeper(self, message: Message) -> None:
        """The keeper has said something that is not about the end of a rank."""

    def on_ended(self, rank: int, at: float) -> None:
        """A rank has ended."""

    def awaited(self, pids: Mapping[int, int]) -> Mapping[int, Sequence[str]]:
        """What ranks wait for in the store, by rank, where that is known here; the processes are by rank, too."""
        del pids
        return {}

    def cease(self) -> None:
        """The run is over; the ranks that live are about to be ended."""

    def finish(self) -> None:
        """Nobody needs anything any more; may be said twice."""

    def expected(self, rank: int) -> bool:
        """Whether a rank may fail, without the run being over."""
        del rank
        return False


class Jobs(Work):
    """The built-in job. The port is bound here, once, and held: rank 0 gets the socket, the others its number."""

    descriptors_per_rank = 2  # the rank's channel, and its other end until the keeper has that

    def __init__(self, plan: Plan, deadline_at: float, stack: ExitStack) -> None:
        """Bind.

        Args:
            plan: What to run.
            deadline_at: When the run is ended.
            stack: Closes what is opened here.
        """
        super().__init__(plan)
        self._at_barrier: Counter[int] = Counter()  # how many have completed a round
        self._deadline_at = deadline_at - plan.margin_s
        # It listens from the start, so that no rank finds the door closed because rank 0 comes late.
        self._listener = stack.enter_context(socket.create_server((HOST, 0), backlog=plan.world_size))
        self._endpoint = f"{HOST}:{self._listener.getsockname()[1]}"

    def start(self, rank: int) -> Start:
        """As `Work.start`."""
        message = StartJob(
            rank=rank,
            world_size=self.plan.world_size,
            rounds=self.plan.rounds,
            endpoint=self._endpoint,
            run_id=run_id(self.plan),
            deadline_at=self._deadline_at,
            delay_s=self.plan.delay_s(rank, 1),
        )
        return Start(message, (os.dup(self._listener.fileno()),) if rank == 0 else (), {})

    def on_message(self, rank: int, message: Message) -> None:
        """With the last rank that completes a round, all are let into the next one, in an order of its own."""
        del rank
        if not isinstance(message, Meeting):
            return
        self._at_barrier[message.round] += 1
        if self._at_barrier[message.round] == self.plan.world_size and message.round < self.plan.rounds:
            for number in self.plan.arrivals(message.round + 1):
                self.crew.tell(number, Release(message.round + 1, self.plan.delay_s(number, message.round + 1)))

    def checks(self, history: History, duration_s: float) -> tuple[Check, ...]:
        """All invariants of a world that meets as a whole, time and again."""
        del duration_s
        return invariants.judge(history)


class Programs(Work):
    """Any program. A store serves all of its ranks from this process, which only waits, until the run is over."""

    descriptors_per_rank = 8  # both ends of two outputs and of the channel, and two clients of the store

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        """Serve the store.

        Args:
            plan: What to run.
            stack: Stops what is started here.
        """
        super().__init__(plan)
        from rdzv.store import StoreServer

        self._server = stack.enter_context(StoreServer(HOST))
        self.scratch = scratch_directory(stack)

    def start(self, rank: int) -> Start:
        """As `Work.start`."""
        return program_start(self.plan, rank, self._server.port, self.scratch)

    def awaited(self, pids: Mapping[int, int]) -> Mapping[int, Sequence[str]]:
        """As `Work.awaited`."""
        return keys_awaited(pids, self._server.lacking())

    def checks(self, history: History, duration_s: float) -> tuple[Check, ...]:
        """How they ended is all that is known of them."""
        del duration_s
        return (invariants.exits(history),)


def scratch_directory(stack: ExitStack) -> str:
    """A directory for the ranks' error files. The keeper removes it, too: nothing is left, whoever lives longer."""
    import shutil
    import tempfile

    directory = tempfile.mkdtemp(prefix="rdzv-sim-")
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


def program_start(plan: Plan, rank: int, store_port: int, scratch: str) -> Start:
    """The start of a rank that is a program, and that finds the store at a port of this machine."""
    from pathlib import Path

    environ = environment(rank, plan.world_size, store_port, run_id(plan), Path(scratch), os.environ)
    environ["PYTHONFAULTHANDLER"] = os.environ.get("PYTHONFAULTHANDLER", "1")  # see `sim.process.stacks`
    outputs, fds = output_pipes()
    return Start(StartProgram(rank, plan.program, tuple(environ.items()), says_where=True), tuple(fds), outputs)


def output_pipes() -> tuple[dict[str, int], list[int]]:
    """Pipes for what a rank prints: the ends to read, by the stream's name, and the ends for the rank, in order."""
    outputs, fds = {}, []
    for stream in ("stdout", "stderr"):
        outputs[stream], fd = os.pipe()
        os.set_blocking(outputs[stream], False)
        fds.append(fd)
    return outputs, fds


def run_id(plan: Plan) -> str:
    """The name of the job that a plan's ranks meet under."""
    return f"sim-{plan.seed}"


def environment(
    rank: int, world_size: int, master_port: int, job_id: str, scratch: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The variables that PyTorch's launcher would give a rank, over those it inherits.

    All ranks are on one node, so the local numbers are the global ones. A store serves the world already, at
    ``MASTER_ADDR`` and ``MASTER_PORT``: every rank is a client of it, as ``TORCHELASTIC_USE_AGENT_STORE`` says.

    Args:
        rank: Which rank, from 0.
        world_size: Of how many.
        master_port: Where the store serves, on the loopback address.
        job_id: The job's name.
        scratch: A directory for the ranks' error files.
        inherited: What the rank has anyway, where that decides.
    """
    number, size = str(rank), str(world_size)
    variables = {
        "RANK": number,
        "WORLD_SIZE": size,
        "LOCAL_RANK": number,
        "LOCAL_WORLD_SIZE": size,
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "ROLE_RANK": number,
        "ROLE_WORLD_SIZE": size,
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(master_port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": job_id,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_ERROR_FILE": str(scratch / f"rank{rank}-error.json"),
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": inherited.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
    }
    if world_size > 1 and "OMP_NUM_THREADS" not in inherited:
        variables["OMP_NUM_THREADS"] = "1"
    return variables
