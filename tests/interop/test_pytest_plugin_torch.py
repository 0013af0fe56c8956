"""``@pytest.mark.ranks`` and torch: real process groups in the ranks, and what a hang in torch's own client says."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

SOURCE = """
import pytest
import torch
import torch.distributed as dist

@pytest.fixture
def group(rank, world_size):
    dist.init_process_group("gloo")  # the environment is the one that torchrun would give
    yield dist.group.WORLD
    dist.destroy_process_group()

@pytest.mark.ranks([2, 4], timeout=60)
def test_sum(rank, world_size, group):
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    assert total.item() == world_size * (world_size + 1) / 2

@pytest.mark.ranks(2, timeout=60)
def test_address(rank, world_size, rendezvous):
    address = rendezvous.bootstrap_store_info
    store = dist.TCPStore(address.master_addr, address.master_port, world_size, is_master=False)
    store.set(f"{rank}", "here")
    assert store.get(f"{1 - rank}") == b"here"
    rendezvous.store.barrier("both", world_size)

@pytest.mark.ranks(2, timeout=3)
def test_hangs(rank, world_size, rendezvous):
    address = rendezvous.bootstrap_store_info
    store = dist.TCPStore(address.master_addr, address.master_port, world_size, is_master=False)
    if rank:
        store.get("a key of torch's")
"""


@pytest.mark.interop
def test_torch_in_ranks(pytester: pytest.Pytester) -> None:
    """Gloo reduces; torch's client meets ours; and for one that hangs in C++ there is a stack and a key as well."""
    pytest.importorskip("torch")
    pytester.makepyfile(test_it=SOURCE)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", timeout=110)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "rank 1 of 2 had to be ended after 3 s*",
            'rank 1: had to be ended in the call, waiting for the key "a key of torch\'s"',
            '*store.get("a key of torch\'s")',
        ]
    )
