"""A rank of torch's in the bench of the process arm: a fresh interpreter that meets by torch's static handler."""

from __future__ import annotations

import os
import sys

from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import create_rdzv_handler

from sim.bench.machine import private_mb

TIMEOUT_S = 120


def main() -> None:
    """Meet, print what memory is this process's alone, in millions of bytes, and go when all have met.

    The arguments are the rank, the world's size and the port.
    """
    rank, size, port = map(int, sys.argv[2:5])
    endpoint = f"127.0.0.1:{port}"
    parameters = RendezvousParameters("static", endpoint, "spawn", size, size, rank=rank, timeout=TIMEOUT_S)
    info = create_rdzv_handler(parameters).next_rendezvous()
    everyone = [str(number) for number in range(size)]
    info.store.set(str(rank), "")
    info.store.wait(everyone)
    print(private_mb(os.getpid()))  # noqa: T201
    info.store.set(f"left {rank}", "")
    if rank == 0:  # which hosts the store
        info.store.wait([f"left {number}" for number in everyone])
