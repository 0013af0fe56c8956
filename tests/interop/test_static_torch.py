"""Worlds of mixed members: some run torch's own static handler, some ours; either kind hosts."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rdzv
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Sequence

pytest.importorskip("torch.distributed", reason="torch is not installed")
pytestmark = pytest.mark.interop

# The host is the last to leave: torch's store ends with its host, whoever is still reading.
EXCHANGE = """
    info.store.set(f"from/{rank}", f"value of {rank}")
    values = [info.store.get(f"from/{other}").decode() for other in range(world_size)]
    info.store.add("left", 1)
    while rank == 0 and info.store.add("left", 0) < world_size:
        pass
"""

TORCH_MEMBER = (
    """
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import create_rdzv_handler

    parameters = RendezvousParameters(
        "static", f"127.0.0.1:{port}", run_id, world_size, world_size, rank=rank, timeout=timeout_s
    )
    info = create_rdzv_handler(parameters).next_rendezvous()
"""
    + EXCHANGE
    + """
    result = [info.rank, info.world_size, values]
    del info
"""
)


def our_handler(
    rank: int, world_size: int, port: int, timeout_s: int, hosting: str = "process"
) -> rdzv.RendezvousHandler:
    parameters = rdzv.RendezvousParameters(
        "static",
        f"127.0.0.1:{port}",
        "job",
        world_size,
        world_size,
        rank=rank,
        timeout=timeout_s,
        hosting=hosting,
    )
    return rdzv.get_rendezvous_handler(parameters)


def be_our_member(rank: int, world_size: int, port: int, hosting: str) -> list[Any]:
    """What a member of torch's kind does, with our handler."""
    handler = our_handler(rank, world_size, port, 30, hosting)
    try:
        info = handler.next_rendezvous()
        names: dict[str, Any] = {"info": info, "rank": rank, "world_size": world_size}
        exec(EXCHANGE.replace("\n    ", "\n"), names)  # the very same steps
        return [info.rank, info.world_size, names["values"]]
    finally:
        handler.shutdown()


MIXES = {
    "torch hosts": "torch ours ours",
    "torch hosts, torch and ours": "torch torch ours ours",
    "ours hosts in a process": "process torch torch",
    "ours hosts in a thread": "thread torch ours",
    "ours hosts, all others torch": "process torch torch torch",
    "ours is the last rank only": "torch torch ours",
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_a_mixed_world_meets_and_exchanges_values(mix: str, torch_processes: Sequence[Any]) -> None:
    """Everybody has the right rank and the values of all, whoever hosts."""
    kinds = mix.split()
    port, idle = rdzv.get_free_port(), iter(torch_processes)
    works = []
    for rank, kind in enumerate(kinds):
        values = {"rank": rank, "world_size": len(kinds), "port": port}
        if kind == "torch":
            process = next(idle)
            process.start(TORCH_MEMBER, run_id="job", timeout_s=30, **values)
            works.append(process.result)
        else:
            works.append(
                lambda values=values, kind=kind: be_our_member(hosting=kind.replace("ours", "process"), **values)
            )
    expected = [f"value of {rank}" for rank in range(len(kinds))]
    assert together(*works) == [[rank, len(kinds), expected] for rank in range(len(kinds))]


COUNT_IN = """
    import datetime, torch.distributed
    store = torch.distributed.TCPStore("127.0.0.1", port, 4, False, datetime.timedelta(seconds=30))
    result = "counted in"
"""


def test_ours_say_how_many_are_missing_beside_a_member_of_torchs(torch_processes: Sequence[Any]) -> None:
    """Rank 1 runs torch's handler and leaves but a count, rank 3 never comes: who of the two it is cannot be told."""
    port = rdzv.get_free_port()
    errors: dict[int, rdzv.RendezvousTimeoutError] = {}

    def meet(rank: int) -> None:
        handler = our_handler(rank, 4, port, 2, "thread")
        with pytest.raises(rdzv.RendezvousTimeoutError) as failure:
            handler.next_rendezvous()
        errors[rank] = failure.value
        handler.shutdown()

    threads = [threading.Thread(target=meet, args=(rank,), daemon=True) for rank in (0, 2)]
    for thread in threads:
        thread.start()
    assert torch_processes[0].run(COUNT_IN, port=port) == "counted in"
    for thread in threads:
        thread.join(10)
    for error in errors.values():
        assert "1 of the ranks 1, 3 (the rest runs torch's handler" in str(error)
        assert f"of 4 is missing at 127.0.0.1:{port}" in str(error)
        assert error.missing == ()
    assert sorted(errors) == [0, 2]


ALL_REDUCE = """
    import datetime, os, torch, torch.distributed as dist
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2",
        TORCHELASTIC_USE_AGENT_STORE="True", GLOO_SOCKET_IFNAME="lo",
    )
    dist.init_process_group("gloo", init_method="env://", timeout=datetime.timedelta(seconds=30))
    tensor = torch.tensor([rank + 1.0, 10.0 * rank])
    dist.all_reduce(tensor)
    dist.barrier()
    result = [dist.get_world_size(), tensor.tolist()]
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("hosting", ["thread", "process"])
def test_gloo_runs_on_our_server(hosting: Any, torch_processes: Sequence[Any]) -> None:
    """torch's own process group meets over it and reduces, as under a launcher that shares its store."""
    store = rdzv.TCPStore("127.0.0.1", 0, is_master=True, hosting=hosting)
    ranks = torch_processes[:2]
    for rank, process in enumerate(ranks):
        process.start(ALL_REDUCE, port=store.port, rank=rank)
    assert together(*(process.result for process in ranks)) == [[2, [3.0, 10.0]]] * 2
    store.close()


def test_the_readmes_example_reduces(torch_processes: Sequence[Any]) -> None:
    """A process group over the store that our ranks have met in: what the README says is enough, and the host goes."""
    readme = Path(__file__).parents[2].joinpath("README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n# reduce\.py\n(.*?)```", readme, re.DOTALL)
    program = f"import os\nos.environ.update(variables)\n{example}\nresult = total.item()\n"
    ranks, endpoint = torch_processes[:2], f"127.0.0.1:{rdzv.get_free_port()}"
    for rank, process in enumerate(ranks):
        variables = {"RANK": str(rank), "WORLD_SIZE": "2", "ENDPOINT": endpoint, "GLOO_SOCKET_IFNAME": "lo"}
        process.start(program, variables=variables)
    assert together(*(process.result for process in ranks)) == [3.0, 3.0]
