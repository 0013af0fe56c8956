"""Runs again what a token says, and draws it: lanes of ranks as in the other arm, and what passed between them.

Knows tokens, the virtual arm and the report. Must not know how a scenario was found.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sim.report.folder import Folder
from sim.search.judge import tried
from sim.virtual.run import run

if TYPE_CHECKING:
    from pathlib import Path

    from sim.search.judge import Trial
    from sim.search.token import Token


def replay(token: Token, directory: Path | None = None) -> Trial:
    """Run it, traced.

    Args:
        token: What to run.
        directory: Where to draw it; ``None`` for nowhere.

    Raises:
        OSError: The report cannot be written.
    """
    scenario = token.scenario
    if directory is None:
        return tried(run, scenario, token.seed, is_traced=True)
    with Folder(directory, scenario.nodes.started, f"rdzv-sim replay {token}", began_at=0.0) as folder:
        trial = tried(partial(run, on_event=folder.hear), scenario, token.seed, is_traced=True)
        if trial.result:
            folder.write(trial.result)
        return trial
