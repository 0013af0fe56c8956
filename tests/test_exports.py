"""The public face: every name loads, is documented, and costs nothing until it is asked for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

import rdzv

ROOT = Path(__file__).parents[1]


def typed_imports() -> set[tuple[str | None, str]]:
    """What type checkers are told: the modules and names of the imports under ``if TYPE_CHECKING``."""
    tree = ast.parse((ROOT / "rdzv/__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    found = [(node.module, alias) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname in (None, alias.name) for _, alias in found)
    return {(module, alias.name) for module, alias in found}


@pytest.mark.parametrize("name", rdzv.__all__)
def test_every_public_name_loads_and_is_documented(name: str) -> None:
    """A class or a function says itself what it does; other values are described where they are made."""
    value = getattr(rdzv, name)
    if issubclass(type(value), (type, FunctionType)):  # of an alias, isinstance tells what it stands for
        assert value.__name__ == name
        assert value.__doc__


def test_type_checkers_and_the_interpreter_agree_on_where_names_live() -> None:
    """The imports that type checkers read, and the table that loads names when asked, say the same."""
    assert typed_imports() == {(module, name) for module, names in rdzv._HOMES.items() for name in names}


def test_public_names_are_given_once() -> None:
    """And a shell can complete them."""
    assert len(set(rdzv.__all__)) == len(rdzv.__all__)
    assert set(rdzv.__all__) <= set(dir(rdzv))


def test_modules_are_reachable_and_strangers_are_not() -> None:
    """``rdzv.static`` needs no import of its own; what does not exist is an AttributeError, as ``hasattr`` expects."""
    assert rdzv.parameters is import_module("rdzv.parameters")
    assert not hasattr(rdzv, "no_such_name")


def test_importing_the_package_loads_the_standard_library_alone_and_little_of_that() -> None:
    """No slow module, no thread, no descriptor; in a fresh interpreter that sees nothing but rdzv."""
    program = """
import json, os, sys

def descriptors():
    return sorted(name for name in os.listdir("/dev/fd") if os.path.exists("/dev/fd/" + name))

sys.path.insert(0, sys.argv[1])
descriptors_before, modules_before = descriptors(), set(sys.modules)
import rdzv
import _thread
print(json.dumps({
    "modules": sorted(set(sys.modules) - modules_before),
    "threads": _thread._count(),
    "descriptors": descriptors() == descriptors_before,
}))
"""
    command = [sys.executable, "-I", "-S", "-c", program, str(ROOT)]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert "rdzv" in seen["modules"]
    assert {name.partition(".")[0] for name in seen["modules"]} <= {"rdzv", *sys.stdlib_module_names}
    assert not {"socket", "threading", "dataclasses", "importlib.metadata", "logging"}.intersection(seen["modules"])
    assert [name for name in seen["modules"] if name.startswith("rdzv.")] == []
    assert seen["threads"] == 0
    assert seen["descriptors"]
