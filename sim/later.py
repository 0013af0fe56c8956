"""Modules of the standard library that others import and hardly ever use: loaded when something of them is asked for.

For a process that is ours from the start, and whose start somebody waits for. Knows nothing of what runs there.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def load_later(*names: str, **shortcuts: object) -> None:
    """Have these modules loaded when something of them is asked for, if they are not loaded already.

    Args:
        names: The modules'.
        shortcuts: What can be had of them at once, by name.
    """
    for name in names:
        stand_in = sys.modules.setdefault(name, _Later(name))
        if isinstance(stand_in, _Later):
            vars(stand_in).update(shortcuts)


def load_now(name: str) -> ModuleType:
    """The module itself, and from now on it is the one that is imported."""
    if isinstance(sys.modules.get(name), _Later):
        del sys.modules[name]
    return import_module(name)


class _Later(ModuleType):
    """Stands for a module until then, also in what has imported it before."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the machinery of imports, which only looks
            raise AttributeError(name)
        return getattr(load_now(self.__name__), name)
