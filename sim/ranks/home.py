"""pytest's side: starts the keeper and through it the zygote, has it run one test at a time, and ends what hangs.

The caller's thread is the loop, and every wait has a deadline. The test's store is served here, by a thread that lives
as long as the test: outside of the ranks, so that it can say what a rank waits for that cannot say it itself.

Whatever goes wrong here costs the zygote: the keeper ends it and all that is below it, and the next test has a new one.
Knows the messages and the keeper's door. Must not know pytest.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdzv.store import StoreServer
from sim.check.invariants import exit_text
from sim.process import door, stacks
from sim.process.channel import pair
from sim.process.machine import require_linux, require_loopback
from sim.process.messages import Exited, Failed, Message, NotStarted, Started, StartProgram
from sim.process.work import HOST
from sim.ranks.course import READY_TIMEOUT_S, Interrupted, RanksError, RefusedError, Test
from sim.ranks.messages import (
    EndRanks,
    EndSession,
    FinishTest,
    RunTest,
)
from sim.ranks.outcome import Outcome, folded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

END_TIMEOUT_S = 10.0
_STACK = "stack"  # the file for that of the process that forks the ranks

# Numeric libraries start their threads when they are imported, unless told not to; a fork must find none.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# pytest comes first, so that it can prepare our modules before they are imported. 4 is what this process reads from.
_BOOT = """
import json, os, sys
with open(sys.argv[1], encoding="utf-8") as file:
    boot = json.load(file)
os.dup2(4, 0)
os.close(4)
sys.path[:], sys.argv[:] = boot["path"], boot["argv"]
os.chdir(boot["directory"])
from _pytest.config import _prepareconfig
config = _prepareconfig(boot["args"])
from sim.ranks.zygote import main
main(config, boot)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a test.

    Attributes:
        outcomes: One for each rank, by number.
        error: The traceback of the tear-down of what is wider than a function; empty if that went well.
        ready_s: How long it took until the ranks ran, in seconds.
        ran_s: How long until they had ended.
    """

    outcomes: tuple[Outcome, ...]
    error: str
    ready_s: float
    ran_s: float


class Home:
    """A keeper, a zygote, and the door to both."""

    def __init__(self, boot: Mapping[str, Any], stdin_fd: int) -> None:
        """Start them.

        Args:
            boot: What the zygote is told: the command line of this process's pytest, and so on.
            stdin_fd: What the ranks read from; it is duplicated.

        Raises:
            CannotRunError: This is no Linux, or its loopback is down.
            RanksError: The machine refuses it.
        """
        require_linux()
        self._count = self._pid = 0
        with contextlib.ExitStack() as undo, _refusals_named("the ranks' keeper"):
            require_loopback(HOST)
            self._start(boot, stdin_fd, undo)
            undo.pop_all()

    def _start(self, boot: Mapping[str, Any], stdin_fd: int, undo: contextlib.ExitStack) -> None:
        """Make all that `close` ends, and say how each is undone if what comes after it is refused."""
        self._selector = undo.enter_context(selectors.DefaultSelector())
        self._scratch = Path(tempfile.mkdtemp(prefix="rdzv-ranks-"))
        written = self._scratch / "boot.json"
        for remove in (self._scratch.rmdir, written.unlink):  # and not `shutil.rmtree`, which needs descriptors
            undo.callback(_tried, remove)
        written.write_text(json.dumps({**boot, "stack": str(self._scratch / _STACK)}), "utf-8")
        self._process, self._keeper = door.start(str(self._scratch))
        undo.callback(door.see_off, self._process, END_TIMEOUT_S)
        undo.callback(self._keeper.close)
        with contextlib.ExitStack() as unsent:
            self._channel, theirs = pair()
            undo.callback(self._channel.close)
            unsent.callback(os.close, theirs)
            self._status, status = pair()
            undo.callback(self._status.close)
            unsent.callback(os.close, status)
            copies: list[int] = []
            for fd in (1, 2, stdin_fd):
                copies.append(os.dup(fd))
                unsent.callback(os.close, copies[-1])
            unsent.pop_all()
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 -- as multiprocessing
        argv = (sys.executable, *flags, "-c", _BOOT, str(written))
        environ = tuple((name, "1") for name in _ONE_THREAD if name not in os.environ)
        out, err, stdin = copies
        self._keeper.send(StartProgram(0, argv, environ), (status, out, err, theirs, stdin))
        for channel in (self._channel, self._keeper):
            self._selector.register(channel, selectors.EVENT_READ, channel)

    def run(self, node_id: str, path: str, world_size: int, timeout_s: float, *, reuse: bool, keep: int) -> Result:
        """Run a test.

        Args:
            node_id: The test's, as pytest names it.
            path: Its file.
            world_size: In how many ranks.
            timeout_s: When they are ended, in seconds from their start.
            reuse: Whether they may be those of the last test.
            keep: How many nodes, from the session down, the next test shares with this one.

        Returns:
            What became of it.

        Raises:
            RanksError: The ranks could not be run.
        """
        self._count += 1
        directory = self._scratch / f"{self._count}"
        test = Test(reuse)
        began_at = time.monotonic()
        with _refusals_named("what the ranks need"):
            directory.mkdir(parents=True)
            server = StoreServer(HOST)
        with server:
            self._send(RunTest(node_id, path, world_size, server.port, timeout_s, reuse, str(directory)))
            self._await_start(test)
            started_at = time.monotonic()
            test.end_at = min(test.end_at, started_at + timeout_s)
            self._watch(test, server, directory)
        ended_at = time.monotonic()
        test.end_at = ended_at + READY_TIMEOUT_S
        self._send(FinishTest(keep, not (reuse and test.clean)))
        while test.finished is None:
            self._turn(test, f"what is wider than a function was not torn down after {READY_TIMEOUT_S:g} s")
        outcomes = test.outcomes(directory)
        shutil.rmtree(directory, ignore_errors=True)
        return Result(outcomes, test.finished.error, started_at - began_at, ended_at - started_at)

    def finish(self) -> str:
        """Have everything torn down, and end all processes; the traceback if the tear-down failed."""
        test = Test()
        try:
            self._process.resume()  # or its end would be waited for in vain
            with contextlib.suppress(RanksError):
                self._send(EndSession())
                while test.finished is None:
                    self._turn(test, "too late")
                test.end_at = time.monotonic() + END_TIMEOUT_S
                while True:  # until it has ended, which is an error anywhere else
                    self._turn(test, "too late")
        finally:
            self.close()
        return test.finished.error if test.finished else ""

    def close(self) -> None:
        """End all processes at once."""
        for channel in (self._keeper, self._channel, self._status):
            channel.close()
        self._selector.close()
        door.see_off(self._process, END_TIMEOUT_S)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _await_start(self, test: Test) -> None:
        """See what is wider than a function set up, and the ranks forked.

        Raises:
            RanksError: That failed, or took too long, also by somebody else's time limit; with where it was.
            Interrupted: Ctrl-C, likewise.
        """
        try:
            while not test.started:
                self._turn(test, f"the ranks were not ready after {READY_TIMEOUT_S:g} s")
        except (SystemExit, RefusedError):
            raise
        except BaseException as error:
            where = self._where()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(where) from None
            raise RanksError(f"{error}\n\n{where}".rstrip()) from error

    def _where(self) -> str:
        """Where the process is that forks the ranks, in words; empty if it cannot say."""
        with contextlib.suppress(OSError):
            if self._zygote_pid():
                stacks.ask_for([self._pid])
                stack = stacks.readable((self._scratch / _STACK).read_text("utf-8", "replace"))
                return f"the process that forks the ranks was not ready for that\n{stack}"
        return ""

    def _zygote_pid(self) -> int:
        """Its process id; 0 if it has not even begun."""
        with contextlib.suppress(OSError):
            if isinstance(started := self._status.receive(), Started):
                self._pid = started.pid
        return self._pid

    def _watch(self, test: Test, server: StoreServer, directory: Path) -> None:
        """See the ranks of a test through until they have ended, or have to be.

        Raises:
            RanksError: Somebody else's time limit, which raises an error of its own here; with where the ranks were.
            Interrupted: Ctrl-C, likewise.
        """
        try:
            while test.living and test.left_s != 0:
                self._turn(test)
            if test.living:
                self._end(test, server)
        except (SystemExit, RanksError):
            raise
        except BaseException as error:
            try:
                self._end(test, server)
                where = folded(list(test.outcomes(directory)), full=True)
            except RanksError as late:
                where = str(late)
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(where) from None
            raise RanksError(f"{error}\n\n{where}") from error

    def _end(self, test: Test, server: StoreServer) -> None:
        """See what each rank that is left is at, and end it."""
        lacking = server.lacking()
        awaited = stacks.keys_awaited({rank: seen.pid for rank, seen in test.living.items()}, lacking)
        for rank, seen in test.living.items():
            seen.ended_at, seen.stopped = time.monotonic(), stacks.is_stopped(seen.pid)
            seen.keys = tuple(awaited.get(rank, ()))
        if pid := self._zygote_pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # a rank may have stopped its parent
        self._send(EndRanks())
        test.end_at = time.monotonic() + END_TIMEOUT_S
        while any(seen.exit is None for seen in test.ranks.values() if seen.ended):
            self._turn(test, f"ranks could not be killed within {END_TIMEOUT_S:g} s")

    def _send(self, message: Message) -> None:
        try:
            self._channel.send(message)
        except ConnectionError:
            raise RanksError(self._lost()) from None

    def _turn(self, test: Test, too_late: str = "") -> None:
        """Wait for news until the test's next moment, and take them in."""
        ready = self._selector.select(test.left_s)
        if not ready and too_late and test.left_s == 0:
            raise RanksError(too_late)
        for key, _ in ready:
            message = key.data.receive()
            if key.data is self._keeper or message is None:
                raise RanksError(self._lost(message))
            test.take(message)

    def _lost(self, message: Message | None = None) -> str:
        if message is None:  # the keeper knows more, and may be about to say it
            with contextlib.suppress(BlockingIOError), selectors.DefaultSelector() as selector:
                selector.register(self._keeper, selectors.EVENT_READ)
                selector.select(END_TIMEOUT_S)
                message = self._keeper.receive()
        how = "its keeper is gone too"
        if isinstance(message, Exited):
            how = exit_text(message.exit)
        elif isinstance(message, NotStarted):
            how = message.reason
        elif isinstance(message, Failed):
            how = message.text
        return f"the process that forks the ranks was lost ({how}); what it said is on the standard error"


@contextlib.contextmanager
def _refusals_named(what: str) -> Iterator[None]:
    """Name what the machine refuses here.

    Raises:
        RanksError: It refuses something.
    """
    try:
        yield
    except OSError as error:
        raise RanksError(f"the machine refuses {what}: {error.strerror or error}") from error


def _tried(remove: Callable[[], None]) -> None:
    """Remove what somebody else may have removed."""
    with contextlib.suppress(OSError):
        remove()
