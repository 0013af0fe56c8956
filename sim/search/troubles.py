"""How each kind of fault is drawn: its arguments, as its short form has them, when it may strike, and whether it heals.

A fault that is not in `TROUBLES` is never drawn; a test sees to it that all are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from sim.search.draw import Chance

Arguments: TypeAlias = "Callable[[Chance, int, int], list[str]]"  # what, a rank that it is about, how many there are


class Trouble(NamedTuple):
    """One kind.

    Attributes:
        arguments: Draws them.
        when: ``any``, ``start`` if it is there from the start, ``own step`` if it strikes at a step of its own rank,
            ``time`` if it must not wait for what may never come.
        heals: Whether it does; one that does not is over at once, or nothing to get over.
        spares_launchers: Whether it is not for those who must be together in the end: it never is over, or makes the
            store say what it did not, such as another ticket.
    """

    arguments: Arguments
    when: str = "any"
    heals: bool = False
    spares_launchers: bool = False


def _one(chance: Chance, rank: int, size: int) -> list[str]:
    del chance, size
    return [str(rank)]


def _none(chance: Chance, rank: int, size: int) -> list[str]:
    del chance, rank, size
    return []


def _with(*choices: str) -> Arguments:
    return lambda chance, rank, _: [str(rank), chance.pick(choices)]


def _one_or_all(chance: Chance, rank: int) -> str:
    return str(rank) if chance.chance(0.5) else "*"


def _delay(chance: Chance, rank: int, size: int) -> list[str]:
    del size
    by, jitter = chance.pick((("20ms", "20ms"), ("0ms", "200ms"), ("200ms", "0ms"), ("1s", "500ms")))
    return [_one_or_all(chance, rank), by, jitter]


def _bandwidth(chance: Chance, rank: int, size: int) -> list[str]:
    del size
    return [_one_or_all(chance, rank), chance.pick(("64kB", "4kB", "500B"))]


def _groups(chance: Chance, rank: int, size: int) -> list[str]:
    """Some are cut off, the rank among them."""
    far = sorted({rank, *(other for other in range(size) if chance.chance(0.3))})
    near = [other for other in range(size) if other not in far] or [far.pop(0)]
    return [f"{','.join(map(str, near))}{chance.pick('|<>')}{','.join(map(str, far))}"]


TROUBLES = {
    "kill": Trouble(_one),
    "stop": Trouble(_one, heals=True),
    "late": Trouble(_one, when="time"),
    "slow": Trouble(_with("20ms", "300ms", "2s")),
    "crash": Trouble(_one, when="own step"),
    "clock": Trouble(_with("20ms", "-2s", "120min", "-120min"), when="start"),
    "delay": Trouble(_delay, heals=True),
    "bandwidth": Trouble(_bandwidth, heals=True),
    "partition": Trouble(_groups, heals=True),
    "half-open": Trouble(_one, heals=True),
    "lose": Trouble(_one),
    "refuse": Trouble(_one, heals=True),
    "truncate": Trouble(_with("up", "down")),
    "garbage": Trouble(_with("down", "up"), spares_launchers=True),
    "steal": Trouble(_none, when="start", heals=True),
    "name-late": Trouble(_with("20ms", "500ms", "2s"), when="start"),
    "name-wrong": Trouble(_one, when="start", spares_launchers=True),
    "kill-store": Trouble(_none, heals=True),
}
