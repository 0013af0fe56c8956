"""One rank of a scenario: announces each of its steps, and takes it when the supervisor lets it.

Knows the public face of `rdzv` and its own channel to the supervisor. Must not know the faults: what strikes, strikes
from outside, while the rank waits to be let on. `sim.process.rank` is the built-in job, which asks nobody.

Every error ends the rank. It then leaves its handler as it is: the process is about to go, and with it all it holds.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import time
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import rdzv.c10d
import rdzv.elastic
import rdzv.static  # noqa: F401 -- loaded before the fork, like the two above
from rdzv import (
    DistError,
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    get_rendezvous_handler,
)
from sim.check.history import Meeting
from sim.direction import Crash
from sim.process import clock, resolver
from sim.process.clock import machine_monotonic
from sim.process.machine import allow_descriptors
from sim.process.messages import Asks, Left, Phase, Proceed, Read, Resolver, StartActor, Started, Wrote
from sim.process.rank import peers_read
from sim.process.work import HOST, environment
from sim.scenario import JOINS, Step

if TYPE_CHECKING:
    from sim.process.channel import Channel
    from sim.process.messages import Message

LAUNCHER_POLL_S = 0.02  # how often a launcher asks whether its round should end


def perform(start: StartActor, channel: Channel, out: int, err: int, listen_fd: int | None = None) -> None:
    """Say that the rank runs, and take all steps.

    Args:
        start: Which rank this is, and of what.
        channel: To the supervisor; one that blocks.
        out: Where the rank, and the programs that it runs, print.
        err: Likewise, their errors.
        listen_fd: The socket to serve the store on; given to the host alone.

    Raises:
        RendezvousError: The ranks did not meet.
        DistError: The store failed.
        Crash: The scenario has it so.
        subprocess.SubprocessError: A program failed, or did not end in time.
    """
    channel.send(Started(os.getpid(), machine_monotonic()))
    os.dup2(out, 1)
    os.dup2(err, 2)
    faulthandler.enable(2)  # on SIGABRT, and in a crash, it says where it is though it runs no line of Python any more
    if listen_fd is not None:
        allow_descriptors(start.nodes_max)  # the store's clients
    if start.clock_offset_s:
        clock.shift(start.clock_offset_s)
    if start.resolver:
        resolver.install(Resolver(*start.resolver), HOST)
    actor = _Actor(start, channel, listen_fd)
    for text in start.steps:
        step = Step.parse(text)
        actor.announce(Phase(step.name, actor.round + (step.name in JOINS), machine_monotonic()))
        getattr(actor, step.name)(step)


class _Actor:
    """A rank, and where it stands. Its public methods are the steps, but for `announce`."""

    def __init__(self, start: StartActor, channel: Channel, listen_fd: int | None) -> None:
        self.round = 0
        self._start, self._channel, self._listen_fd = start, channel, listen_fd
        self._handler: RendezvousHandler | None = None
        self._info: RendezvousInfo | None = None

    def announce(self, message: Message) -> None:
        """Say what is to come, and wait until it may."""
        self._channel.send(message)
        # No deadline here: the supervisor ends a run that is late, and can then say who kept the others waiting.
        answer = self._channel.receive()
        assert isinstance(answer, Proceed)
        if answer.crash:
            raise Crash(f"the scenario lets rank {self._start.rank} fail here")

    def join(self, _: Step) -> None:
        """Meet the others, at once."""
        if self._handler and self._start.backend == "static":
            self._leave()  # a static handler meets once
        self.announce(Asks(self.round + 1))
        handler = self._handler = self._handler or self._new_handler()
        began_at = machine_monotonic()
        info = self._info = handler.next_rendezvous()
        at = machine_monotonic()
        self.round = self._round_of(info)
        info.store.set_timeout(self._left_s)
        place = info.bootstrap_store_info
        self._channel.send(
            Meeting(
                node=self._start.rank,
                round=self.round,
                rank=info.rank,
                world_size=info.world_size,
                run_id=handler.get_run_id(),
                master_addr=place.master_addr,
                master_port=place.master_port,
                join_s=at - began_at,
                at=at,
            )
        )

    def rejoin(self, step: Step) -> None:
        """Meet anew when the round should end; a static one can end at any time."""
        handler = self._met()[0]
        if self._start.backend != "static":
            while not handler.num_nodes_waiting() and self._left_s:
                time.sleep(LAUNCHER_POLL_S)
        self.join(step)

    def launch(self, step: Step) -> None:
        """Be a member whenever that is possible, until the job is closed or the run is over."""
        pause_s = max(LAUNCHER_POLL_S, step.seconds)
        while True:
            try:
                self.join(step)
                while not self._met()[0].num_nodes_waiting():
                    time.sleep(pause_s)
            except (RendezvousClosedError, RendezvousGracefulExitError):
                raise
            except (RendezvousError, DistError):
                time.sleep(pause_s)

    def barrier(self, _: Step) -> None:
        """Nothing more: all have come, or it would not have been let on."""

    def write(self, _: Step) -> None:
        """Write a value that no other rank writes, and none of another round."""
        info = self._met()[1]
        value = f"rank {info.rank}, node {self._start.rank}, round {self.round}"
        self._channel.send(Wrote(value))  # before it can be read
        info.store.set(f"written/{info.rank}", value)

    def read(self, _: Step) -> None:
        """Read what the others write; of a large world, what some of them do."""
        info = self._met()[1]
        peers = peers_read(info.rank, info.world_size)
        values = info.store.multi_get([f"written/{peer}" for peer in peers])
        texts = (value.decode(errors="replace") for value in values)
        self._channel.send(Read(tuple(zip(peers, texts, strict=True))))

    def compute(self, step: Step) -> None:
        """Let time pass, as if there were work to do."""
        time.sleep(min(step.seconds, self._left_s))

    def leave(self, _: Step) -> None:
        """Leave for good."""
        self._met()
        self._leave()

    def run(self, step: Step) -> None:
        """Run a program, in the environment that PyTorch's launcher would give it in this round."""
        info = self._met()[1]
        place, scratch = info.bootstrap_store_info, Path(gettempdir())
        variables = environment(
            info.rank, info.world_size, place.master_port, self._start.run_id, scratch, os.environ
        ) | {"MASTER_ADDR": place.master_addr, "TORCHELASTIC_RESTART_COUNT": str(self.round - 1)}
        subprocess.run(step.argv, env={**os.environ, **variables}, check=True, timeout=self._left_s)

    def _leave(self) -> None:
        self._channel.send(Left())
        assert self._handler
        self._handler.shutdown()
        self._handler = self._info = None

    def _met(self) -> tuple[RendezvousHandler, RendezvousInfo]:
        if self._handler is None or self._info is None:
            raise RuntimeError(f"rank {self._start.rank} is in no round: a step before this one must be a join")
        return self._handler, self._info

    def _round_of(self, info: RendezvousInfo) -> int:
        """The number of the round, from 1. An elastic one has it in the name of its keys, as upstream's has."""
        if self._start.backend == "static":
            return self.round + 1
        return int(info.store.prefix.rpartition(".")[2]) + 1  # type: ignore[attr-defined]

    @property
    def _left_s(self) -> float:
        return max(0.0, self._start.deadline_at - machine_monotonic())

    def _new_handler(self) -> RendezvousHandler:
        """A handler, with what the scenario says last. Who hosts does so in a thread: this process only waits."""
        start, left_s = self._start, max(1, int(self._left_s))
        config: dict[str, Any] = {"hosting": "thread"}
        if start.backend == "static":
            config |= {"rank": start.rank, "timeout": left_s}
        else:
            config |= {"is_host": False, "join_timeout": start.join_timeout_s, "read_timeout": left_s}
        if self._listen_fd is not None:
            config["listen_fd"] = self._listen_fd
        config |= dict(start.options)
        least, most = start.nodes_min, start.nodes_max
        parameters = RendezvousParameters(start.backend, start.endpoint, start.run_id, least, most, **config)
        return get_rendezvous_handler(parameters)
