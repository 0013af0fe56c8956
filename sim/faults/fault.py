"""What a fault is: a small value that does something to a run, and undoes it.

A fault knows a `Stage`, which is what a run lets be done to it, and not which arm that is. Its short form is its name
and its arguments, with colons between: ``kill:2``. In a scenario's file the arguments have their names. Those that
there are, are in `sim.faults`.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

from sim.faults.triggers import START
from sim.scenario_text import Ranks, ScenarioError, seconds, seconds_text, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from sim.faults.triggers import Trigger


class Stage(Protocol):
    """What can be done to a run. Ranks are the numbers under which they are started."""

    def begin_late(self, rank: int) -> None:
        """Start a rank that was kept back."""

    def kill(self, rank: int) -> None:
        """End a rank at once; it does not learn of it."""

    def pause(self, rank: int) -> None:
        """Let a rank stand still."""

    def resume(self, rank: int) -> None:
        """Let it run on."""

    def crash(self, rank: int) -> None:
        """Let a rank fail in the step that it is about to begin."""

    def hold_up(self, rank: int, for_s: float) -> None:
        """Let a rank wait for so many seconds more before its next step."""

    def steal_port(self) -> None:
        """Keep the store's port from its host."""

    def return_port(self) -> None:
        """Let go of it."""

    def kill_store(self) -> None:
        """End the process that hosts the store."""

    def restart_store(self) -> None:
        """Serve an empty one at the same port."""

    def name_store(self, rank: int, *, late_s: float, is_wrong: bool) -> None:
        """Give a rank a name for the store's host, which its resolver knows so late, or wrongly."""

    def shift_clock(self, rank: int, by_s: float) -> None:
        """Let a rank's clocks show so many seconds more, or less."""

    def isolate(self, rank: int, *, is_held: bool) -> None:
        """Note that a rank is cut off from the others, or that this is over."""

    def link(self, rank: int) -> Link:
        """A rank's way to the store."""


class Link(Protocol):
    """A rank's way to the store, with a flow ``up`` to it, and one ``down`` from it. See `sim.process.relay.Relay`."""

    struck: list[Fault]
    delay_s: float
    jitter_s: float
    bytes_per_s: float
    cut: set[str]
    is_mute: bool
    spoil: dict[str, str]

    def change(self) -> None:
        """See to what the attributes say now."""

    def refuse(self) -> None:
        """Refuse new connections."""

    def admit(self) -> None:
        """Let the rank connect again."""

    def lose(self, count: int | None = None) -> None:
        """Reset the oldest connections, so many; all if no number is given."""


RANKS = {"read": Ranks.parse, "write": str}  # of a field: how its text is read and written
SPAN = {"read": seconds, "write": seconds_text}


class Fault:
    """What all faults have in common.

    Attributes:
        name: What it is called.
        example: A short form of it.
        outcome: How the ranks that it is about end because of it; empty where they need not end.
        is_from_the_start: Whether it cannot come later; nor twice.
        strikes_before_start: Whether its ranks are kept back until then; nobody can be twice.
        backends: Where it can strike.
        is_of_links: Whether it is about the ranks' ways to the store.
        not_for_programs: Why it cannot strike ranks that are programs; empty if it can.
    """

    __slots__ = ()
    name: ClassVar[str]
    example: ClassVar[str]
    outcome: ClassVar[str] = ""
    is_from_the_start: ClassVar[bool] = False
    strikes_before_start: ClassVar[bool] = False
    backends: ClassVar[tuple[str, ...]] = ("static", "c10d")
    is_of_links: ClassVar[bool] = False
    not_for_programs: ClassVar[str] = ""

    def apply(self, stage: Stage) -> None:
        """Strike."""
        raise NotImplementedError

    def heal(self, stage: Stage) -> None:
        """Undo it, where it can be undone."""

    @classmethod
    def heals(cls) -> bool:
        """Whether there is something to undo."""
        return cls.heal is not Fault.heal

    def require(self, world_size: int, at: Trigger) -> None:
        """Refuse what cannot be carried out.

        Raises:
            ScenarioError: It names a rank that there is not, or cannot strike then.
        """
        del world_size
        if self.is_from_the_start and at != START:
            problem = f"{self.name} is there from the start or not at all"
            raise ScenarioError(problem, key="at", hint=f"write {self.example}")

    def each(self, world_size: int) -> Sequence[Fault]:
        """What is to be applied: the same fault for each rank that it is about; itself if it is about none."""
        del world_size
        return [self]

    def subjects(self, world_size: int) -> Sequence[int]:
        """The ranks that it is about."""
        del world_size
        return ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Read the arguments, in order; those at the end that have a default may be left out.

        Raises:
            ScenarioError: There are too many, too few, or one is malformed.
        """
        names = cls.arguments()
        if len(texts) > len(names):
            taken = f"{', '.join(names)}, and nothing behind that" if names else "no arguments"
            problem = f"{cls.name} takes {taken}"
            raise ScenarioError(problem, hint=f"write {cls.example}")
        return cls.of(dict(zip(names, texts, strict=False)))

    @classmethod
    def of(cls, texts: dict[str, str]) -> Self:
        """Read the arguments, by name.

        Raises:
            ScenarioError: One is unknown, missing or malformed.
        """
        known = {argument.name: argument for argument in fields(cls)}  # type: ignore[arg-type]
        values = {}
        for name, text in texts.items():
            if name not in known:
                raise unknown(f"argument of {cls.name}", name, known)
            try:
                values[name] = known[name].metadata["read"](text)
            except ScenarioError as error:
                raise error.within(name) from None
        for name, argument in known.items():
            if name not in values and argument.default is MISSING:
                raise ScenarioError(f"{cls.name} needs {name!r}", hint=f"write {cls.example}")
        return cls(**values)

    @classmethod
    def arguments(cls) -> list[str]:
        """The names of its arguments, in order."""
        return [argument.name for argument in fields(cls)]  # type: ignore[arg-type]

    def texts(self) -> dict[str, str]:
        """Its arguments by name, as `of` reads them."""
        return {
            argument.name: argument.metadata["write"](getattr(self, argument.name))
            for argument in fields(self)  # type: ignore[arg-type]
        }

    def __str__(self) -> str:
        arguments = list(zip(fields(self), self.texts().values(), strict=True))  # type: ignore[arg-type]
        while arguments and getattr(self, arguments[-1][0].name) == arguments[-1][0].default:
            arguments.pop()
        return ":".join([self.name, *(text for _, text in arguments)])


@dataclass(frozen=True, slots=True)
class OfRanks(Fault):
    """A fault that is about some ranks, each by itself.

    Attributes:
        ranks: Which.
    """

    ranks: Ranks = field(metadata=RANKS)

    def strike(self, stage: Stage, rank: int) -> None:
        """What `apply` does to one of them."""
        raise NotImplementedError

    def mend(self, stage: Stage, rank: int) -> None:
        """What `heal` does for one of them."""

    def apply(self, stage: Stage) -> None:
        """As `Fault.apply`."""
        for rank in self.ranks.numbers or ():
            self.strike(stage, rank)

    def heal(self, stage: Stage) -> None:
        """As `Fault.heal`."""
        for rank in self.ranks.numbers or ():
            self.mend(stage, rank)

    @classmethod
    def heals(cls) -> bool:
        """As `Fault.heals`."""
        return cls.mend is not OfRanks.mend

    def require(self, world_size: int, at: Trigger) -> None:
        """As `Fault.require`."""
        try:
            self.ranks.require(world_size)
        except ScenarioError as error:
            raise error.within("ranks") from None
        Fault.require(self, world_size, at)

    def each(self, world_size: int) -> Sequence[Fault]:
        """One for each rank."""
        return [replace(self, ranks=Ranks.of(rank)) for rank in self.subjects(world_size)]

    def subjects(self, world_size: int) -> Sequence[int]:
        """Its ranks."""
        return self.ranks.among(world_size)
