"""The nodes of an elastic job, for the tests in this folder: as threads (`Job`), and as processes (`Site`)."""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rdzv
from rdzv.backend import RendezvousBackend
from rdzv.c10d import C10dRendezvousBackend
from rdzv.elastic import DynamicRendezvousHandler, create_handler
from rdzv.store import HashStore, PrefixStore, StoreServer, TCPStore
from sim.check.trial import together

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).with_name("node.py")
GRACE_S = 40.0  # for what takes a few polls or keep-alive bounds, on a machine that is busy with other things
QUICK = {"keep_alive_interval": 1, "keep_alive_max_attempt": 2, "join_timeout": 60, "hosting": "thread"}
SLACK_S = 4.0  # for a busy machine


class Scene:
    """What tests of both kinds do."""

    def __init__(self, folder: Path) -> None:
        self._events = folder / "events.jsonl"

    def until(self, is_so: Callable[[], object]) -> None:
        """Look again and again until it is so."""
        deadline_at = time.monotonic() + GRACE_S
        while not is_so():
            assert time.monotonic() < deadline_at, "it did not come to pass"
            time.sleep(0.005)

    def heard(self, event: str, at_least: int = 1) -> list[dict[str, Any]]:
        """The events of one kind, once there are so many: a node knows a thing a moment before its event is written."""
        self.until(lambda: len(self.told(event)) >= at_least)
        return self.told(event)

    def told(self, event: str) -> list[dict[str, Any]]:
        """The events of one kind so far, as the file of events has them."""
        lines = self._events.read_text().splitlines() if self._events.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def pass_polls(self, polls: int) -> None:
        """Let so many intervals pass: of that a pause was long or short, nothing else tells."""
        threading.Event().wait(polls * QUICK["keep_alive_interval"])  # type: ignore[arg-type]


class OwnBackend(RendezvousBackend):
    """A backend as a user may have one: two methods and a name. It knows nothing of stores."""

    name = "own"  # type: ignore[assignment]

    def __init__(self) -> None:
        self._lock, self._state, self._token = threading.Lock(), b"", 0

    def get_state(self) -> tuple[bytes, int] | None:
        with self._lock:
            return (self._state, self._token) if self._token else None

    def set_state(self, state: bytes, token: Any = None) -> tuple[bytes, int, bool] | None:
        with self._lock:
            is_written = (token or 0) == self._token
            if is_written:
                self._state, self._token = state, self._token + 1
            return self._state, self._token, is_written


class SilentBackend(OwnBackend):
    """One that never says what came of a write, as upstream's own tests have it."""

    def set_state(self, state: bytes, token: Any = None) -> None:
        super().set_state(state, token)


class Job(Scene):
    """The nodes of one job, as threads; it ends them all."""

    def __init__(self, arena: str, folder: Path) -> None:
        super().__init__(folder)
        self._arena, self._folder = arena, folder
        self._nodes: list[DynamicRendezvousHandler] = []
        self._stores: list[TCPStore] = []
        self._pool = ThreadPoolExecutor(16, "join")
        self._store: Any = HashStore()
        self._backend: Any = {"own": OwnBackend, "silent": SilentBackend}.get(arena, lambda: None)()
        self.server: Any = StoreServer(port=0) if arena in ("tcp", "prefix") else None

    def close(self) -> None:
        """End everything."""
        self.end()
        self._pool.shutdown()
        if self.server:
            self.server.stop()

    def node(self, nodes_min: int, nodes_max: int | None = None, **options: Any) -> DynamicRendezvousHandler:
        """One more node."""
        run = {"run_id": "job", "min_nodes": nodes_min, "max_nodes": nodes_max or nodes_min}
        run["local_addr"] = options.pop("local_addr", "127.0.0.1")
        options = QUICK | {"is_host": "0"} | options
        if self._arena in ("tcp", "file"):
            where = {"store_type": "file"} if self._arena == "file" else {}
            endpoint = self.server.endpoint if self.server else str(self._folder / "store")
            params = rdzv.RendezvousParameters("c10d", endpoint, **run, **where, **options)
            handler = rdzv.get_rendezvous_handler(params)
        else:
            store = self._store if self.server is None else self._prefixed()
            backend = self._backend or C10dRendezvousBackend(store, "job")
            handler = create_handler(store, backend, rdzv.RendezvousParameters(backend.name, "", **run, **options))
        assert isinstance(handler, DynamicRendezvousHandler)
        self._nodes.append(handler)
        return handler

    def forget(self, node: DynamicRendezvousHandler) -> None:
        """Leave a node to its fate."""
        self._nodes.remove(node)

    def end(self) -> None:
        """Shut all its nodes down."""
        nodes, self._nodes = self._nodes, []
        for node in nodes:
            node.shutdown()
        while self._stores:
            self._stores.pop().close()

    def _prefixed(self) -> PrefixStore:
        store = TCPStore("127.0.0.1", self.server.port, timeout=GRACE_S)
        self._stores.append(store)
        return PrefixStore("jobs", PrefixStore("mine", store))

    def meet(self, *handlers: DynamicRendezvousHandler) -> list[rdzv.RendezvousInfo]:
        """What they take home, each joining in a thread of its own."""
        return together(*[handler.next_rendezvous for handler in handlers])

    def run(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start something that may have to wait."""
        return self._pool.submit(work, *arguments)

    def join(self, handler: DynamicRendezvousHandler) -> Future[rdzv.RendezvousInfo]:
        """Start a join that is to wait."""
        return self.run(handler.next_rendezvous)

    def result(self, future: Future[Any]) -> Any:
        return future.result(GRACE_S)

    def error_of(self, future: Future[Any]) -> BaseException | None:
        return future.exception(GRACE_S)

    def tending(self) -> list[threading.Thread]:
        """The threads that tend rounds."""
        return [thread for thread in threading.enumerate() if thread.name == "rdzv-tend"]


@pytest.fixture(params=["tcp"])
def job(request, tmp_path, monkeypatch):
    """A job over a server of its own, unless the test asks for others."""
    monkeypatch.setenv("RDZV_EVENTS", str(tmp_path / "events.jsonl"))
    with closing(Job(request.param, tmp_path)) as job:
        yield job


@pytest.fixture
def site(tmp_path):
    """Where the processes of a test live; none outlives it."""
    with ExitStack() as stack:
        yield Site(stack, tmp_path)


# Processes


class Program:
    """One process, and what it says."""

    def __init__(self, *command: str, env: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, text=True, env=env)
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)

    def tell(self, command: str) -> None:
        """Give a command."""
        assert self._process.stdin
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def hear(self, *events: str) -> dict[str, Any]:
        """What it says next, which must be one of these."""
        try:
            said = self._said.get(timeout=GRACE_S)
        except queue.Empty:
            raise AssertionError(f"it did not say {events!r} within {GRACE_S} s") from None
        assert said is not None, f"it ended with {self._process.wait(GRACE_S)} and did not say {events!r}"
        assert said["event"] in events, said
        return said

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(GRACE_S)

    def end(self) -> None:
        """Whatever it is doing, paused or not."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]


class Site(Scene):
    """The processes of one test, beside a store that is one too."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        super().__init__(folder)
        self._stack = stack

    def serve(self) -> tuple[subprocess.Popen[bytes], str]:
        """A store that outlives the nodes, ``rdzv serve``: its process and its endpoint."""
        reads, writes = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "rdzv", "serve", "127.0.0.1:0", "--ready-fd", str(writes)],
            pass_fds=[writes],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._stack.callback(process.wait, GRACE_S)
        self._stack.callback(process.kill)
        os.close(writes)
        with open(reads) as ready:  # noqa: PTH123 -- a descriptor has no path
            return process, f"127.0.0.1:{int(ready.readline())}"

    def proxy(self, endpoint: str) -> Proxy:
        """A relay to a store, whose connections can be cut."""
        proxy = Proxy(endpoint)
        self._stack.callback(proxy.close)
        return proxy

    def nodes(self, endpoint: str, count: int, least: int, most: int | None = None, **options: Any) -> list[Program]:
        """So many nodes, which are ready for commands."""
        quick = {"is_host": "0", "read_timeout": 20, "linger_s": 0, "last_call_timeout": 60}
        arguments = json.dumps([endpoint, least, most or least, {**QUICK, **quick, **options}])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RDZV_EVENTS": str(self._events)}
        nodes = [Program(str(NODE), arguments, env=environment) for _ in range(count)]
        for node in nodes:
            self._stack.callback(node.end)
        for node in nodes:
            node.hear("ready")
        return nodes

    def round(self, endpoint: str, count: int, least: int, most: int | None = None, **options: Any) -> list[Program]:
        """So many nodes, in a round; in the order of their ranks."""
        return [node for node, _ in self.meet(*self.nodes(endpoint, count, least, most, **options))]

    def meet(self, *nodes: Program) -> list[tuple[Program, dict[str, Any]]]:
        """The nodes and what they took home from their next round, in the order of ranks; they must agree."""
        for node in nodes:
            node.tell("join beside")
        found = sorted(((node, node.hear("met")) for node in nodes), key=lambda pair: pair[1]["rank"])
        assert [met["rank"] for _, met in found] == list(range(len(nodes)))
        assert {met["size"] for _, met in found} == {len(nodes)}
        assert len({(met["round"], *met["bootstrap"]) for _, met in found}) == 1
        return found

    def watch(self, *nodes: Program) -> None:
        """Let them say when the round should end."""
        for node in nodes:
            node.tell("watch beside")

    def assert_within(self, seconds: float, since: float) -> None:
        """That no more than so many seconds have passed, but for a busy machine's."""
        assert time.monotonic() - since < seconds + SLACK_S

    def killed(self, node: Program) -> float:
        """Kill one; since when it is dead."""
        node.kill()
        return time.monotonic()


class Proxy:
    """A relay to the store whose connections can be cut."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock, self._pairs = threading.Lock(), list[tuple[socket.socket, socket.socket]]()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target, timeout=GRACE_S)
                with self._lock:
                    self._pairs.append((near, far))
                threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        with near, far, suppress(OSError, ValueError):
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    (far if source is near else near).sendall(data)

    def cut(self, at_least: int) -> None:
        """End all connections, once there are so many."""
        deadline_at = time.monotonic() + GRACE_S
        while len(self._pairs) < at_least:
            assert time.monotonic() < deadline_at, "the nodes did not connect again"
            time.sleep(0.01)
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(0)
