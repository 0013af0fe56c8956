"""What the ranks of a plan are given to do, the built-in job or a program, and what must be there before they start.

Knows how to describe a rank's start to the keeper. Must not know how the start is sent, nor what comes of it.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdzv.store import StoreServer
from sim.process.messages import StartJob, StartProgram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from sim.process.plan import Plan

HOST = "127.0.0.1"
JOIN_MARGIN_S_MAX = 1.0  # ranks give up before the run is ended, so that they can say what they waited for


@dataclass(frozen=True, slots=True)
class Start:
    """One rank's start.

    Attributes:
        message: For the keeper.
        fds: Descriptors that go with the message, behind the rank's channel; the receiver of this owns them.
        outputs: Descriptors to read what the rank prints from, by the stream's name; the receiver's as well.
    """

    message: StartJob | StartProgram
    fds: tuple[int, ...]
    outputs: Mapping[str, int]


class Jobs:
    """The built-in job. The port is bound here, once, and held: rank 0 gets the socket, the others its number."""

    scratch = ""
    descriptors_per_rank = 2  # the rank's channel, and its other end until the keeper has that

    def __init__(self, plan: Plan, deadline_at: float, stack: ExitStack) -> None:
        """Bind.

        Args:
            plan: What to run.
            deadline_at: When the run is ended.
            stack: Closes what is opened here.
        """
        self._plan = plan
        self._deadline_at = deadline_at - min(JOIN_MARGIN_S_MAX, plan.timeout_s / 10)
        # It listens from the start, so that no rank finds the door closed because rank 0 comes late.
        self._listener = stack.enter_context(socket.create_server((HOST, 0), backlog=plan.world_size))

    def start(self, rank: int) -> Start:
        """The start of a rank."""
        message = StartJob(
            rank=rank,
            world_size=self._plan.world_size,
            rounds=self._plan.rounds,
            endpoint=f"{HOST}:{self._listener.getsockname()[1]}",
            run_id=run_id(self._plan),
            deadline_at=self._deadline_at,
            delay_s=self._plan.delay_s(rank, 1),
        )
        return Start(message, (os.dup(self._listener.fileno()),) if rank == 0 else (), {})


class Programs:
    """Any program. A store serves all of its ranks from this process, which only waits, until the run is over."""

    descriptors_per_rank = 8  # both ends of two outputs and of the channel, and two clients of the store

    def __init__(self, plan: Plan, stack: ExitStack) -> None:
        """Serve the store.

        Args:
            plan: What to run.
            stack: Stops what is started here.
        """
        self._plan = plan
        self._server = stack.enter_context(StoreServer(HOST))
        self.scratch = tempfile.mkdtemp(prefix="rdzv-sim-")
        # The keeper removes it in the end. Whichever of the two lives longer leaves nothing behind.
        stack.callback(shutil.rmtree, self.scratch, ignore_errors=True)

    def start(self, rank: int) -> Start:
        """The start of a rank."""
        environ = environment(
            rank, self._plan.world_size, self._server.port, run_id(self._plan), Path(self.scratch), os.environ
        )
        outputs, fds = {}, []
        for stream in ("stdout", "stderr"):
            outputs[stream], fd = os.pipe()
            os.set_blocking(outputs[stream], False)
            fds.append(fd)
        return Start(StartProgram(rank, self._plan.program, tuple(environ.items())), tuple(fds), outputs)


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
