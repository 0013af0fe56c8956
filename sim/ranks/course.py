"""A test that runs in ranks: what is heard of it, what is seen of each rank, and how it can fail to be run.

Must not know where the messages come from: that is `sim.ranks.home`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sim.process.messages import Exited, Failed, Message
from sim.ranks.messages import Debugging, RankDone, Reported, TestFinished, TestStarted
from sim.ranks.outcome import Outcome, read_outcome

if TYPE_CHECKING:
    from pathlib import Path

READY_TIMEOUT_S = 300.0  # for imports, and for fixtures that are wider than a function
GRACE_S = 0.5  # after the first rank has failed, how long the others have to end by themselves


class RanksError(Exception):
    """The ranks of a test could not be run; the message says why."""


class RefusedError(RanksError):
    """The process that forks the ranks could not do so for this test, and is well."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C came while the ranks of a test ran; `where` says where they were.

    Its own message is as empty as that of any: pytest shows it on one line.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where


@dataclass(slots=True)
class Seen:
    """What is seen of a rank while it runs."""

    pid: int = 0
    exit: int | None = None
    done: bool = False
    ended_at: float | None = None
    stopped: bool = False
    failed_at: float | None = None
    keys: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it had to be ended."""
        return self.ended_at is not None

    def outcome(self, directory: Path, rank: int) -> Outcome:
        """That, with what the rank has left in its files."""
        return read_outcome(
            directory,
            rank,
            exit=self.exit,
            done=self.done,
            failed_at=self.failed_at,
            ended_at=self.ended_at,
            stopped=self.stopped,
            keys=self.keys,
        )


@dataclass(slots=True)
class Test:
    """A test that runs."""

    reuse: bool = False
    end_at: float = field(default_factory=lambda: time.monotonic() + READY_TIMEOUT_S)
    ranks: dict[int, Seen] = field(default_factory=dict)
    started: bool = False
    debugging: int | None = None
    finished: TestFinished | None = None

    @property
    def living(self) -> dict[int, Seen]:
        """The ranks that have something left to do."""
        return {rank: seen for rank, seen in self.ranks.items() if seen.exit is None and not (seen.done and self.reuse)}

    @property
    def clean(self) -> bool:
        """Whether every rank has come through by itself, and well."""
        return all(seen.failed_at is None and not seen.ended for seen in self.ranks.values())

    @property
    def left_s(self) -> float | None:
        """How long to wait for news, in seconds; ``None`` if somebody debugs a rank."""
        return None if self.debugging is not None else max(0.0, self.end_at - time.monotonic())

    def outcomes(self, directory: Path) -> tuple[Outcome, ...]:
        """What became of the ranks, by number."""
        return tuple(seen.outcome(directory, rank) for rank, seen in sorted(self.ranks.items()))

    def take(self, message: Message) -> None:
        """Take in what a rank or the zygote says.

        Raises:
            RanksError: It is that the ranks could not be run.
        """
        if isinstance(message, TestStarted):
            self.started = True
            for rank, pid in enumerate(message.pids):
                self._seen(rank).pid = pid
        elif isinstance(message, Reported):
            if message.kind in ("failed", "xfailed"):
                self._failed(self._seen(message.rank), message.at)
        elif isinstance(message, RankDone):
            self._seen(message.rank).done = True
            self._debugged(message.rank)
        elif isinstance(message, Exited):
            seen = self._seen(message.rank)
            seen.exit = message.exit
            if not seen.done:
                self._failed(seen, message.at)
            self._debugged(message.rank)
        elif isinstance(message, Debugging):
            self.debugging = message.rank
        elif isinstance(message, TestFinished):
            self.finished = message
        elif isinstance(message, Failed):
            raise RefusedError(message.text)

    def _debugged(self, rank: int) -> None:
        """If somebody was looking at the rank, he has finished; so must the others."""
        if self.debugging == rank:
            self.debugging = None
            self.end_at = time.monotonic() + GRACE_S

    def _seen(self, rank: int) -> Seen:
        return self.ranks.setdefault(rank, Seen())

    def _failed(self, seen: Seen, at: float) -> None:
        if seen.failed_at is None and not seen.ended:
            seen.failed_at = at
            self.end_at = min(self.end_at, time.monotonic() + GRACE_S)
