"""Runs every example in the README and in docstrings as a test, and gives property tests the time that they need.

Python blocks run as they stand, and what follows ``>>>`` must print what stands below it. In ``console`` blocks each
line after ``$`` runs in a shell and must succeed; what it prints differs from run to run, so it is not compared.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from sybil import Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

if TYPE_CHECKING:
    from sybil import Example
    from xdist.scheduler import LoadScopeScheduling

HOME = Path(__file__).parent

# On a busy machine a single example may take any time; what hangs is ended by pytest's own time-out.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def run_console(example: Example) -> str | None:
    for command in re.findall(r"^\$ (.+)$", example.parsed, re.MULTILINE):
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run(  # noqa: S602 -- the README's own lines
            command,
            shell=True,
            cwd=example.namespace["directory"],
            env={"PATH": path, "PYTHONPATH": str(HOME)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if done.returncode:
            return f"{command}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return None


def set_up(namespace: dict[str, object]) -> None:
    """Each file's examples share a directory, in which the README's own files lie."""
    import tempfile

    holder = tempfile.TemporaryDirectory()
    namespace["holder"], namespace["directory"] = holder, holder.name
    readme = (HOME / "README.md").read_text("utf-8")
    for name, text in re.findall(r"```(?:python|toml)\n# (\w+\.\w+)\n(.*?)```", readme, re.DOTALL):
        Path(holder.name, name).write_text(text, "utf-8")


def tear_down(namespace: dict[str, object]) -> None:
    namespace["holder"].cleanup()  # type: ignore[attr-defined]


class ReadmePython(PythonCodeBlockParser):
    """Python blocks, but for those that are a file of their own (``# name.py`` first), which the console runs."""

    def __call__(self, document):
        for region in super().__call__(document):
            if not re.match(r"# \w+\.py\n", str(region.parsed)):
                yield region


def pytest_configure() -> None:
    """Hear Ctrl-C even where a shell has started this in the background: tests send it to processes of theirs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Keep the examples of a file on one worker: a later one may use what an earlier one has defined."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith("tests/") else nodeid.partition("::")[0]

    return Scheduler(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the examples of a file in their order, whoever shuffles tests: a later one may use what an earlier has."""
    examples: dict[Path, list[SybilItem]] = {}
    for item in items:
        if isinstance(item, SybilItem):
            examples.setdefault(item.path, []).append(item)
    in_order = {path: iter(sorted(found, key=lambda item: item.example.start)) for path, found in examples.items()}
    items[:] = [next(in_order[item.path]) if isinstance(item, SybilItem) else item for item in items]


pytest_collect_file = SybilCollection(
    [
        Sybil(
            [ReadmePython(), CodeBlockParser("console", run_console)],
            pattern="README.md",
            setup=set_up,
            teardown=tear_down,
        ),
        Sybil([DocTestParser()], pattern="*.py", path=str(HOME / "rdzv")),
        Sybil([DocTestParser()], pattern="*.py", path=str(HOME / "sim")),
    ]
).pytest()
