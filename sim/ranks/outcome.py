"""What became of each rank of a test: frozen values, and the same in words. Must not know pytest's classes."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.check.invariants import exit_text, named, named_keys
from sim.process.stacks import readable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CRASH_LEAD_S = 0.1  # a death is seen by others, and they report that, before its own cause is known here
_OUTPUT_LINES, _OUTPUT_CHARS = 20, 8000  # the last ones, of a rank that says nothing by itself
_OUTPUT_MAX = 1 << 20  # bytes of each stream: a rank that prints until its deadline has written gigabytes
_SUMMARY_CHARS_MAX = 500  # of what a rank says that is not shown whole
_INDENT = "    "


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a rank.

    Attributes:
        rank: Which.
        reports: The reports of its phases, as pytest serialises them.
        warnings: What warnings it raised.
        crash: The traceback of what took it out of pytest's protocol; empty if nothing did.
        stop: Why it wants the whole session to stop (``pytest.exit``); empty if it does not.
        exit: Its exit status, negative for a signal; ``None`` if it lives on for the next test.
        done: Whether it has reported all there was.
        failed_at: When it failed, on the clock of `time.monotonic`; ``None`` if it did not.
        ended: Whether it had to be ended.
        stopped: Whether a signal had stopped it then, so that it has no stack.
        stack: Where it was then, as Python says.
        keys: What it waited for then.
        output: What it printed and no report has; of much the last megabyte.
    """

    rank: int
    reports: tuple[dict[str, Any], ...]
    warnings: tuple[dict[str, Any], ...]
    crash: str
    stop: str
    exit: int | None
    done: bool
    failed_at: float | None
    ended: bool
    stopped: bool
    stack: str
    keys: tuple[str, ...]
    output: str

    @property
    def died(self) -> bool:
        """Whether its process ended by itself before all was reported."""
        return not self.ended and not self.done

    @property
    def phase(self) -> str:
        """What it was in, or in last."""
        if not self.reports:
            return "setup"
        last = self.reports[-1]
        following = {"setup": "call", "call": "teardown", "teardown": "teardown"}
        return following[last["when"]] if last["outcome"] == "passed" else last["when"]

    @property
    def telling(self) -> dict[str, Any] | None:
        """Its first report that is no plain success."""
        return next((report for report in self.reports if kind_of(report) != "passed"), None)

    @property
    def kind(self) -> str:
        """How it came out, all in all: a report's kind, or ``hung``."""
        if self.crash or self.died:
            return "failed"
        if self.telling:
            return kind_of(self.telling)
        return "hung" if self.ended else "passed"

    @property
    def line(self) -> str:
        """What became of it, in a line."""
        keys = [key.removeprefix("ranks/") for key in self.keys]  # as their user wrote them: without the store's prefix
        waited = f", waiting for {named_keys(keys)}" if keys else ""
        stopped = ", stopped by a signal such as SIGSTOP" if self.stopped else ""
        if self.telling and not self.died:
            return f"{kind_of(self.telling)} in the {self.telling['when']}: {_summary(self.telling)}"
        if self.crash:
            return f"failed: {self.crash.strip().splitlines()[-1]}"
        if self.ended:
            return f"had to be ended in the {self.phase}{stopped}{waited}"
        if self.died:
            return f"ended in the {self.phase}: {exit_text(self.exit)}"
        return "passed"

    @property
    def details(self) -> str:
        """What became of it, and what it cannot say by itself: where it was."""
        parts = [self.line]
        if self.crash:
            parts.append(_indented(self.crash))
        if self.stack and (self.ended or self.died):
            parts.append(_indented(readable(self.stack)))
        return "\n".join(parts)

    @property
    def last_words(self) -> str:
        """The end of what it printed and no report has; empty if there is nothing."""
        lines = "\n".join(self.output[-_OUTPUT_CHARS:].splitlines()[-_OUTPUT_LINES:])
        return f"rank {self.rank} printed last:\n{_indented(lines)}" if lines else ""


def kind_of(report: Mapping[str, Any]) -> str:
    """How a phase came out: its report's outcome, or ``xfailed`` or ``xpassed``."""
    if "wasxfail" in report:
        return "xfailed" if report["outcome"] == "skipped" else "xpassed"
    said = report["longrepr"]  # a text there, and else a tree that may be large
    strictly = report["outcome"] == "failed" and isinstance(said, str) and said.startswith("[XPASS(strict)]")
    return "xpassed" if strictly else str(report["outcome"])


def read_outcome(directory: Path, rank: int, *, ended_at: float | None, **seen: Any) -> Outcome:
    """What a rank has left in its files, with what was seen of it from outside.

    What it told after it was to end says nothing of the test: the signal that asks for its stack may itself have woken
    a call into C out of its sleep.
    """
    entries: dict[str, list[Any]] = defaultdict(list)
    path = directory / f"rank{rank}.reports"
    for line in _text(path).splitlines():
        with contextlib.suppress(ValueError):  # the end of the process, or of the room for it, has cut it off
            ((kind, value),) = json.loads(line).items()
            entries[kind].append(value)
    reported = entries["report"]
    if seen["done"] and not entries["crash"] and not (reported and reported[-1]["when"] == "teardown"):
        entries["crash"].append(f"not all that it has reported is there: something has cut or removed {path}")
    return Outcome(
        rank=rank,
        reports=tuple(report for report in reported if ended_at is None or report["told_at"] <= ended_at),
        warnings=tuple(entries["warning"]),
        crash="".join(entries["crash"]),
        stop="".join(entries["stop"]),
        stack=_text(directory / f"rank{rank}.stack"),
        output="".join(_end_of_file(directory / f"rank{rank}.{stream}") for stream in ("out", "err")),
        ended=ended_at is not None,
        **seen,
    )


def blamed(outcome: Outcome) -> float:
    """When a rank failed, for putting the one first that the others only follow."""
    assert outcome.failed_at is not None
    return outcome.failed_at - _CRASH_LEAD_S * outcome.died


def folded(outcomes: list[Outcome], *, full: bool) -> str:
    """Some ranks in words; those of whom the same is to be said share a paragraph."""
    groups: dict[str, list[int]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.details if full else outcome.line].append(outcome.rank)
    parts = [f"{named('rank', ranks)}: {text}" for text, ranks in groups.items()]
    if full:
        parts += filter(None, (outcome.last_words for outcome in outcomes))
    return "\n".join(parts)


def printed(outcome: Outcome) -> str:
    """All that a rank has printed, and its stack if it was ended: what is worth keeping in a file."""
    parts = []
    sections: dict[str, str] = {}
    for report in outcome.reports:
        sections |= dict(report["sections"])
    for name, content in sections.items():
        parts.append(f"--- {name}\n{content}")
    if outcome.output:
        parts.append(f"--- printed after that\n{outcome.output}")
    parts.append(f"--- {outcome.details}\n")
    return "\n".join(parts)


def _summary(report: dict[str, Any]) -> str:
    longrepr = report["longrepr"]
    if isinstance(longrepr, dict):
        crash = longrepr.get("reprcrash") or {}
        return f"{crash.get('path', '?')}:{crash.get('lineno', '?')}: {_first_line(crash.get('message', ''))}"
    return _first_line(longrepr[2] if isinstance(longrepr, list) else longrepr)


def _first_line(text: object) -> str:
    line = str(text).partition("\n")[0]
    return line if len(line) <= _SUMMARY_CHARS_MAX else line[:_SUMMARY_CHARS_MAX] + "..."


def _indented(text: str) -> str:
    return "\n".join(_INDENT + line for line in text.splitlines())


def end_of(printed: str, left_out: int = 0) -> str:
    """What a rank has printed, or the end of it if that is much; so many characters are left out already."""
    left_out += max(0, len(printed) - _OUTPUT_MAX)
    return f"[{left_out} characters before this are left out]\n{printed[-_OUTPUT_MAX:]}" if left_out else printed


def _end_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            left_out = max(0, file.seek(0, os.SEEK_END) - _OUTPUT_MAX)
            file.seek(left_out)
            return end_of(file.read(_OUTPUT_MAX).decode("utf-8", "replace"), left_out)
    except FileNotFoundError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
