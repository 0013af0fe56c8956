"""Who starts ranks in the bench of the process arm: ours, bare forks, mpiexec, and torch's handler in plain processes.

Each says what one run takes, and what memory its ranks have to themselves once all have met. Must not know how often
it is asked.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from rdzv.net import get_free_port
from sim.bench.machine import private_mb
from sim.check.history import Meeting
from sim.plan import Plan
from sim.process.messages import Started
from sim.process.supervisor import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.bench.spawn_results import Who
    from sim.process.messages import Message

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300.0
_COMMAND = "import sys; from sim.__main__ import main; sys.exit(main())"  # what the script that pip installs says
_SAMPLE = 64  # of the ranks of a larger world, so many are looked at


class Contender(Protocol):
    """Somebody who starts ranks.

    Attributes:
        who: Its name.
    """

    who: Who

    def wall_s(self, n: int) -> float:
        """What it takes from nothing until so many ranks have met and are gone, in seconds."""

    def private_mb(self, n: int) -> list[float]:
        """The private memory of its ranks when all have met, or of some of them, in millions of bytes."""


class Ours:
    """The command ``rdzv-sim``.

    Attributes:
        environ: What it is run with.
    """

    who: Who = "rdzv"

    def __init__(self, scratch: Path) -> None:
        """Have bytecode written for what it imports, as it is for what is installed."""
        self.environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environ["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")
        self.wall_s(1)

    def wall_s(self, n: int) -> float:
        """As `Contender.wall_s`."""
        words = ["run", "-n", str(n), "--rounds", "1", "--timeout", str(TIMEOUT_S), "--json"]
        return _timed([sys.executable, "-c", _COMMAND, *words], self.environ)

    def interpreter_s(self) -> float:
        """What an interpreter takes that does nothing, in seconds."""
        return _timed([sys.executable, "-c", "pass"], self.environ)

    def private_mb(self, n: int) -> list[float]:
        """As `Contender.private_mb`, without the one that hosts the store for the others.

        They are looked at when the last one has come to the barrier behind the round.
        """
        found: list[float] = []
        pids: dict[int, int] = {}
        met = 0

        def on_event(number: int | None, message: Message) -> None:
            nonlocal met
            if isinstance(message, Started):
                pids[number or 0] = message.pid
            elif isinstance(message, Meeting) and message.round == 1:
                met += 1
                if met == n:
                    found.extend(private_mb(pids[rank]) for rank in sorted(pids)[1:][-_SAMPLE:])  # rank 0 hosts

        result = run(Plan(world_size=n, rounds=2, timeout_s=TIMEOUT_S), on_event)
        if not result.ok:
            raise RuntimeError(f"{n} ranks did not meet: {result.failure or result.checks}")
        return found


class Forks:
    """Forks that do nothing but meet, and whoever forks them; see `sim.bench.forks`.

    Attributes:
        command: What Python is told, the words behind it apart.
    """

    command = "import sys; from sim.bench.forks import main; main(*sys.argv[1:])"

    def __init__(self, who: Literal["bare", "library"], ours: Ours) -> None:
        """By bare sockets, or by the library; in the same environment as ours."""
        self.who: Who = who
        self._environ = ours.environ

    def wall_s(self, n: int) -> float:
        """As `Contender.wall_s`."""
        return _timed([sys.executable, "-c", self.command, self.who, str(n)], self._environ)

    def private_mb(self, n: int) -> list[float]:
        """As `Contender.private_mb`."""
        argv = [sys.executable, "-c", self.command, self.who, str(n), "memory"]
        done = subprocess.run(argv, cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
        return [float(line) for line in done.stdout.split()]


class Mpiexec:
    """MPICH's launcher, and a program in C."""

    who: Who = "mpiexec"

    def __init__(self, scratch: Path) -> None:
        """Compile the program.

        Raises:
            CalledProcessError: It cannot be compiled.
        """
        self._program = scratch / "barrier"
        source = Path(__file__).with_name("spawn_barrier.c")
        subprocess.run(["mpicc", "-O2", "-o", self._program, source], check=True, timeout=60)

    def wall_s(self, n: int) -> float:
        """As `Contender.wall_s`."""
        return _timed(["mpiexec", "-n", str(n), str(self._program)], os.environ)

    def private_mb(self, n: int) -> list[float]:
        """As `Contender.private_mb`."""
        argv = ["mpiexec", "-n", str(n), str(self._program), "--memory"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
        return [1024 * int(line) / 1e6 for line in done.stdout.split()]


class Torch:
    """Interpreters that import torch, each by itself."""

    who: Who = "torch"

    def __init__(self) -> None:
        self._memory: dict[int, list[float]] = {}

    def wall_s(self, n: int) -> float:
        """As `Contender.wall_s`. Its ranks look at their memory, too: that is nothing beside the seconds they take."""
        started_at = time.perf_counter()
        self._memory[n] = [json.loads(said) for said in self._run(n)]
        return time.perf_counter() - started_at

    def private_mb(self, n: int) -> list[float]:
        """As `Contender.private_mb`, of the last run that was timed."""
        return self._memory[n]

    def _run(self, n: int) -> list[bytes]:
        """What the ranks print."""
        boot = "import sys; sys.path[:] = sys.argv[1].split(':'); from sim.bench.torch_spawn import main; main()"
        port = str(get_free_port())
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", boot, ":".join(sys.path), str(rank), str(n), port],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(n)
        ]
        try:
            said = [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        if any(rank.returncode for rank in ranks):
            raise RuntimeError(f"{n} ranks of torch did not meet: {[rank.returncode for rank in ranks]}")
        return said


def _timed(argv: Sequence[str], environ: dict[str, str] | os._Environ[str]) -> float:
    """How long a command takes that must end well, in seconds.

    Its end is awaited: `subprocess` would look for it now and then, in the end each 50 ms.
    """
    started_at = time.perf_counter()
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            has_ended = select.select([pidfd], [], [], TIMEOUT_S)[0]
            took_s = time.perf_counter() - started_at
        finally:
            os.close(pidfd)
        if not has_ended:
            process.kill()
            raise subprocess.TimeoutExpired(argv, TIMEOUT_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return took_s
