"""FileStore: torch's and ours on one file."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

import rdzv
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

torch_stores: Any = pytest.importorskip("torch.distributed", reason="torch is not installed")
pytestmark = pytest.mark.interop


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


names = st.sampled_from(["a", "b", "", "-/a", "refcount/"])
values = st.sampled_from(["", "1", "x" * 300, b"\0\xff"])
pairs = st.lists(st.tuples(names, values), max_size=3)
sides = st.sampled_from(["ours", "torch"])
steps = st.lists(
    st.tuples(
        sides,
        st.one_of(
            st.tuples(st.just("set"), names, values),
            st.tuples(st.just("add"), st.just("n"), st.integers(-3, 3)),
            st.tuples(st.just("compare_set"), names, values, values),
            st.tuples(st.just("delete_key"), names | st.just("n")),
            st.tuples(st.just("check"), st.lists(names, max_size=3)),
            st.builds(lambda items: ("multi_set", [key for key, _ in items], [value for _, value in items]), pairs),
            st.tuples(st.just("get"), names),
            st.tuples(st.just("multi_get"), st.lists(names, max_size=3)),
            st.tuples(st.just("num_keys")),
        ),
    ),
    max_size=15,
)


@settings(max_examples=100)
@given(steps)
def test_two_stores_on_one_file_are_one_store(sequence: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
    """Whichever of them does the next step, it answers as if it were alone on the file."""
    model = rdzv.HashStore()
    with tempfile.TemporaryDirectory() as folder:
        stores = {"torch": torch_stores.FileStore(f"{folder}/store"), "ours": rdzv.FileStore(f"{folder}/store")}
        for side, (name, *arguments) in sequence:
            if name in ("get", "multi_get") and not model.check(arguments[0] if name == "multi_get" else arguments):
                continue
            outcome, expected = getattr(stores[side], name)(*arguments), getattr(model, name)(*arguments)
            if name == "num_keys":
                expected += 1  # nobody has left yet, so there is only one counter
            if name == "delete_key" and side == "torch":
                expected = True  # whatever was there
            assert outcome == expected


@pytest.mark.parametrize("order", ["ours first", "torch first"])
def test_whoever_is_last_removes_the_file(path: Path, order: str) -> None:
    """Both kinds count themselves in and out, and in the same way."""
    kinds = (rdzv.FileStore, torch_stores.FileStore)
    stores = [kind(str(path), 2) for kind in (kinds if order == "ours first" else kinds[::-1])]
    stores[0].set("key", "value")
    assert stores[1].get("key") == b"value"
    stores.pop(0)
    assert path.exists()
    stores.pop()
    assert not path.exists()


def test_each_kind_waits_for_the_other(path: Path) -> None:
    """To and fro."""
    ours, theirs = rdzv.FileStore(str(path)), torch_stores.FileStore(str(path))

    def serve() -> None:
        for turn in range(5):
            ours.set(f"ping {turn}", "1")
            assert ours.get(f"pong {turn}") == b"1"
        ours.barrier("end", 2)

    def answer() -> None:
        for turn in range(5):
            theirs.wait([f"ping {turn}"])
            theirs.add(f"pong {turn}", 1)
        theirs.barrier("end", 2)

    together(serve, answer)


ADD = """
    from torch.distributed import FileStore
    store = FileStore(path)
    result = [store.add("n", 1) for _ in range(100)]
    del store
"""


def test_processes_of_both_kinds_count_together(path: Path, torch_processes: Sequence[Any]) -> None:
    """The lock is the same one: no number is given out twice."""
    for process in torch_processes[:2]:
        process.start(ADD, path=str(path))
    stores = [rdzv.FileStore(str(path)) for _ in range(2)]
    works = [lambda store=store: [store.add("n", 1) for _ in range(100)] for store in stores]
    numbers = together(*(process.result for process in torch_processes[:2]), *works)
    assert sorted(number for each in numbers for number in each) == list(range(1, 401))
