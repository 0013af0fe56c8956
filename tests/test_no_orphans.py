"""Whatever dies, nothing is left: ranks, their children, and the daemons that these become."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sim.process.channel import pair
from sim.process.messages import Exited, Failed, StartProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
GONE_S = 30.0  # about half a second is needed; a machine under load may take longer

# A rank with a child and a grandchild, and a daemon that has left the session and lost its parent. All are deaf to
# what can be ignored, and each prints its own number when it is ready.
FAMILY = """
import os, signal
for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
def stay():
    os.write(1, b"%d\\n" % os.getpid())
    while True:
        signal.pause()
if os.fork() == 0:
    if os.fork() == 0:
        stay()
    stay()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        stay()
    os._exit(0)
stay()
"""
FAMILY_SIZE, RANKS = 4, 3


class Run:
    """The command, running ranks with families; and all the processes it has brought about."""

    def __init__(self, stack: ExitStack, scratch: Path) -> None:
        argv = [sys.executable, "-m", "sim", "run", "-n", str(RANKS), "--", sys.executable, "-S", "-c", FAMILY]
        environ = {**os.environ, "TMPDIR": str(scratch)}
        self.scratch = scratch
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.command = subprocess.Popen(
            argv, cwd=ROOT, env=environ, start_new_session=True, **pipes
        )  # a group to signal
        stack.enter_context(self.command)
        stack.callback(self.command.kill)
        assert self.command.stdout
        lines = [self.command.stdout.readline() for _ in range(FAMILY_SIZE * RANKS)]
        pids = {int(line.split()[1]) for line in lines}
        assert len(pids) == FAMILY_SIZE * RANKS
        # The keeper is the parent of the daemons, and of the ranks; the parents of all others are among those printed.
        self.keeper = max(parents := [parent_of(pid) for pid in pids - {0}], key=parents.count)
        self.pidfds = {pid: os.pidfd_open(pid) for pid in {*pids, self.keeper}}
        for pidfd in self.pidfds.values():
            stack.callback(end, pidfd)

    def left_after(self, timeout_s: float) -> set[int]:
        """The processes that are still there when all are gone or the time has passed."""
        deadline_at = time.monotonic() + timeout_s
        left = dict(self.pidfds)
        while left and (left_s := deadline_at - time.monotonic()) > 0:
            gone = select.select(left.values(), [], [], left_s)[0]
            left = {pid: pidfd for pid, pidfd in left.items() if pidfd not in gone}
        return set(left)


def end(pidfd: int) -> None:
    """Should a test fail, it leaves nothing behind either."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as stack:
        yield Run(stack, tmp_path)


DEATHS: dict[str, tuple[Callable[[Run], None], int]] = {
    "killed": (lambda run: run.command.kill(), -signal.SIGKILL),
    "terminated": (lambda run: run.command.terminate(), 143),
    "interrupted": (lambda run: run.command.send_signal(signal.SIGINT), 130),
    "hung up": (lambda run: run.command.send_signal(signal.SIGHUP), -signal.SIGHUP),
    "its keeper killed": (lambda run: os.kill(run.keeper, signal.SIGKILL), 1),
    "its keeper terminated": (lambda run: os.kill(run.keeper, signal.SIGTERM), 1),
}


@pytest.mark.parametrize(("die", "status"), DEATHS.values(), ids=DEATHS)
def test_nothing_outlives_the_command(running: Run, die: Callable[[Run], None], status: int) -> None:
    """No rank, no child or grandchild of one, no daemon, no keeper, no temporary file."""
    if status == -signal.SIGHUP and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup, and so does the command")
    die(running)
    assert running.left_after(GONE_S) == set()
    assert running.command.wait(GONE_S) == status
    assert list(running.scratch.iterdir()) == []


def test_a_fork_of_the_supervisor_does_not_keep_its_ranks_alive() -> None:
    """It holds the supervisor's sockets open, so the keeper must watch the process itself."""
    code = (
        "import os, signal\n"
        "from sim.process.messages import Started\n"
        "from sim.plan import Plan\n"
        "from sim.process.supervisor import run\n"
        "def on_event(rank, message):\n"
        "    if isinstance(message, Started):\n"
        "        holder = os.fork()\n"
        "        if holder == 0: signal.pause()\n"
        "        os.write(1, b'%d %d\\n' % (message.pid, holder))\n"
        "run(Plan(world_size=1, program=('sleep', '60')), on_event)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        rank, holder = map(os.pidfd_open, map(int, supervisor.stdout.readline().split()))
        supervisor.kill()
        with ExitStack() as stack:
            stack.callback(end, holder)
            stack.callback(end, rank)
            assert select.select([rank], [], [], GONE_S)[0]
            assert not select.select([holder], [], [], 0)[0]


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the command", "to its group, as a terminal does"])
def test_an_impatient_second_interrupt_changes_nothing(running: Run, send: Callable[[int, int], None]) -> None:
    """Ctrl-C twice in a row ends the command sooner, and all the rest as surely."""
    send(running.command.pid, signal.SIGINT)
    send(running.command.pid, signal.SIGINT)
    assert running.left_after(GONE_S) == set()
    assert running.command.wait(GONE_S) == 130


def test_a_process_that_was_there_before_is_spared() -> None:
    """A shell may become the command while it has children of its own: those are not ours to end."""
    script = f"sleep 60 >/dev/null & echo $!; exec {sys.executable} -m sim run -n 1 -- true"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=True)
    os.kill(int(done.stdout), signal.SIGKILL)  # which fails if it is not there


DEAF = f"""
import signal, sys, threading
sys.path.append({str(ROOT)!r})
from sim.process import keeper
from sim.process.channel import Channel
kept = keeper.Keeper(Channel.of(int(sys.argv[1])), int(sys.argv[2]))
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, keeper._HANDLED)  # in this thread: from now on, the other one takes them
kept.serve()
"""


def test_a_keeper_hears_of_an_end_that_does_not_interrupt_its_wait() -> None:
    """As one does not that comes between the last look for signals and the wait: the run hung until its deadline."""
    lifeline, (channel, theirs), (rank, its_end) = os.pidfd_open(os.getpid()), pair(), pair()
    null = os.open(os.devnull, os.O_RDWR)
    keeper = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(theirs), str(lifeline)],
        pass_fds=(theirs, lifeline),
    )
    try:
        for fd in (theirs, lifeline):
            os.close(fd)
        channel.send(StartProgram(0, ("true",), ()), (its_end, null, os.dup(null)))
        assert select.select([channel], [], [], GONE_S)[0], "no word of the rank's end"
        assert isinstance(ended := channel.receive(), Exited)
        assert (ended.rank, ended.exit) == (0, 0)
        keeper.send_signal(signal.SIGTERM)
        assert select.select([channel], [], [], GONE_S)[0], "no word of the keeper's own"
        assert isinstance(channel.receive(), Failed)
        assert keeper.wait(GONE_S) == 0
    finally:
        channel.close()
        rank.close()
        keeper.kill()
        keeper.wait(GONE_S)
