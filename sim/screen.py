"""The console that people read: rich's, and without any styling if the environment has ``NO_COLOR``.

What is no terminal has no width, unless ``COLUMNS`` says one.

Needs rich. Must not know what is shown.
"""

from __future__ import annotations

import os

from rich.console import Console

_UNBOUNDED = 1 << 20


def console(*, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    # By itself, rich takes ``NO_COLOR`` at its word, and still prints bold and italic.
    made = Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")
    if not (made.is_terminal or os.environ.get("COLUMNS")):
        made.width = _UNBOUNDED  # what reads lines there, such as tail, is to have whole ones
    return made
