"""The house: who may import whom, and how large anything may grow.

`LAYERS` is the table. A module imports from its own layer and from those below it. A new module needs a place in it;
think about where it belongs before you move a line.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

LAYERS = (  # from the ground up; a package stands for all that is in it
    {"rdzv.errors"},
    {"rdzv.endpoint", "rdzv.config", "rdzv.parameters"},
    {"rdzv.core"},
    {"rdzv.net", "rdzv.store"},
    {"rdzv.handler", "rdzv.utils", "rdzv.hosting", "rdzv.events", "rdzv.static_errors"}
    | {"rdzv.backend", "rdzv.driver", "rdzv.tending", "rdzv.bootstrap", "rdzv.elastic_errors", "rdzv.elastic_status"},
    {"rdzv.static", "rdzv.c10d", "rdzv.elastic", "rdzv.elastic_options"},
    {"rdzv.registry"},
    {"rdzv", "rdzv.cli", "rdzv.__main__", "rdzv.torch_plugin", "rdzv._pytest"},
    {"sim.virtual", "sim.check", "sim.screen", "sim.scenario_text", "sim.later"},  # what knows no run
    {"sim.faults"},
    {"sim.scenario", "sim.scenario_file", "sim.program_scenario", "sim.plan", "sim.process.messages"},
    {"sim.check.expected"},
    {"sim.direction"},
    {"sim.process"},
    {f"sim.virtual.{name}" for name in ("actor", "handlers", "job", "run", "stage")},
    {"sim.report", "sim.ranks"},
    {"sim.search"},
    {"sim.strategies", "sim.bench", "sim.telling"},
    {"sim", "sim.cli", "sim.__main__", "sim.pytest_plugin"},
)
CORE_MAY_USE = {"rdzv.errors", "rdzv.endpoint", "rdzv.parameters", "rdzv.core"}
CORE_IS_FREE_OF = {"socket", "selectors", "threading", "asyncio", "time", "random", "os", "logging"}
VIRTUAL_IS_FREE_OF = {"time", "datetime", "os", "secrets", "uuid", "threading", "asyncio", "socket", "subprocess"}
PICKLES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
PYTEST = {"rdzv._pytest", "sim.pytest_plugin"} | {
    f"sim.ranks.{name}" for name in ("verdict", "zygote", "member", "fixtures")
}
ONLY_IN = {
    "torch": {"rdzv.torch_plugin", "sim.bench.torch_store", "sim.bench.torch_join", "sim.bench.torch_spawn"},
    "simpy": {"sim.bench.virtual_messages"},
    **dict.fromkeys(("pytest", "_pytest"), PYTEST),
}

FILE_LINES_MAX = 400  # these two may only be lowered
FUNCTION_LINES_MAX = 50


class Import(NamedTuple):
    """One module that is imported, and the line that does it."""

    module: str
    line: int


def imports_of(tree: ast.AST) -> Iterator[Import]:
    """Every import that can run, in functions too; those for type checkers alone cannot."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for branch in node.orelse:
                yield from imports_of(ast.Module([branch], []))
        elif isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (Import(f"{start}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield from imports_of(node)


class Module:
    """One file of the house, read."""

    def __init__(self, path: Path) -> None:
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.path = path
        self.name = ".".join(parts).removesuffix(".__init__")
        self.text = path.read_text()
        self.tree = ast.parse(self.text)
        self.imports = [Import(module_named(found.module), found.line) for found in imports_of(self.tree)]

    def __repr__(self) -> str:
        return self.name


def module_named(dotted: str) -> str:
    """Of our own modules, the one that the name is in or is; of others, the name as it is."""
    if dotted.partition(".")[0] not in ("rdzv", "sim"):
        return dotted
    file = ROOT / dotted.replace(".", "/")
    return dotted if file.is_dir() or file.with_suffix(".py").is_file() else dotted.rpartition(".")[0]


def is_within(module: str, package: str) -> bool:
    """Whether the module is the package or part of it."""
    return f"{module}.".startswith(f"{package}.")


def layer_of(module: str) -> int | None:
    """The layer of the table's closest entry; ``rdzv`` and ``sim`` there are their faces alone, not all in them."""
    while module:
        for layer, entries in enumerate(LAYERS):
            if module in entries:
                return layer
        module = module.rpartition(".")[0]
        if module in ("rdzv", "sim"):
            return None
    return None


MODULES = [Module(path) for package in ("rdzv", "sim") for path in sorted((ROOT / package).rglob("*.py"))]
every_module = pytest.mark.parametrize("module", MODULES, ids=repr)


def test_the_reader_of_imports_sees_what_can_run() -> None:
    """Function-level imports count and those for type checkers do not; else all rules below would be hollow."""
    source = """
import os, rdzv.net
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
else:
    import marshal
def function():
    from rdzv import net
    from rdzv.net import get_free_port
try:
    import shelve
except ImportError:
    pass
"""
    modules = [module_named(found.module) for found in imports_of(ast.parse(source))]
    assert modules == ["os", "rdzv.net", "typing.TYPE_CHECKING", "marshal", "rdzv.net", "rdzv.net", "shelve"]


def test_the_table_puts_modules_in_their_layers() -> None:
    """The closest entry counts, and what the table does not have has no layer."""
    assert layer_of("rdzv.errors") == 0
    assert layer_of("rdzv.core.wire") == layer_of("rdzv.core") == 2
    assert layer_of("rdzv") == layer_of("rdzv.cli") == 7
    assert layer_of("sim.process.messages") < layer_of("sim.process.rank") == layer_of("sim.process")
    assert layer_of("sim") == layer_of("sim.cli") == len(LAYERS) - 1
    assert layer_of("rdzv.attic") is layer_of("sim.attic") is None


@every_module
def test_a_module_imports_from_its_own_layer_and_below(module: Module) -> None:
    """So rdzv never imports sim, and values know no sockets."""
    own = layer_of(module.name)
    assert own is not None, "this module has no place in LAYERS yet"
    # A relative import begins with a dot, so it is ours, and nowhere in the table: imports are absolute.
    ours = [found for found in module.imports if found.module.partition(".")[0] in ("rdzv", "sim", "")]
    layers = {found: layer_of(found.module) for found in ours}
    assert [found for found, layer in layers.items() if layer is None or layer > own] == []


@pytest.mark.parametrize("module", [module for module in MODULES if is_within(module.name, "rdzv.core")], ids=repr)
def test_the_core_touches_nothing_but_pure_values(module: Module) -> None:
    """Bytes, events and the time go in; replies and the next deadline come out."""
    for found in module.imports:
        assert found.module.partition(".")[0] not in CORE_IS_FREE_OF, found
        if is_within(found.module, "rdzv"):
            assert any(is_within(found.module, allowed) for allowed in CORE_MAY_USE), found


@pytest.mark.parametrize("module", [module for module in MODULES if is_within(module.name, "sim.virtual")], ids=repr)
def test_the_virtual_world_depends_on_its_seed_alone(module: Module) -> None:
    """No clock, no machine, no other thread; chance comes in by one door, and from a seed."""
    guests = {found.module.partition(".")[0] for found in module.imports}
    assert not guests & VIRTUAL_IS_FREE_OF
    assert "random" not in guests or module.name == "sim.virtual.streams"


@every_module
def test_heavy_guests_have_one_door_each(module: Module) -> None:
    """torch and pytest are imported by the one module that is loaded when they are there already."""
    for found in module.imports:
        guest = found.module.partition(".")[0]
        assert module.name in ONLY_IN.get(guest, {module.name}), found


@every_module
def test_nothing_is_pickled(module: Module) -> None:
    """Whoever can write to a store must not be able to run code."""
    assert [found for found in module.imports if found.module.partition(".")[0] in PICKLES] == []


@every_module
def test_a_module_opens_with_its_contract(module: Module) -> None:
    """What it knows, what it must not know, where to read next."""
    assert ast.get_docstring(module.tree)


@pytest.mark.parametrize("package", [module for module in MODULES if module.path.name == "__init__.py"], ids=repr)
def test_a_package_says_where_things_are(package: Module) -> None:
    """Whoever opens it finds every module in its map, by name, and so a new one gets its line there."""
    named = re.findall(r"\w+", ast.get_docstring(package.tree) or "")
    inside = {path.stem for path in package.path.parent.glob("*.py")}
    inside |= {path.parent.name for path in package.path.parent.glob("*/__init__.py")}
    assert inside - {"__init__", "__main__", *named} == set()


FILES = sorted({*(ROOT / "tests").rglob("*.py"), *(module.path for module in MODULES)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    """A ratchet: what grows beyond it is two things, and becomes two."""
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = [(function.name, (function.end_lineno or 0) - function.lineno + 1) for function in functions]
    assert [(name, size) for name, size in sizes if size > FUNCTION_LINES_MAX] == []
