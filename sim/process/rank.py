"""The built-in job, as one rank runs it: meet, ask again, write, read what others wrote, leave, wait for all; and anew.

Knows the public face of `rdzv` and its own channel to the supervisor. Must not know the keeper that forked it. The
barrier between rounds is the simulator's own, through the channel: the thing under test never vouches for itself.

Every error ends the rank. It then leaves its handler as it is: the process is about to go, and with it all it holds.
"""

from __future__ import annotations

import ipaddress  # noqa: F401 -- every rank would import it, if the keeper had not before it forked them
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import rdzv.static  # noqa: F401 -- likewise
from rdzv import RendezvousHandler, RendezvousParameters, get_rendezvous_handler
from rdzv.core.client import ClientCore
from sim.check.history import Meeting
from sim.process.machine import allow_descriptors
from sim.process.messages import Phase, Release, StartJob, decode, encode

if TYPE_CHECKING:
    from sim.process.channel import Channel

REPEATS = 2  # how often a rank asks again within a round
READS_ALL_MAX = 16  # worlds up to this size read everything of everyone; larger ones a few of each other


def run_job(job: StartJob, channel: Channel, listen_fd: int | None = None) -> None:
    """Take part in all rounds.

    Args:
        job: Which rank this is, and of what.
        channel: To the supervisor; one that blocks.
        listen_fd: The socket to serve the store on; given to rank 0 alone.

    Raises:
        RendezvousError: The ranks did not meet.
        DistError: The store failed.
    """
    if listen_fd is not None:
        allow_descriptors(job.world_size)  # the store's clients
    delay_s = job.delay_s
    for number in range(1, job.rounds + 1):
        time.sleep(delay_s)
        channel.send(_take_part(job, number, channel, listen_fd))
        if number < job.rounds:
            # No deadline here: the supervisor ends a run that is late, and can then say who kept the others waiting.
            release = channel.receive()
            assert isinstance(release, Release)
            delay_s = release.delay_s


@cache
def rehearse(endpoint: str) -> None:
    """Do once, before any rank is forked, some of what all of them do, and without the others.

    What it fills then is filled in all of them: caches, hashes of names, code that adapts to its use. A page of memory
    that is written here is one less that each rank has to copy in order to write it.
    """
    job = StartJob(1, 2, 1, endpoint, "rehearsal", time.monotonic() + 1, 0.0)
    for _ in range(2):
        _handler(job, None)
        ClientCore()
        decode(encode(job))


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


def _take_part(job: StartJob, number: int, channel: Channel, listen_fd: int | None) -> Meeting:
    handler = _handler(job, listen_fd)
    channel.send(Phase("join", number))
    began_at = time.monotonic()
    info = handler.next_rendezvous()
    join_s = time.monotonic() - began_at
    channel.send(Phase("exchange", number))
    again = [handler.next_rendezvous() for _ in range(REPEATS)]
    written = f"rank {info.rank}, node {job.rank}, round {number}"
    info.store.set(_key(info.rank), written)
    peers = peers_read(info.rank, info.world_size)
    store = again[-1].store  # the last one, which must be as good as the first
    store.set_timeout(max(0.0, job.deadline_at - time.monotonic()))
    values = [value.decode(errors="replace") for value in store.multi_get(map(_key, peers))]
    channel.send(Phase("leave", number))
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
        join_s=join_s,
    )


def _handler(job: StartJob, listen_fd: int | None) -> RendezvousHandler:
    """A fresh handler for one round. Whoever has the listening socket hosts, in a thread: this process only waits."""
    config: dict[str, Any] = {"rank": job.rank, "timeout": max(1, int(job.deadline_at - time.monotonic()))}
    if listen_fd is not None:
        config |= {"listen_fd": listen_fd, "hosting": "thread"}
    size = job.world_size
    return get_rendezvous_handler(RendezvousParameters("static", job.endpoint, job.run_id, size, size, **config))


def _key(rank: int) -> str:
    return f"written/{rank}"
