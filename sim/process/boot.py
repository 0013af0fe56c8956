"""How the processes of a run begin: what makes loading them, and each fork of a keeper, cost less.

Knows what the modules that they load do when they are loaded. Must not know what supervisor and keeper do.
"""

from __future__ import annotations

import gc
import os
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from sim.later import load_later, load_now

if TYPE_CHECKING:
    from collections.abc import Iterable

_BOTH_NEED = ("dataclasses", "datetime", "sim.process.channel", "sim.process.descendants", "sim.process.machine")
_FAILURES_NEED = ("tokenize", "linecache", "traceback")  # in the order in which they need each other
_PROGRAMS_NEED = ("fcntl", "resource")  # what each library maps, each fork of a keeper has to map anew


def spare() -> None:
    """Do without what click and `dataclasses` load for next to nothing, such as `inspect` and what that needs.

    Nor are click's messages looked for in catalogues of translations, of which there are none.
    """
    load_later("inspect", cleandoc=_cleandoc)
    load_later("platform", system=lambda: os.uname().sysname)
    load_later("gettext", gettext=lambda text: text, ngettext=lambda one, many, count: one if count == 1 else many)
    load_later("copy", *_FAILURES_NEED, *_PROGRAMS_NEED)


@cache
def load_what_failures_need() -> None:
    """Load what a rank that fails writes its traceback with, which many that fail at one time must not do each."""
    for name in _FAILURES_NEED:
        load_now(name)


@cache
def load_what_programs_need() -> None:
    """Load what a rank that becomes a program needs, which many must not do each."""
    for name in _PROGRAMS_NEED:
        load_now(name)


def load_what_both_need() -> None:
    """Load what supervisor and keeper need: a fork then has it. Nothing that wants to know of forks; see `prepare`."""
    for name in _BOTH_NEED:
        import_module(name)


def main(channel_fd: str, lifeline: str) -> NoReturn:
    """Load the keeper, and be it. The arguments are those of `sim.process.keeper.main`."""
    _close_all_but(int(channel_fd), int(lifeline))
    prepare()
    gc.disable()  # it would look for garbage in what stays
    from sim.process import keeper

    gc.freeze()
    gc.enable()
    keeper.main(channel_fd, lifeline)


def prepare() -> None:
    """What has to be done before a keeper is loaded."""
    # What modules want done in a child after a fork (threading, logging, our own store) mends what another thread of
    # the parent may have been at. A keeper has one thread, and each rank would pay for it: a tenth of all that it does.
    os.register_at_fork = _nothing
    spare()


def gaps(fds: Iterable[int], end: int) -> list[tuple[int, int]]:
    """What lies between these descriptors, from the standard streams on and below an end: for `os.closerange`.

    >>> gaps([7, 4, 5], 20)
    [(3, 4), (6, 7), (8, 20)]
    """
    ends = (*sorted(fds), end)
    firsts = (3, *(fd + 1 for fd in ends))
    return [gap for gap in zip(firsts, ends, strict=False) if gap[0] < gap[1]]


def _close_all_but(*fds: int) -> None:
    """Close what the supervisor has open, but for these and the standard streams."""
    for gap in gaps(fds, 1 + max(map(int, os.listdir("/proc/self/fd")))):  # noqa: PTH208 -- without pathlib
        os.closerange(*gap)


def _nothing(**_: object) -> None:
    pass


def _cleandoc(text: str) -> str:
    """As that of `inspect`, which a text of one line does not need."""
    if "\n" not in text:
        return text.expandtabs().lstrip()
    cleaned: str = load_now("inspect").cleandoc(text)
    return cleaned
