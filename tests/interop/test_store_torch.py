"""TCPStore in both directions: torch's clients on our server, and our client on torch's servers, libuv and old."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

import rdzv
from sim.check.store import CHECKS, run_check
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sim.check.trial import Check, Store

torch_stores: Any = pytest.importorskip("torch.distributed", reason="torch is not installed")
pytestmark = pytest.mark.interop

ROOT = Path(__file__).parents[2]
TEN_S = timedelta(seconds=10)


@contextmanager
def server(kind: str) -> Iterator[tuple[int, bool]]:
    """A server of that kind: its port, and whether its clients may use queues.

    Ours is in a process of its own, since some calls of torch's client keep the interpreter's lock until the answer.
    """
    if kind == "ours":
        with closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True, hosting="process")) as host:
            yield host.port, True
    else:
        # A socket for IPv4 alone: of other clients, torch's server looks up the name, and nobody is served meanwhile.
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        host = torch_stores.TCPStore(
            "127.0.0.1", port, is_master=True, use_libuv=kind == "libuv", master_listen_fd=sock.detach()
        )
        yield host.port, kind == "libuv"


def torch_client(port: int, has_queues: bool = True) -> Store:
    return torch_stores.TCPStore("127.0.0.1", port, timeout=TEN_S, use_libuv=has_queues)


def our_client(port: int, has_queues: bool = True) -> rdzv.TCPStore:
    return rdzv.TCPStore("127.0.0.1", port, timeout=10, use_libuv=has_queues)


every_server = pytest.mark.parametrize("kind", ["ours", "libuv", "old"])


# The contract of `sim.check.store`, across


FORCED = {("nothing_false_ends_a_wait", "libuv"): "E1: the end of a wait is one byte; of a get, the value is looked at"}


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        pytest.param(check, kind, id=f"{check.__name__}-{kind}", marks=[pytest.mark.xfail(reason=why)] if why else [])
        for check in CHECKS
        for kind in ("libuv", "old")
        for why in [FORCED.get((check.__name__, kind), "")]
    ],
)
def test_our_client_keeps_the_contract_on_torchs_server(check: Check, kind: str) -> None:
    """All of it but for what its server alone could mend."""

    @contextmanager
    def make() -> Iterator[rdzv.Store]:
        with server(kind) as address, closing(our_client(*address)) as store:
            yield store

    run_check(check, make)


ONE_CHECK = """
    import sys; sys.path.insert(0, root)
    from contextlib import contextmanager
    from torch.distributed import TCPStore
    from sim.check.store import CHECKS, run_check

    @contextmanager
    def make():
        yield TCPStore("127.0.0.1", port)

    run_check(next(check for check in CHECKS if check.__name__ == name), make)
"""

# What torch's client does in its own way, whoever serves it; see also the tests of its timeouts below.
TORCHS_WAY = {
    "keys_are_any_bytes": "E16: its list_keys decodes strictly",
    "many_values_at_once": "it takes no iterator",
    "a_timeout_of_zero_looks_once": "E13: a race",
    "negative_timeouts_are_refused": "E12: it waits for ever",
    "a_wait_holds_up_no_other_thread": "its object has one lock",
    "each_item_goes_to_one": "E4: who finds the queue empty after a wait gives up",
    **dict.fromkeys(
        [
            "deleted_keys_are_gone",
            "timeouts_name_the_missing_keys",
            "nothing_false_ends_a_get",
            "nothing_false_ends_a_wait",
            "empty_queues_say_so",
            "barriers_open_for_all_at_once",
        ],
        "its timeout is no TimeoutError",
    ),
}


@pytest.mark.parametrize("hosting", ["thread", "process"])
@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS if check.__name__ not in TORCHS_WAY])
def test_torchs_client_keeps_the_contract_on_our_server(
    name: str, hosting: Any, torch_processes: Sequence[Any]
) -> None:
    """All of it that its own server lets it keep."""
    with closing(rdzv.TCPStore("127.0.0.1", 0, is_master=True, hosting=hosting)) as host:
        torch_processes[0].run(ONE_CHECK, root=str(ROOT), name=name, port=host.port)


@pytest.mark.parametrize("has_queues", [True, False])
def test_torchs_client_times_out_on_our_server(has_queues: bool) -> None:
    """In time, with its own error, and it can be used afterwards."""
    with server("ours") as (port, _):
        store = torch_client(port, has_queues)
        store.set("present", "1")
        attempts: list[Callable[[], object]] = [
            lambda: store.get("missing"),
            lambda: store.multi_get(["present", "missing"]),
            lambda: store.wait(["missing"]),
            lambda: store.barrier("barrier", 2),
        ]
        if has_queues:
            attempts.append(lambda: store.queue_pop("missing"))
        store.set_timeout(timedelta(milliseconds=20))
        for attempt in attempts:
            with pytest.raises(torch_stores.DistStoreError, match="timeout after 20ms, key"):
                attempt()
        store.set_timeout(TEN_S)
        assert store.get("present") == b"1"


# Sequences of operations

names = st.sampled_from(["a", "b", ""])
values = st.sampled_from(["", "1", "x", b"\0\xff"])
pairs = st.lists(st.tuples(names, values), max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), names, values),
        st.tuples(st.just("append"), names, values),
        st.tuples(st.just("add"), st.just("n"), st.integers(-3, 3) | st.sampled_from([2**63 - 1, -(2**63)])),
        st.tuples(st.just("compare_set"), names, values, values),
        st.tuples(st.just("delete_key"), names | st.just("n")),
        st.tuples(st.just("check"), st.lists(names, max_size=3)),
        st.builds(lambda items: ("multi_set", [key for key, _ in items], [value for _, value in items]), pairs),
        st.tuples(st.just("get"), names),
        st.tuples(st.just("multi_get"), st.lists(names, max_size=3)),
        st.tuples(st.just("wait"), st.lists(names, max_size=3)),
        st.tuples(st.just("list_keys")),
        st.tuples(st.just("num_keys")),
        st.tuples(st.just("queue_push"), names.map("q".__add__), values),
        st.tuples(st.just("queue_pop"), names.map("q".__add__), st.just(False)),
        st.tuples(st.just("queue_len"), names.map("q".__add__)),
    ),
    max_size=12,
)


def outcomes(store: Store, sequence: Sequence[tuple[Any, ...]]) -> list[object]:
    """What each step returns, or the name of its error; what would wait for ever is left out."""
    seen: list[object] = []
    keys_before = store.num_keys()
    for name, *arguments in sequence:
        if name in ("get", "multi_get", "wait") and not store.check(arguments[0] if name != "get" else arguments):
            continue
        try:
            outcome = getattr(store, name)(*arguments)
        except (torch_stores.QueueEmptyError, rdzv.QueueEmptyError) as error:
            outcome = type(error).__name__
        if name == "num_keys":
            outcome -= keys_before
        seen.append(sorted(outcome) if name == "list_keys" else outcome)
    store.check([])  # it has an answer: now the writes before it are done, and the next client counts no key too few
    return seen


@pytest.mark.parametrize("has_queues", [True, False])
def test_both_clients_see_the_same_on_all_servers(has_queues: bool) -> None:
    """Torch's client on its own server is the measure, step by step."""
    examples = 0
    with server("libuv" if has_queues else "old") as (torch_port, _), server("ours") as (our_port, _):
        measure = torch_client(torch_port, has_queues)
        others = [
            torch_client(our_port, has_queues),
            *(our_client(port, has_queues) for port in (torch_port, our_port)),
        ]

        @settings(max_examples=60 if has_queues else 20)  # a multi_get of the old server takes 0.2 s
        @given(steps)
        def compare(sequence: Sequence[tuple[Any, ...]]) -> None:
            nonlocal examples
            examples += 1
            if not has_queues:
                sequence = [step for step in sequence if not step[0].startswith("queue")]
            prefix = f"{examples:06}"
            expected = outcomes(torch_stores.PrefixStore(f"{prefix}-0", measure), sequence)
            for number, client in enumerate(others, 1):
                prefix_store = rdzv.PrefixStore if isinstance(client, rdzv.Store) else torch_stores.PrefixStore
                assert outcomes(prefix_store(f"{prefix}-{number}", client), sequence) == expected

        compare()
        for client in others[1:]:
            client.close()


def test_clients_of_the_old_server_have_no_queues() -> None:
    """Neither torch's nor ours; they say so without asking the server."""
    with server("old") as address, closing(our_client(*address)) as ours:
        for store in (torch_client(*address), ours):
            for attempt in (store.queue_len, store.queue_pop, lambda key, store=store: store.queue_push(key, "1")):
                with pytest.raises(NotImplementedError):
                    attempt("q")


@every_server
def test_prefixes_of_both_kinds_are_the_same_keys(kind: str) -> None:
    """Nested, empty and with slashes: what one writes, the other reads, and lists."""
    with server(kind) as address:
        theirs, ours = torch_client(*address), our_client(*address)
        for prefixes in (["a"], ["a", "b"], [""], ["a/b"], ["", ""]):
            their_part, our_part = theirs, ours
            for prefix in prefixes:
                their_part = torch_stores.PrefixStore(prefix, their_part)
                our_part = rdzv.PrefixStore(prefix, our_part)
            name = "/".join(prefixes)
            their_part.set(f"theirs {name}", "1")
            our_part.set(f"ours {name}", "2")
            assert our_part.get(f"theirs {name}") == b"1"
            assert their_part.get(f"ours {name}") == b"2"
        assert sorted(theirs.list_keys()) == sorted(ours.list_keys())
        ours.close()


# Who waits


@every_server
def test_clients_of_both_kinds_wake_each_other(kind: str) -> None:
    """With every kind of write, to and fro. Torch's old server says nothing of a compare_set (E21)."""
    writes: dict[str, Callable[[Store, str], object]] = {
        "set": lambda store, key: store.set(key, "1"),
        "add": lambda store, key: store.add(key, 1),
        "append": lambda store, key: store.append(key, "1"),
        "multi_set": lambda store, key: store.multi_set([key], ["1"]),
    }
    if kind != "old":
        writes["compare_set"] = lambda store, key: store.compare_set(key, "", "1")
    with server(kind) as address, closing(our_client(*address)) as ours:
        theirs = torch_client(*address)

        def serve() -> None:
            for name, write in writes.items():
                for turn in range(5):
                    write(ours, f"{name} ping {turn}")
                    assert ours.get(f"{name} pong {turn}") == b"1"

        def answer() -> None:
            for name, write in writes.items():
                for turn in range(5):
                    theirs.wait([f"{name} ping {turn}"])
                    write(theirs, f"{name} pong {turn}")

        together(serve, answer)


@pytest.mark.parametrize("kind", ["ours", "libuv"])
def test_queues_pass_items_between_clients_of_both_kinds(kind: str) -> None:
    """Blocking pops on both sides."""
    with server(kind) as (port, _), closing(our_client(port)) as ours:
        theirs = torch_client(port)

        def serve() -> None:
            for turn in range(20):
                ours.queue_push("to", f"{turn}")
                assert ours.queue_pop("fro") == b"%d" % turn

        def answer() -> None:
            for _ in range(20):
                theirs.queue_push("fro", theirs.queue_pop("to"))

        together(serve, answer)


@every_server
@pytest.mark.parametrize("has_prefix", [False, True])
def test_a_barrier_opens_for_clients_of_both_kinds(kind: str, has_prefix: bool) -> None:
    """On the store itself it is the server's, behind a prefix it is made of keys: both meet their like."""
    come: list[int] = []

    def arrive(client: Store, number: int) -> None:
        kin: Any = rdzv if isinstance(client, rdzv.Store) else torch_stores
        store = kin.PrefixStore("part", client) if has_prefix else client
        come.append(number)
        store.barrier("b", 4, TEN_S)
        assert sorted(come) == [0, 1, 2, 3]

    with server(kind) as address:
        ours = [our_client(*address) for _ in range(2)]
        clients = [*ours, torch_client(*address), torch_client(*address)]
        together(*(lambda client=client, i=i: arrive(client, i) for i, client in enumerate(clients)))
        for client in ours:
            client.close()


WORKER = """
    import datetime, torch.distributed
    torch.distributed.TCPStore("127.0.0.1", port, 3, False, datetime.timedelta(seconds=10), use_libuv=use_libuv)
"""


@pytest.mark.parametrize("use_libuv", [True, False])
def test_our_master_waits_for_torchs_workers(use_libuv: bool, torch_processes: Sequence[Any]) -> None:
    """It returns when both have counted themselves in."""
    port = rdzv.get_free_port()
    for process in torch_processes[:2]:
        process.start(WORKER, port=port, use_libuv=use_libuv)
    with closing(rdzv.TCPStore("127.0.0.1", port, 3, True, timeout=10)) as master:
        assert master.num_keys() == 1
        for process in torch_processes[:2]:
            process.result()


@pytest.mark.parametrize("use_libuv", [True, False])
def test_torchs_master_waits_for_our_workers(use_libuv: bool, torch_processes: Sequence[Any]) -> None:
    """It returns when both have counted themselves in."""
    port = rdzv.get_free_port()
    torch_processes[0].start(
        WORKER.replace("False,", "True,") + "    result = 'all here'", port=port, use_libuv=use_libuv
    )
    workers = [rdzv.TCPStore("127.0.0.1", port, 3, timeout=10, use_libuv=use_libuv) for _ in range(2)]
    assert torch_processes[0].result() == "all here"
    for worker in workers:
        worker.close()


# Rough edges of torch's servers, seen from our client


def test_e1_a_compare_set_that_stores_nothing_ends_no_get() -> None:
    """Torch's own client returns an empty value of a key that does not exist."""
    with server("libuv") as (port, _), closing(our_client(port)) as waiting:
        theirs = torch_client(port)
        # Not a key: a client of torch's has one lock, so its wait in one thread would hold up its set in the other.
        begun = threading.Event()

        def get() -> bytes:
            begun.set()
            return waiting.get("key")

        def write() -> bytes:
            assert begun.wait(10)
            for _ in range(200):
                assert theirs.compare_set("key", "wrong", "new") == b"wrong"
            theirs.set("key", "value")
            return b""

        assert together(get, write)[0] == b"value"


def test_e2_a_push_ends_no_later_get() -> None:
    """Torch's server keeps whom it has once woken on the list of a queue."""
    with server("libuv") as (port, _), closing(our_client(port)) as waiting:
        theirs = torch_client(port)
        together(lambda: waiting.queue_pop("q"), lambda: theirs.queue_push("q", "1"))
        together(lambda: waiting.get("key"), lambda: (theirs.queue_push("q", "2"), theirs.set("key", "value")))
        waiting.set_timeout(0.1)
        theirs.queue_push("q", "3")
        with pytest.raises(rdzv.StoreTimeoutError, match="/never: still missing"):
            waiting.get("never")


def test_e21_a_compare_set_ends_a_get_on_the_old_server() -> None:
    """It tells nobody, so our client looks by itself now and then."""
    with server("old") as address, closing(our_client(*address)) as waiting:
        theirs = torch_client(*address)
        values = together(lambda: waiting.get("key"), lambda: theirs.compare_set("key", "", "value"))
        assert values == [b"value", b"value"]
