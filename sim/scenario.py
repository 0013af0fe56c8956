"""A scenario: who takes part, what each rank does, what goes wrong when, and what is to come of it. Frozen values.

It says nothing of how it is run: any arm can. `sim.scenario_file` reads and writes it as TOML, `sim.faults` has what
can go wrong, and when. A *rank* here is the number under which a process is started, from 0; the rank that a round
gives it may be another.

>>> scenario = Scenario(nodes=Nodes(3, 4), backend="c10d", faults=(Planned.parse("kill:2@round1.full"),))
>>> scenario.outcome_of(2), scenario.outcome_of(1)
('SIGKILL', 'ok')
"""

from __future__ import annotations

import re
import shlex
import signal
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from sim.faults import fault_named
from sim.faults.fault import Fault, OfRanks
from sim.faults.triggers import START, STEPS, AtStep, Trigger, parse_trigger
from sim.scenario_text import SECONDS_MAX, Ranks, ScenarioError, seconds, seconds_text, span, unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from typing_extensions import Self

BACKENDS = ("static", "c10d")
NODES_MAX = 100_000
TIMEOUT_S = 60.0
OK, ENDED, ANY = "ok", "ended", "any"
"""Outcomes: of a rank that has done all its steps; of one that still lived when the run was over; and, as a scenario
expects it: whatever a user of the library may be told, but no error that none is told of."""

JOINS = ("join", "rejoin", "launch")
"""The steps that go into another round."""

_EXIT = re.compile(r"(exit|signal) [0-9]{1,3}", re.ASCII)
_TIMED = ("compute", "launch")  # steps with a span of time


@dataclass(frozen=True, slots=True)
class Nodes:
    """How many take part.

    Attributes:
        min: The fewest of a round, 1 or more.
        max: The most.
        started: How many processes there are, ``min`` or more; 0 for as many as ``max``.
    """

    min: int
    max: int
    started: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max <= NODES_MAX:
            raise ScenarioError(f"1 <= min ({self.min}) <= max ({self.max}) <= {NODES_MAX} does not hold")
        if not self.started:
            object.__setattr__(self, "started", self.max)
        if not self.min <= self.started <= NODES_MAX:
            raise ScenarioError(f"{self.started} are fewer than a round needs, or more than {NODES_MAX}", key="started")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a rank does.

    Attributes:
        name: One of `sim.faults.triggers.STEPS`. ``join``: meet the others. ``barrier``: wait until all ranks that
            live and have as many barriers before them have come. ``write``: a value under the rank that the round
            gave. ``read``: what all members of the round wrote. ``leave``: who joins again is another node then.
            ``rejoin``: when the round should end, go into the next; a static world is left and met anew. ``launch``:
            until the run is over do what a launcher does: join, and again when that has failed or the round should end.
        seconds: For how long to ``compute``; for a launcher, how long it is between two looks.
        argv: The program to ``run``, with its arguments.
    """

    name: str
    seconds: float = 0.0
    argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in STEPS:
            raise unknown("step", self.name, STEPS)
        span(self.seconds)
        if bool(self.argv) != (self.name == "run") or (self.seconds and self.name not in _TIMED):
            raise ScenarioError(f"'{self}' is no step", hint="write compute 100ms, or run PROGRAM ARG...")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``join``, ``compute 50ms``, ``launch 100ms``, ``run sh -c 'exit 3'`` and so on.

        Raises:
            ScenarioError: It is no step; the nearest is named.
        """
        name, _, rest = text.strip().partition(" ")
        if name in _TIMED and rest.strip():
            return cls(name, seconds=seconds(rest.strip()))
        if name in _TIMED:
            raise ScenarioError(f"{name} needs a span of time", hint=f"write {name} 100ms")
        if not rest.strip():
            return cls(name)
        try:
            return cls(name, argv=tuple(shlex.split(rest)))
        except ValueError as error:
            if isinstance(error, ScenarioError):
                raise
            raise ScenarioError(f"{rest!r} is no command line: {error}") from None

    def __str__(self) -> str:
        if self.name in _TIMED:
            return f"{self.name} {seconds_text(self.seconds)}"
        return " ".join([self.name, *map(shlex.quote, self.argv)])


USUAL_STEPS = tuple(map(Step, ("join", "write", "read", "leave")))


@dataclass(frozen=True, slots=True)
class Script:
    """What some ranks do.

    Attributes:
        ranks: Which.
        steps: What, in order; 1 or more.
    """

    ranks: Ranks
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not self.steps:
            raise ScenarioError("a rank has something to do", hint='write ["join", "leave"]')


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault and its time.

    Attributes:
        fault: What goes wrong.
        at: When.
        lasts_s: After how many seconds it heals; ``None`` for never.
    """

    fault: Fault
    at: Trigger = START
    lasts_s: float | None = None

    def __post_init__(self) -> None:
        if self.lasts_s is not None and not self.fault.heals():
            problem = f"{self.fault.name} never heals: leave its span out"
            raise ScenarioError(problem, key="lasts", hint=f"write {self.fault.example}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the short form, ``FAULT:ARGUMENT...[@WHEN][~HOW LONG]``.

        Raises:
            ScenarioError: It is none; what is the matter is named.
        """
        rest, tilde, lasts = text.partition("~")
        what, at_sign, when = rest.partition("@")
        name, *arguments = what.split(":")
        fault = fault_named(name.strip()).parse(arguments)
        at = parse_trigger(when) if at_sign else START
        return cls(fault, at, seconds(lasts) if tilde else None)

    def __str__(self) -> str:
        when = "" if self.at == START else f"@{self.at}"
        return f"{self.fault}{when}" + ("" if self.lasts_s is None else f"~{seconds_text(self.lasts_s)}")


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is to come of a run; what is not said is not checked, but for the outcomes.

    Attributes:
        outcomes: How ranks end: ``ok``, the name of the error's class, a signal's name, ``exit 3``, ``ended`` if the
            run is over before the rank is, or `ANY`; for a rank that several name the narrowest counts. Those that are
            not named end as their faults have it, and ``ok`` without one.
        rounds: The sizes of the rounds that were met, in order; ``None`` for any.
        missing: Whom the errors of the others name as missing; ``None`` for whomever.
        within_s: By when all is over, in seconds from the start; ``None`` for the run's deadline.
        settled: Whether, once nothing has gone wrong for long enough, those who ``launch`` are together in one round,
            or spares; see `sim.check.settled`.
    """

    outcomes: tuple[tuple[Ranks, str], ...] = ()
    rounds: tuple[int, ...] | None = None
    missing: Ranks | None = None
    within_s: float | None = None
    settled: bool = False

    def __post_init__(self) -> None:
        for ranks, outcome in self.outcomes:
            _at(f'outcomes."{ranks}"', _require_outcome, outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole run, but for its chance: a seed is given to the run.

    Attributes:
        name: What it is called.
        about: What it shows, in a sentence.
        backend: One of `BACKENDS`; in a ``static`` world rank 0 hosts the store, for ``c10d`` the simulator does.
        nodes: How many take part; a ``static`` world has one size.
        options: The handler's, by name.
        scripts: What the ranks do; a rank that several name does what the narrowest says.
        faults: What goes wrong.
        expect: What is to come of it.
        timeout_s: When the run is ended, in seconds.

    Raises:
        ScenarioError: It contradicts itself; the key is named as the file has it.
    """

    nodes: Nodes
    name: str = "scenario"
    about: str = ""
    backend: str = "static"
    options: tuple[tuple[str, str | int | float | bool], ...] = ()
    scripts: tuple[Script, ...] = (Script(Ranks(), USUAL_STEPS),)
    faults: tuple[Planned, ...] = ()
    expect: Expectation = Expectation()
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS).within("backend")
        if self.backend == "static" and not self.nodes.min == self.nodes.max == self.nodes.started:
            raise ScenarioError("a static world has one size", key="nodes", hint="or set backend to c10d")
        if not 0 < self.timeout_s <= SECONDS_MAX:
            problem = f"the deadline is more than 0 s and at most {SECONDS_MAX} s, not {self.timeout_s:g} s"
            raise ScenarioError(problem, key="timeout")
        self._check_options()
        self._check_scripts()
        self._check_faults()
        self._check_expectation()

    @classmethod
    def of_rounds(cls, nodes: int, rounds: int, backend: str = "static") -> Self:
        """A world that meets so many times: what ranks do when nobody says it. An elastic one is not left meanwhile."""
        *together, leave = USUAL_STEPS
        between = (Step("barrier"),) if backend == "c10d" else (leave, Step("barrier"))
        steps = (*together, *(*between, *together) * (rounds - 1), leave)
        return cls(nodes=Nodes(nodes, nodes), backend=backend, scripts=(Script(Ranks(), steps),))

    def with_faults(self, texts: Sequence[str]) -> Self:
        """The same, with these as well, in their short form.

        Raises:
            ScenarioError: One is none; or is not for this scenario, and is named then as it was written.
        """
        whole = self
        for text in texts:
            planned = Planned.parse(text)
            try:
                whole = replace(whole, faults=(*whole.faults, planned))
            except ScenarioError as error:
                error.key = f"fault {text}"
                raise
        return whole

    @property
    def bound_s(self) -> float:
        """After how long without a sign of life a node of an elastic job is dead, in seconds."""
        options = dict(self.options)
        return float(options.get("keep_alive_interval", 5)) * float(options.get("keep_alive_max_attempt", 3))

    @property
    def look_s(self) -> float:
        """How long a launcher takes at most to see that its round should end, in seconds; 0 if nobody takes long."""
        return max((step.seconds for script in self.scripts for step in script.steps), default=0.0)

    def steps_of(self, rank: int) -> tuple[Step, ...]:
        """What a rank does."""
        naming = (script for script in self.scripts if rank in script.ranks)
        return min(naming, key=lambda script: script.ranks.count).steps

    def outcome_of(self, rank: int) -> str:
        """How a rank is to end."""
        if said := [(ranks.count, outcome) for ranks, outcome in self.expect.outcomes if rank in ranks]:
            return min(said)[1]
        subjects = (fault.fault for fault in self.faults if rank in fault.fault.subjects(self.nodes.started))
        return next((fault.outcome for fault in subjects if fault.outcome), OK)

    def _check_options(self) -> None:
        for name, _ in self.options:
            if name not in (known := _options_of(self.backend)):
                raise unknown(f"option of the backend {self.backend}", name, known).within(f"options.{name}")
        try:
            _parse_options(self.backend, self.nodes, dict(self.options))
        except (ValueError, TypeError) as error:
            raise ScenarioError(str(error), key="options") from None

    def _check_scripts(self) -> None:
        named = [script.ranks for script in self.scripts]
        _require_ranks("steps", named, self.nodes.started)
        busy = {rank for ranks in named for rank in ranks.among(self.nodes.started)}
        if idle := {*range(self.nodes.started)} - busy:
            raise ScenarioError(f"rank {min(idle)} has nothing to do", key="steps", hint='"*" is for all others')

    def _check_faults(self) -> None:
        self._check_once()
        for index, planned in enumerate(self.faults):
            fault, at, key = planned.fault, planned.at, f"faults[{index}]"
            _at(key, fault.require, self.nodes.started, at)
            if self.backend not in fault.backends:
                raise ScenarioError(f"{fault.name} is for the backend {fault.backends[0]}, not {self.backend}", key=key)
            if self.backend == "static" and self._strikes_host(fault):
                problem = "rank 0 of a static world hosts the store, so there is no way between the two"
                raise ScenarioError(problem, key=key, hint="leave it out, or set backend to c10d")
            if not isinstance(at, AtStep):
                continue
            ranks = fault.subjects(self.nodes.started) if at.rank is None else [at.rank]
            if not ranks:
                raise ScenarioError("it does not say whose step", key=f"{key}.at", hint=f"write 0.{at}")
            _at(f"{key}.at", Ranks.of(*ranks).require, self.nodes.started)
            for rank in ranks:
                if [step.name for step in self.steps_of(rank)].count(at.step) < at.count:
                    often = "" if at.count == 1 else f" {at.count} times"
                    raise ScenarioError(f"rank {rank} does not {at.step}{often}", key=f"{key}.at")

    def _check_once(self) -> None:
        """Refuse what a rank cannot have twice: it starts once, and has one clock and one resolver."""
        seen: set[tuple[str, int]] = set()
        for index, fault in enumerate(planned.fault for planned in self.faults):
            if fault.is_from_the_start or fault.strikes_before_start:
                struck = {(fault.name, rank) for rank in fault.subjects(self.nodes.started) or (0,)}
                if struck & seen:
                    raise ScenarioError(f"there is another {fault.name} for the same", key=f"faults[{index}]")
                seen |= struck

    def _strikes_host(self, fault: Fault) -> bool:
        is_of_all = isinstance(fault, OfRanks) and fault.ranks.numbers is None
        return fault.is_of_links and not is_of_all and 0 in fault.subjects(self.nodes.started)

    def _check_expectation(self) -> None:
        _require_ranks("expect.outcomes", [ranks for ranks, _ in self.expect.outcomes], self.nodes.started)
        if self.expect.missing:
            _at("expect.missing", self.expect.missing.require, self.nodes.started)
        if self.expect.settled and self.backend == "static":
            raise ScenarioError("settled is for the backend c10d, not static", key="expect.settled")


def _require_ranks(key: str, named: Sequence[Ranks], started: int) -> None:
    """Refuse who is not started, and who is named twice with as many others: neither goes before the other then."""
    seen: set[tuple[float, int | None]] = set()
    for ranks in named:
        _at(where := f'{key}."{ranks}"', ranks.require, started)
        for rank in ranks.numbers or (None,):
            if (ranks.count, rank) in seen:
                whom = "all are" if rank is None else f"rank {rank} is"
                raise ScenarioError(f"{whom} named twice", key=where, hint="of two, what is said of fewer ranks counts")
            seen.add((ranks.count, rank))


def _require_outcome(text: str) -> None:
    """Refuse what no rank's end is ever called. Any name with a capital may be that of an error's class."""
    known = (OK, ENDED, ANY, *signal.Signals.__members__)
    is_class = text.isidentifier() and not text.islower() and not text.startswith("SIG")
    if text not in known and not is_class and not _EXIT.fullmatch(text):
        raise unknown("outcome", text, known if text.startswith("SIG") else (OK, ENDED, ANY, "exit 1"))


@cache
def _options_of(backend: str) -> Collection[str]:
    """The names of a backend's options that are not the simulator's own, which hosts and reaches the store of c10d."""
    if backend == "static":
        from rdzv import static

        return static.OPTIONS
    from rdzv import elastic_options

    return elastic_options.OPTIONS


def _parse_options(backend: str, nodes: Nodes, options: dict[str, Any]) -> None:
    """Have the backend itself read what its handlers will be given; it names what it cannot take."""
    from rdzv import RendezvousParameters, elastic_options, static

    params = RendezvousParameters(backend, "127.0.0.1:1", "scenario", nodes.min, nodes.max, **{"rank": 0, **options})
    if backend == "static":
        static.create_rdzv_handler(params)
    else:
        elastic_options.RendezvousSettings.parse(params)
        elastic_options.ElasticOptions.parse(params)


def _at(key: str, check: object, *arguments: object) -> None:
    try:
        check(*arguments)  # type: ignore[operator]
    except ScenarioError as error:
        raise error.within(key) from None
