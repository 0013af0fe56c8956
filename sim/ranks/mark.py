"""What ``@pytest.mark.ranks`` says, as a value. Must not know pytest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.plan import TIMEOUT_S_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RANKS_MAX = 1000  # of one test


@dataclass(frozen=True, slots=True)
class Ranks:
    """The mark.

    Attributes:
        world_sizes: How many ranks; one test for each.
        timeout_s: When the test is ended, in seconds from the start of its ranks; ``None`` for the option's value.
        reuse: Whether the processes may be those of the test before, if that had as many ranks and passed.
    """

    world_sizes: tuple[int, ...]
    timeout_s: float | None
    reuse: bool

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Ranks:
        """The value of the mark's arguments.

        >>> Ranks.of([[2, 4]], {"timeout": 5})
        Ranks(world_sizes=(2, 4), timeout_s=5, reuse=False)

        Raises:
            ValueError: They make no sense; the message says which.
        """
        unknown = kwargs.keys() - {"world_size", "timeout", "reuse"}
        if len(args) + ("world_size" in kwargs) != 1 or unknown:
            raise ValueError(
                f"the mark is ranks(world_size, timeout=SECONDS, reuse=False), not ranks({_shown(args, kwargs)})"
            )
        given = args[0] if args else kwargs["world_size"]
        sizes = tuple(given) if isinstance(given, (list, tuple, range)) else (given,)
        if not sizes or any(type(size) is not int or not 1 <= size <= RANKS_MAX for size in sizes):
            raise ValueError(f"a test runs as 1 to {RANKS_MAX} ranks, or takes a list of such numbers, not {given!r}")
        timeout_s = kwargs.get("timeout")
        if timeout_s is not None and not (isinstance(timeout_s, (int, float)) and 0 < timeout_s <= TIMEOUT_S_MAX):
            raise ValueError(f"the timeout is more than 0 and at most {TIMEOUT_S_MAX} seconds, not {timeout_s!r}")
        reuse = kwargs.get("reuse", False)
        if type(reuse) is not bool:
            raise ValueError(f"reuse is True or False, not {reuse!r}")
        return cls(sizes, timeout_s, reuse)


def _shown(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    return ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
