"""The console that people read: rich's, and without any styling if the environment has ``NO_COLOR``.

Needs rich. Must not know what is shown.
"""

from __future__ import annotations

import os

from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    # By itself, rich takes ``NO_COLOR`` at its word, and still prints bold and italic.
    return Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")
