"""The small texts of a scenario: spans of time, sets of ranks, and errors that say where and what else to write.

Knows no scenario; `sim.scenario` is made of these, `sim.faults` takes them as arguments.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from typing_extensions import Self

_SPAN = re.compile(r"([0-9.]+(?:e-?[0-9]+)?)(us|ms|s|min)", re.ASCII)
_UNITS = {"us": (1, 1_000_000), "ms": (1, 1000), "s": (1, 1), "min": (60, 1)}
SECONDS_MAX = 1_000_000


class ScenarioError(ValueError):
    """A scenario is not what it must be.

    Attributes:
        problem: What is wrong.
        key: Where, such as ``faults[1].at``; empty where no key is to blame.
        file: In which file; empty for a scenario that was built in Python.
        hint: What to write instead; may be empty.
    """

    def __init__(self, problem: str, *, key: str = "", file: str = "", hint: str = "") -> None:
        super().__init__(problem)
        self.problem, self.key, self.file, self.hint = problem, key, file, hint

    def __str__(self) -> str:
        where = "".join(f"{part}: " for part in (self.file, self.key) if part)
        return f"{where}{self.problem}" + (f" ({self.hint})" if self.hint else "")

    def within(self, key: str) -> Self:
        """The same error, a level further out; a list's place is joined without a dot."""
        dot = "." if self.key and not self.key.startswith("[") else ""
        self.key = f"{key}{dot}{self.key}"
        return self


def unknown(noun: str, word: str, known: Collection[str]) -> ScenarioError:
    """The error for a name that nobody knows, with the nearest one that is known.

    >>> str(unknown("step", "jion", ["join", "leave"]))
    "there is no step 'jion' (did you mean join?)"
    """
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return ScenarioError(f"there is no {noun} {word!r}", hint=hint)


def is_span(text: str) -> bool:
    """Whether a text looks like a span of time, with a unit."""
    return _SPAN.fullmatch(text) is not None


def seconds(text: str) -> float:
    """A span of time in seconds.

    >>> seconds("50ms"), seconds("1.5s"), seconds("2min")
    (0.05, 1.5, 120.0)

    Raises:
        ScenarioError: It is none, or longer than `SECONDS_MAX`.
    """
    match = _SPAN.fullmatch(text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or math.isnan(number):
        raise ScenarioError(f"{text!r} is no span of time", hint="write 250us, 50ms, 1.5s or 2min")
    times, parts = _UNITS[match[2]]
    return span(number * times / parts)


def span(value: float) -> float:
    """A span of time in seconds, if it is one.

    Raises:
        ScenarioError: It is negative, or longer than `SECONDS_MAX`.
    """
    if not 0 <= value <= SECONDS_MAX:
        raise ScenarioError(f"a span of time is from 0 to {SECONDS_MAX} s, not {value:g} s")
    return float(value)


def seconds_text(value: float) -> str:
    """What `seconds` reads the very same number from.

    >>> seconds_text(0.05), seconds_text(2), seconds_text(0.1234567)
    ('50ms', '2s', '0.1234567s')
    """
    milliseconds = round(value * 1000)
    if 0 < value < 1 and milliseconds / 1000 == value:
        return f"{milliseconds}ms"
    return f"{value!r}s" if value != int(value) else f"{int(value)}s"


@dataclass(frozen=True, slots=True)
class Ranks:
    """Some of a run's ranks, or all, by the numbers under which they are started.

    Attributes:
        numbers: Which, in ascending order; ``None`` for all of them.
    """

    numbers: tuple[int, ...] | None = None

    @classmethod
    def of(cls, *numbers: int) -> Self:
        """These ranks."""
        return cls(tuple(sorted(set(numbers))))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``*``, ``2``, ``0,3`` or ``0-3,7``.

        Raises:
            ScenarioError: It is none of these.
        """
        if text.strip() == "*":
            return cls()
        numbers: set[int] = set()
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not (_is_number(first) and (_is_number(last) or not dash)):
                raise ScenarioError(f"{text!r} names no ranks", hint="write 2, or 0,3, or 0-3, or * for all")
            if (start := int(first)) > (end := int(last or first)):
                raise ScenarioError(f"the ranks {part.strip()!r} run backwards", hint=f"write {end}-{start}")
            numbers.update(range(start, end + 1))
        return cls.of(*numbers)

    def __str__(self) -> str:
        if self.numbers is None:
            return "*"
        runs = [[n for _, n in run] for _, run in groupby(enumerate(self.numbers), lambda pair: pair[1] - pair[0])]
        return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)

    def __contains__(self, rank: int) -> bool:
        return self.numbers is None or rank in self.numbers

    @property
    def count(self) -> float:
        """How many there are; infinitely many if all."""
        return math.inf if self.numbers is None else len(self.numbers)

    def among(self, world_size: int) -> tuple[int, ...]:
        """Which numbers that are."""
        return tuple(range(world_size)) if self.numbers is None else self.numbers

    def require(self, world_size: int) -> None:
        """Refuse a rank that is not started.

        Raises:
            ScenarioError: There is one.
        """
        require_ranks(self.among(world_size), world_size)


def require_ranks(numbers: Iterable[int], world_size: int) -> None:
    """Refuse a rank that is not started.

    Raises:
        ScenarioError: There is one.
    """
    for number in numbers:
        if not 0 <= number < world_size:
            raise ScenarioError(f"there is no rank {number}: those that are started are 0 to {world_size - 1}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6
