"""The built-in job, as one rank runs it: meet, ask again, write, read what others wrote, leave, wait for all; and anew.

Knows the public face of `rdzv` and its own channel to the supervisor. Must not know the keeper that forked it. The
barrier between rounds is the simulator's own, through the channel: the thing under test never vouches for itself.

Every error ends the rank. It then leaves its handler as it is: the process is about to go, and with it all it holds.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import rdzv.static
import rdzv.store.host  # noqa: F401 -- rank 0 would import it, if the keeper had not before it forked them
from rdzv import RendezvousHandler, RendezvousParameters, get_rendezvous_handler
from sim.check.history import Meeting
from sim.process.machine import allow_descriptors
from sim.process.messages import Phase, Release, Started, StartJob

if TYPE_CHECKING:
    from sim.process.channel import Channel

REPEATS = 2  # how often a rank asks again within a round
READS_ALL_MAX = 16  # worlds up to this size read everything of everyone; larger ones a few of each other


def run_job(
    job: StartJob, channel: Channel, handler: RendezvousHandler | None = None, listen_fd: int | None = None
) -> None:
    """Say that the rank runs, and take part in all rounds.

    Args:
        job: Which rank this is, and of what.
        channel: To the supervisor; one that blocks.
        handler: For the first round, if there is one already.
        listen_fd: The socket to serve the store on; given to rank 0 alone.

    Raises:
        RendezvousError: The ranks did not meet.
        DistError: The store failed.
    """
    channel.send(Started(os.getpid(), time.monotonic()))
    if listen_fd is not None:
        allow_descriptors(job.world_size)  # the store's clients
    delay_s = job.delay_s
    for number in range(1, job.rounds + 1):
        if delay_s:  # to sleep for no time would give up the processor
            time.sleep(delay_s)
        channel.send(_take_part(job, number, channel, handler or handler_of(job, listen_fd)))
        handler = None
        if number < job.rounds:
            # No deadline here: the supervisor ends a run that is late, and can then say who kept the others waiting.
            release = channel.receive()
            assert isinstance(release, Release)
            delay_s = release.delay_s


def peers_read(rank: int, world_size: int) -> list[int]:
    """Whose values a rank reads: everyone's in a small world, else those at distance 1, 2, 4, 8 and so on.

    >>> peers_read(2, 3)
    [0, 1, 2]
    >>> peers_read(90, 100)
    [91, 92, 94, 98, 6, 22, 54]
    """
    if world_size <= READS_ALL_MAX:
        return list(range(world_size))
    return [(rank + (1 << power)) % world_size for power in range((world_size - 1).bit_length())]


def _take_part(job: StartJob, number: int, channel: Channel, handler: RendezvousHandler) -> Meeting:
    channel.send(Phase("join", number, began_at := time.monotonic()))
    info = handler.next_rendezvous()
    met_at = time.monotonic()
    channel.send(Phase("exchange", number, met_at))
    again = [handler.next_rendezvous() for _ in range(REPEATS)]
    written = f"rank {info.rank}, node {job.rank}, round {number}"
    info.store.set(_key(info.rank), written)
    peers = peers_read(info.rank, info.world_size)
    store = again[-1].store  # the last one, which must be as good as the first
    store.set_timeout(max(0.0, job.deadline_at - time.monotonic()))
    values = [value.decode(errors="replace") for value in store.multi_get(map(_key, peers))]
    channel.send(Phase("leave", number, time.monotonic()))
    handler.shutdown()
    return Meeting(
        node=job.rank,
        round=number,
        rank=info.rank,
        world_size=info.world_size,
        run_id=handler.get_run_id(),
        master_addr=info.bootstrap_store_info.master_addr,
        master_port=info.bootstrap_store_info.master_port,
        repeats=tuple((repeat.rank, repeat.world_size) for repeat in again),
        wrote=written,
        reads=tuple(zip(peers, values, strict=True)),
        join_s=met_at - began_at,
        at=time.monotonic(),
    )


def handler_of(job: StartJob, listen_fd: int | None = None) -> RendezvousHandler:
    """A fresh handler for one round. Whoever has the listening socket hosts, in a thread: this process only waits."""
    config: dict[str, Any] = {"rank": job.rank, "timeout": max(1, int(job.deadline_at - time.monotonic()))}
    if listen_fd is not None:
        config |= {"listen_fd": listen_fd, "hosting": "thread"}
    size = job.world_size
    return get_rendezvous_handler(RendezvousParameters("static", job.endpoint, job.run_id, size, size, **config))


def _key(rank: int) -> str:
    return f"written/{rank}"
