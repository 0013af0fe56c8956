"""What a machine may lack, and who is told: before anything hangs, in words, and with nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_ALONE = ["unshare", "--user", "--map-root-user", "--net"]  # a network whose loopback is down


def said_by(program: str, *before: str) -> str:
    """What a program prints."""
    argv = [*before, sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def may_be_alone() -> bool:
    try:
        return subprocess.run([*_ALONE, "true"], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not may_be_alone(), reason="this user may make no network namespace")
@pytest.mark.parametrize(
    "call",
    ["from sim.process.supervisor import run; run(Plan(world_size=2))", "from sim.ranks.home import Home; Home({}, 0)"],
)
def test_a_loopback_that_is_down_is_named_at_once(call: str) -> None:
    """Otherwise all ranks would try to connect, until their deadline."""
    said = said_by(
        f"""
from sim.plan import Plan
from sim.process.machine import CannotRunError
try:
    {call}
except CannotRunError as error:
    print(error)
""",
        *_ALONE,
    )
    assert said.startswith(
        "this machine does not reach itself at 127.0.0.1: Network is unreachable; is its loopback up"
    )


def test_what_the_home_of_ranks_lacks_is_named_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    """At each descriptor that it may be refused in its turn."""
    said = said_by(
        f"""
import gc, os, resource, tempfile
from rdzv.store import StoreServer
from sim.process import descendants
from sim.ranks.course import RanksError
from sim.ranks.home import Home
StoreServer("127.0.0.1").stop()  # what is imported only when it is needed
tempfile.tempdir = {str(tmp_path)!r}
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
before = sorted(os.listdir("/proc/self/fd"))
for limit in range(len(before), 100):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        home = Home({{}}, 0)
    except RanksError as error:
        print(str(error) == "the machine refuses the ranks' keeper: Too many open files", end=" ")
    else:
        home.close()
        break
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.collect()  # the errors, and what they hold
    print(sorted(os.listdir("/proc/self/fd")) == before, descendants.children(), os.listdir(tempfile.tempdir))
"""
    ).splitlines()
    assert len(said) > 5
    assert set(said) == {"True True [] []"}


def test_whoever_cannot_look_whose_keys_are_awaited_knows_nothing_of_them() -> None:
    """It is no reason to say nothing of the ranks that hang: here there is no descriptor for it."""
    said = said_by(
        """
import os, resource
from sim.process.stacks import keys_awaited
limit = max(map(int, os.listdir("/proc/self/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
print(keys_awaited({0: os.getpid()}, {"127.0.0.1:1": ["key"]}))
"""
    )
    assert said == "{}\n"


def test_a_run_ends_where_its_starter_left_the_ends_of_children_blocked() -> None:
    """A mask is inherited; the keeper, which lives by that signal, does not take it as it is."""
    said = said_by(
        """
import signal
from sim.plan import Plan
from sim.process.supervisor import run
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
print(run(Plan(world_size=2, timeout_s=10)).ok)
"""
    )
    assert said == "True\n"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_can_be_ended_whatever_its_starter_left_blocked(signum: int, status: int) -> None:
    argv = [sys.executable, "-m", "sim", "run", "-n", "1", "--", "sh", "-c", "echo ready; exec sleep 60"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signum])
    try:
        command = subprocess.Popen(argv, cwd=ROOT, **pipes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with command:
        try:
            assert command.stdout
            assert command.stdout.readline().endswith(b"ready\n")
            command.send_signal(signum)
            assert command.wait(30) == status
        finally:
            command.kill()


@pytest.mark.skipif(not may_be_alone(), reason="this user may make no mount namespace")
@pytest.mark.parametrize("call", ["-m sim run -n 2", "-c 'from sim.ranks.home import Home; Home({}, 0)'"])
def test_a_machine_without_proc_is_named(call: str) -> None:
    """And it is not said that some output could not be written."""
    shell = f"mount -t tmpfs none /proc && exec {sys.executable} {call}"
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("the process arm needs /proc, which is not mounted here\n")


def test_a_low_soft_limit_on_open_files_is_kept_for_the_ranks_and_stops_no_run() -> None:
    """The keeper, which has it too, takes in no more ranks at once than it has room for."""
    said = said_by(
        """
import resource
from sim.plan import Plan
from sim.process.supervisor import run
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
printed = []
plan = Plan(world_size=30, program=("sh", "-c", "ulimit -n"))
told = run(plan, on_output=lambda rank, stream, lines: printed.append(lines))
print(told.ok, set(printed), len(printed))
"""
    )
    assert said == "True {b'40\\n'} 30\n"


def test_a_low_soft_limit_on_open_files_does_not_keep_the_clients_of_a_program_from_its_store() -> None:
    """How many a rank has is its own affair; this process serves them all, with room only for its own files so far."""
    said = said_by(
        f"""
import resource, sys
from sim.plan import Plan
from sim.process.supervisor import run
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
client = '''
import os, sys
sys.path.append({str(ROOT)!r})
from rdzv import TCPStore
clients = [TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=10) for _ in range(80)]
for client in clients:
    if client.add("asked", 1) == 160:
        client.set("all are there", "")
clients[0].wait(["all are there"])
'''
result = run(Plan(world_size=2, program=(sys.executable, "-S", "-c", client), timeout_s=40))
print(result.ok, result.failure)
"""
    )
    assert said == "True \n"
