"""torchrun's real agents on our rounds: processes on loopback beside an ``rdzv serve``, whose workers reduce with gloo.

Each worker writes a line when its first all_reduce is done, so that a test sees every world that there was: its agent,
rank, size and sum, torch's count of restarts, and the time on the system's monotonic clock.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

import rdzv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

pytest.importorskip("torch.distributed", reason="torch is not installed")
pytestmark = pytest.mark.interop

DEADLINE_S = 60.0
SETTINGS = "keep_alive_interval=1,keep_alive_max_attempt=20,last_call_timeout=1,join_timeout=50"
QUICK_TO_BURY = "keep_alive_max_attempt=4,heartbeat_timeout=4"
FINISHED = "torch.rendezvous.job.0/torchelastic/agent/terminal_state/num_members"

TRAIN = """
    import ctypes, faulthandler, json, os, pathlib, time
    ctypes.CDLL(None).prctl(1, 9)  # a worker ends with its agent, as when a machine is lost
    faulthandler.dump_traceback_later(100, exit=True)  # and it outlives no test, whatever happens
    import torch, torch.distributed as dist

    here, name = pathlib.Path(__file__).parent, os.environ["AGENT"]
    dist.init_process_group("gloo")
    told = False
    while True:
        sums = torch.tensor([1.0, (here / "finish").exists()])  # all must stop at the same step
        dist.all_reduce(sums)
        if not told:
            world = {"agent": name, "rank": dist.get_rank(), "size": dist.get_world_size(), "sum": sums[0].item(),
                     "restarts": int(os.environ["TORCHELASTIC_RESTART_COUNT"]), "at": time.monotonic()}
            with open(here / "worlds", "a") as file:
                file.write(json.dumps(world) + "\\n")
            told = True
        if sums[1]:
            break
        if (here / f"crash-{name}").exists():
            (here / f"crash-{name}").unlink()
            os._exit(7)
        time.sleep(0.01)
    dist.destroy_process_group()
    while (here / f"hold-{name}").exists():
        time.sleep(0.01)
"""


class Job:
    """Agents of one job in a folder, and the store beside them; everything that it started ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "train.py").write_text(textwrap.dedent(TRAIN))
        ready, served = os.pipe()
        command = [sys.executable, "-m", "rdzv", "serve", "127.0.0.1:0", "--ready-fd", str(served)]
        self._server = subprocess.Popen(command, pass_fds=[served], stderr=subprocess.DEVNULL)
        os.close(served)
        self.port = int(os.read(ready, 10))
        os.close(ready)

    def start(self, name: str, nodes: str, settings: str = "", endpoint: str = "") -> None:
        """Start an agent; what it prints goes to a file of its name."""
        command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", "--rdzv-backend=rdzv"]
        command += [f"--rdzv-endpoint={endpoint or f'127.0.0.1:{self.port}'}", "--rdzv-id=job", "--max-restarts=3"]
        command += [f"--rdzv-conf={SETTINGS},{settings}".rstrip(","), "--monitor-interval=0.02", "train.py"]
        environment = {"AGENT": name, "RDZV_EVENTS": str(self.folder / "events"), "GLOO_SOCKET_IFNAME": "lo"}
        with (self.folder / f"{name}.txt").open("wb") as output:
            self.agents[name] = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
            )

    def worlds(self, since: float = 0.0) -> list[dict[str, Any]]:
        """What the workers have seen since then, one entry for each worker that has reduced."""
        return [world for world in self._lines("worlds") if world["at"] > since]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the handlers have told of this kind."""
        return [event for event in self._lines("events") if event["event"] == kind]

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that is seen in the files."""
        deadline_at = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_at, f"{what}: not within {DEADLINE_S:g} s\n{self.outputs()}"
            time.sleep(0.02)

    def until_world(self, names: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Wait until the workers of these agents, and no others, have reduced in one world; what each saw, by rank."""

        def met() -> list[dict[str, Any]]:
            last = {world["agent"]: world for world in self.worlds(since)}
            here = [last[name] for name in names.split() if name in last and last[name]["size"] == len(names.split())]
            return sorted(here, key=lambda world: world["rank"])

        size = len(names.split())
        self.until(lambda: len(met()) == size, f"a world of {names}")
        assert [(world["rank"], world["sum"]) for world in met()] == [(rank, size) for rank in range(size)]
        return met()

    def finish(self, **statuses: int) -> None:
        """Let the workers come to their end; the agents that are named end with these statuses."""
        (self.folder / "finish").touch()
        for name, status in statuses.items():
            assert self.agents[name].wait(DEADLINE_S) == status, f"agent {name}\n{self.outputs()}"

    def outputs(self) -> str:
        """What all agents have printed, for whoever must find out what went wrong."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.txt")))

    def close(self) -> None:
        """End what is left."""
        for process in (*self.agents.values(), self._server):
            process.kill()
            process.wait()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.close()


def test_the_job_goes_on_without_a_killed_agent_and_takes_in_a_new_one(job: Job) -> None:
    """Three of two to four nodes; one is lost with its worker, which leaves a world of two; a newcomer makes it three.

    The sums say how many there really are.
    """
    for name in "abc":
        job.start(name, "2:4", QUICK_TO_BURY)
    job.until_world("a b c")
    killed_at = time.monotonic()
    job.agents["c"].kill()
    job.until_world("a b", killed_at)
    started_at = time.monotonic()
    job.start("d", "2:4", QUICK_TO_BURY)
    job.until_world("a b d", started_at)
    job.finish(a=0, b=0, d=0)
    assert job.agents["c"].wait() == -9
    assert max(event["round"] for event in job.events("met")) >= 2


def test_a_worker_that_crashes_restarts_the_round_on_all_agents(job: Job) -> None:
    """Both meet again in the next round, torch counts the restart where the worker was, and the job succeeds."""
    job.start("a", "2")
    job.start("b", "2")
    first = job.until_world("a b")
    crashed_at = time.monotonic()
    (job.folder / "crash-a").touch()
    second = {world["agent"]: world for world in job.until_world("a b", crashed_at)}
    assert [world["restarts"] for world in first] == [0, 0]
    assert second["a"]["restarts"] == 1
    job.finish(a=0, b=0)
    assert sorted(event["round"] for event in job.events("met")) == [0, 0, 1, 1]


def test_a_spare_waits_without_disturbing_and_exits_well_when_the_job_ends(job: Job) -> None:
    """Three agents for a world of one to two: the third is told that it is a spare, and starts no worker."""
    job.start("a", "1:2")
    job.start("b", "1:2")
    job.until_world("a b")
    started = len(job.worlds())
    job.start("c", "1:2")
    job.until(lambda: bool(job.events("spare")), "a spare")
    assert {event["pid"] for event in job.events("spare")} == {job.agents["c"].pid}
    job.finish(a=0, b=0, c=0)
    assert len(job.worlds()) == started
    assert "Traceback" not in job.outputs()


def test_who_comes_while_the_job_ends_restarts_nobody_and_exits_well(job: Job) -> None:
    """One agent's worker is done, the other's not; a third agent comes, for which there would be room.

    The first agent does nothing but wait for the second, so a next round would wait for it in vain. The third is not
    needed. Whoever comes when all is over is told so, and what to do: its status is a failure, for it has done nothing.
    """
    (job.folder / "hold-b").touch()
    job.start("a", "2:3")
    job.start("b", "2:3")
    job.until_world("a b")
    (job.folder / "finish").touch()
    store = rdzv.TCPStore("127.0.0.1", job.port)
    store.wait([FINISHED], DEADLINE_S)
    store.close()
    job.start("c", "2:3")
    waiting = {job.agents["a"].pid, job.agents["b"].pid}
    job.until(lambda: waiting <= {event["pid"] for event in job.events("waiting nodes")}, "news of the latecomer")
    (job.folder / "hold-b").unlink()
    job.finish(a=0, b=0, c=0)
    assert sorted(world["agent"] for world in job.worlds()) == ["a", "b"]
    job.start("d", "2:3")
    job.finish(d=1)
    output = (job.folder / "d.txt").read_text()
    assert "RendezvousClosedError: run 'job' is closed by" in output
    assert "--rdzv-id" in output


def test_the_agents_need_no_server_beside_them(job: Job) -> None:
    """The first agent of the endpoint's machine hosts; at the end it waits for the other, and no longer."""
    endpoint = f"127.0.0.1:{rdzv.get_free_port()}"
    job.start("a", "2", endpoint=endpoint)
    job.start("b", "2", endpoint=endpoint)
    job.until_world("a b")
    ended_at = time.monotonic()
    job.finish(a=0, b=0)
    assert time.monotonic() - ended_at < 15, "the host lingers for 30 s if it takes its own connection for another's"
    assert "Traceback" not in job.outputs()


WRONG = {  # what it is: the endpoint, the settings, what the last error says
    "nobody": ("127.0.0.1:{free}", "is_host=0,read_timeout=1", "RendezvousConnectionError: .* 127.0.0.1:{free}"),
    "port": ("127.0.0.1:99999", "", "EndpointError: .*65535"),
    "option": ("127.0.0.1:{port}", "last_cal_timeout=1", "ConfigError: .*did you mean last_call_timeout"),
}


def test_what_is_wrong_with_the_command_is_said(job: Job) -> None:
    """The agent ends with status 1, and the last error of its output says what is wrong."""
    ports = {"port": job.port, "free": rdzv.get_free_port()}
    for name, (endpoint, settings, _) in WRONG.items():
        job.start(name, "2", settings, endpoint.format(**ports))
    job.finish(**dict.fromkeys(WRONG, 1))
    for name, (_, _, error) in WRONG.items():
        output = (job.folder / f"{name}.txt").read_text()
        last = re.findall(r"^[\w.]*Error: .*(?:\n(?!\S+Error).+)*", output, re.MULTILINE)[-1]
        assert re.search(error.format(**ports), last, re.DOTALL), output


USE_IT = """
    import datetime, os, torch, torch.distributed as dist
    import torch.distributed.elastic.rendezvous as elastic
    import rdzv, rdzv.errors
    from rdzv.torch_plugin import AgentStore, creator

    store = AgentStore(rdzv.HashStore())
    store.set_timeout(datetime.timedelta(seconds=0.1))
    inside = dist.PrefixStore("inside", store)
    inside.set("key", "value")
    seen = [store.get("inside/key"), inside.add("number", 2), inside.check(["missing"]), inside.multi_get(["key"])]
    error = ""
    try:
        inside.wait(["missing"])
    except dist.DistStoreError as raised:
        error = str(raised)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store.clone(), rank=0, world_size=1)
    sums = torch.tensor([3.0])
    dist.all_reduce(sums)
    dist.destroy_process_group()
    registered = elastic.rendezvous_handler_registry._registry["rdzv"] is creator()
    result = [isinstance(store, dist.Store), seen == [b"value", 2, False, [b"value"]], error, sums.item(), registered]
"""


def test_torchs_own_code_can_use_the_agents_store(torch_processes: Sequence[Any]) -> None:
    """Its prefix store and gloo, both in C++, read and write; a wait in vain raises torch's error, with our text."""
    is_torchs, is_right, error, total, is_registered = torch_processes[0].run(USE_IT)
    assert (is_torchs, is_right, total, is_registered) == (True, True, 3.0, True)
    assert "inside/missing" in error


LOSE_IT = """
    import threading, time
    import rdzv
    from torch.distributed.elastic.rendezvous import RendezvousParameters
    from rdzv.store.prefix import innermost
    from rdzv.torch_plugin import create_agent_handler

    SETTINGS = {"is_host": "0", "local_addr": "127.0.0.1", "keep_alive_interval": 1, "last_call_timeout": 1}
    server = rdzv.StoreServer()
    agent, newcomer = (
        create_agent_handler(RendezvousParameters("rdzv", server.endpoint, "job", 1, 2, **SETTINGS)) for _ in range(2)
    )
    agent.next_rendezvous()
    joins = threading.Thread(target=newcomer.next_rendezvous, daemon=True)
    joins.start()
    innermost(agent._store._store).client._commands.shut_down()  # as the way to the store does to who is long idle
    waiting, until = 0, time.monotonic() + DEADLINE_S
    while not waiting and time.monotonic() < until:
        waiting = agent.num_nodes_waiting()
    result = [waiting, agent.next_rendezvous().world_size]
    joins.join(DEADLINE_S)
    newcomer.shutdown(), agent.shutdown(), server.stop()
"""


def test_an_agent_whose_idle_connection_was_lost_lets_a_newcomer_in(torch_processes: Sequence[Any]) -> None:
    """The agent itself asks nothing between two rounds; it failed, and its workers with it, as the newcomer came."""
    assert torch_processes[0].run(LOSE_IT, DEADLINE_S=DEADLINE_S) == [1, 2]


def test_who_imports_the_plugin_before_torch_has_the_backend() -> None:
    """Torch looks for it while it is half imported; that was a traceback, and torch did not know the backend."""
    program = """
import rdzv.torch_plugin
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry
print(rendezvous_handler_registry._registry["rdzv"] is rdzv.torch_plugin.create_agent_handler)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert done.stdout == "True\n", done.stderr
    assert "Traceback" not in done.stderr


TRANSLATE = """
    import torch.distributed as dist
    import torch.distributed.elastic.rendezvous as elastic
    import rdzv.errors
    from rdzv.torch_plugin import _errors_of_torch

    result = {}
    for name in rdzv.errors.__all__:
        kind = getattr(rdzv.errors, name)
        if issubclass(kind, (rdzv.errors.RendezvousError, rdzv.errors.DistError)):
            try:
                with _errors_of_torch():
                    raise kind("what") from OSError("why")
            except (elastic.RendezvousError, dist.DistError) as raised:
                result[name] = [type(raised).__name__, str(raised)]
"""


def test_every_error_becomes_torchs_of_that_name_or_of_its_base(torch_processes: Sequence[Any]) -> None:
    """The agent catches by class; and what it prints last says the cause too."""
    kinds = torch_processes[0].run(TRANSLATE)
    bases = {"ConnectTimeoutError": "DistNetworkError", "StoreTimeoutError": "DistStoreError"}
    assert len(kinds) == 12
    for name, (kind, text) in kinds.items():
        assert kind in (name, bases.get(name)), name
        assert text == "what (why)"
