"""Torch's elastic rendezvous, as the bench of the join uses it: its dynamic handler over its own c10d backend."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from sim.bench import torch_store
from sim.bench.crew import HOST, JOIN_S


def node(run_id: str, port: int, size: int) -> tuple[Any, Any]:
    """A store and a handler, with torch's defaults but for the join time-out."""
    store = torch_store.connect(port)
    backend = C10dRendezvousBackend(store, run_id)
    timeout = RendezvousTimeout(join=timedelta(seconds=JOIN_S))
    return store, DynamicRendezvousHandler.from_backend(run_id, store, backend, size, size, HOST, timeout)
