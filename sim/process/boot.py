"""How a keeper's interpreter begins: what makes loading it, and each fork of it, cost less.

Knows what the modules that a keeper loads do when they are loaded. Must not know what a keeper does.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn


def main(channel_fd: str, lifeline: str) -> NoReturn:
    """Load the keeper, and be it. The arguments are those of `sim.process.keeper.main`."""
    prepare()
    gc.disable()  # it would look for garbage in what stays
    from sim.process import keeper

    gc.enable()
    keeper.main(channel_fd, lifeline)


def prepare() -> None:
    """What has to be done before anything is loaded."""
    # What modules want done in a child after a fork (threading, logging, our own store) mends what another thread of
    # the parent may have been at. A keeper has one thread, and each rank would pay for it: a tenth of all that it does.
    os.register_at_fork = _nothing
    sys.modules["inspect"] = _Later("inspect")


def _nothing(**_: object) -> None:
    pass


class _Later(ModuleType):
    """A module that is loaded when something of it is asked for.

    ``dataclasses`` imports ``inspect`` for classes without a docstring; to load it is a tenth of loading a keeper.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the machinery of imports, which only looks
            raise AttributeError(name)
        if sys.modules[self.__name__] is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)
