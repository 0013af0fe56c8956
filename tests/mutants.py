"""Mutation testing with the search alone as the test: each mutant of the protocol and the store core must be found.

A script, no test: ``python tests/mutants.py`` takes a fixed sample of all mutants, lets `sim.search` look for a failure
of each, for a minute of processor time at most, as ``rdzv-sim search`` does, and prints a table. A mutant is one small
change of one module, made in memory as the module is imported, in a process of its own; the tree is never touched. A
mutant's name says what it changes::

    decide.Pulse.is_silent: self.silent_s >= bound -> self.silent_s > bound

Words for people are left alone, since the search judges what nodes are given, not what they are told; so are the
defaults of fields, which all callers give, and of two times that are compared it is never asked whether they are equal,
which they are not. Nor is it asked what nothing can answer: whether a limit of bytes is larger by one, which column a
request's cost goes to, and what becomes of texts that no node writes, which are for the tests of garbage. Of the
survivors each has its reason in `SURVIVORS`; one that has none fails the script.
"""

# ruff: noqa: T201 -- a script prints

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.machinery
import importlib.util
import json
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

ROOT = Path(__file__).parents[1]
MODULES = ("decide", "documents", "join", "lead", "lobby", "tend", "sweep", "persist", "server", "keyspace")
SAMPLE = 176  # of all mutants; which, only their names say
WITHIN_S = 60.0
MEMORY_BYTES_MAX = 2 << 30  # what never ends may take more and more
LEFT_ALONE = {"difference", "__str__", "__repr__", "brief", "listed", "lacking", "waiting", "_require"}
"""Functions whose result is read by people alone, or that judge what no node writes."""

SURVIVORS: dict[str, str] = json.loads((ROOT / "tests" / "cases" / "surviving_mutants.json").read_text("utf-8"))
"""Why the search cannot find a mutant, by its name: it is equivalent, or a hole that is known."""


# What a mutant is

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_TURNED = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt}
_SUMS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult}
_OPPOSITES = {"min": "max", "max": "min"}
_OF_GARBAGE = re.compile(r"no node|\{self\.\w+!r\}")  # an error that says so
_LIMITS = re.compile(r"^[A-Z_]*(BYTES|CHARS|TICKETS)")  # constants


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        module: The module, without its package.
        name: What is changed where, unlike that of any other mutant.
        tree: The module as it is.
        old: The part of it that is replaced.
        new: What by.
    """

    module: str
    name: str
    tree: ast.Module
    old: ast.AST
    new: ast.AST

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def path(self) -> Path:
        """The module's file."""
        return ROOT / "rdzv" / "core" / f"{self.module}.py"

    def compile(self) -> CodeType:
        """The module with the change. Only once: the tree is changed in place."""
        replaced = _Replacement(self.old, self.new).visit(self.tree)
        return compile(ast.fix_missing_locations(replaced), self.path, "exec")


class _Replacement(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def mutants_of(module: str) -> Iterator[Mutant]:
    """All mutants of a module, in the order of its text."""
    tree = ast.parse((ROOT / "rdzv" / "core" / f"{module}.py").read_text("utf-8"))
    names: dict[str, int] = {}
    for function, node in _code(tree, module):
        for old, new in _variants(node):
            name = f"{function}: {_brief(old)} -> {_brief(new)}"
            names[name] = count = names.get(name, 0) + 1
            yield Mutant(module, name if count == 1 else f"{name} ({count})", tree, old, new)


def _code(node: ast.AST, where: str) -> Iterator[tuple[str, ast.AST]]:
    """What runs, and the function it is in: no annotations, no texts for people, nothing for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            if child.name not in LEFT_ALONE:
                for part in child.body:
                    yield from _code(ast.Module([part], []), f"{where}.{child.name}")
        elif isinstance(child, ast.AnnAssign):
            if child.value and not isinstance(child.target, ast.Name):
                yield where, child.value
                yield from _code(child.value, where)
        elif not _is_left_alone(child):
            yield where, child
            if not isinstance(child, ast.Raise):  # else the rest is words
                yield from _code(child, where)


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.If(test):
            return ast.unparse(test) == "TYPE_CHECKING"
        case ast.IfExp(_, body):
            return isinstance(body, ast.JoinedStr)
        case ast.Raise():
            return bool(_OF_GARBAGE.search(ast.unparse(node)))
        case ast.keyword(name):
            return name in ("beat", "strict")
        case ast.Assign([ast.Name(name)]):
            return bool(_LIMITS.search(name))
    return isinstance(node, ast.JoinedStr | ast.arguments)


def _variants(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """What a part of a module can be changed to: the part or one in it, and the other."""
    yield from _variants_of_flow(node)
    match node:
        case ast.Compare(left, [operator], right):
            others = _TURNED if _is_of_times(node) else _COMPARISONS
            yield node, ast.Compare(left, [others[type(operator)]()], right)
        case ast.BoolOp(operator, parts):
            yield node, ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), parts)
        case ast.UnaryOp(ast.Not(), operand):
            yield node, operand
        case ast.Constant(bool() as value):
            yield node, ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield node, ast.Constant(value + 1)
        case ast.BinOp(left, operator, right) if type(operator) in _SUMS and not _is_text(left, right):
            yield node, ast.BinOp(left, _SUMS[type(operator)](), right)
        case ast.Call(ast.Name(("min" | "max") as name), arguments, keywords):
            yield node, ast.Call(ast.Name(_OPPOSITES[name], ast.Load()), arguments, keywords)


def _variants_of_flow(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Statements left out, branches taken the other way."""
    match node:
        case ast.If(test) | ast.While(test) | ast.IfExp(test) if not _has_opposite(test):
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Expr(value) if not isinstance(value, ast.Constant):
            yield node, ast.Pass()
        case ast.AugAssign() | ast.Delete() | ast.Raise():
            yield node, ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()
        case ast.Assign([ast.Tuple([ast.Name("_"), *_])], ast.Yield() | ast.YieldFrom()):
            yield node, ast.Pass()
        case ast.Continue():
            yield node, ast.Break()
        case ast.Break():
            yield node, ast.Continue()


def _has_opposite(test: ast.expr) -> bool:
    """Whether another change has made it its opposite already."""
    match test:
        case ast.UnaryOp() | ast.Constant() | ast.Compare(_, [ast.Eq() | ast.NotEq() | ast.Is() | ast.IsNot()], _):
            return True
        case ast.Compare(_, [ast.In() | ast.NotIn()], _):
            return True
    return _is_of_times(test)


def _is_of_times(node: ast.AST) -> bool:
    """Whether it compares times, which are never equal: there is nothing between less, and less or equal."""
    match node:
        case ast.Compare(_, [ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE()], _):
            return bool(re.search(r"\bnow\b|_at\b|_s\b|_since\b", ast.unparse(node)))
    return False


def _is_text(*operands: ast.expr) -> bool:
    return any(isinstance(part, ast.Constant | ast.JoinedStr) and not _is_number(part) for part in operands)


def _is_number(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) and isinstance(part.value, int | float)


def _brief(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


# In a process of its own: one mutant, and the search


def install(mutant: Mutant) -> None:
    """Let the mutant be what is imported as its module."""
    full_name, code = f"rdzv.core.{mutant.module}", mutant.compile()
    sys.path.insert(0, str(ROOT))

    class Loader(importlib.machinery.SourceFileLoader):
        def get_code(self, fullname: str) -> object:
            return code

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            if name != full_name:
                return None
            file = str(mutant.path)
            return importlib.util.spec_from_file_location(name, file, loader=Loader(name, file))

    sys.meta_path.insert(0, Finder)


def search(within_s: float) -> tuple[str, int]:
    """What the search finds first, empty if nothing, and after how many schedules."""
    from sim.search.explore import Search, look

    ends_at, seed = time.process_time() + within_s, 0
    while time.process_time() < ends_at:
        for _, finding in look(Search(seeds=1), range(seed, seed + 1)).findings:
            return f"{finding.cause}: {finding.detail}", seed + 1
        seed += 1
    return "", seed


def try_one(name: str, within_s: float) -> dict[str, object]:
    """Whether the search finds a mutant. Ends this process's use of the library: it is another one by then."""
    mutant = next(mutant for mutant in mutants_of(name.partition(".")[0].partition(":")[0]) if mutant.name == name)
    install(mutant)
    began_at = time.process_time()
    try:
        what, schedules = search(within_s)
    except Exception as error:  # noqa: BLE001 -- it cannot even be imported, or the search fails over it
        what, schedules = f"{type(error).__name__}: {error}", 0
    return {"name": name, "by": what[:300], "schedules": schedules, "seconds": round(time.process_time() - began_at, 2)}


# All of them


def sample() -> list[Mutant]:
    """The mutants that are tried, in the order of the text."""
    mutants = [mutant for module in MODULES for mutant in mutants_of(module)]
    chosen = {mutant.name for mutant in sorted(mutants, key=lambda mutant: mutant.digest)[:SAMPLE]}
    return [mutant for mutant in mutants if mutant.name in chosen]


def try_in_process(name: str, within_s: float) -> dict[str, object]:
    """The same in a process of its own; one that never ends was found, too."""
    command = [sys.executable, __file__, "--try", name, "--within", str(within_s)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -signal.SIGXCPU:
        return {"name": name, "by": "it never ends", "schedules": 0, "seconds": _limit_s(within_s)}
    done.check_returncode()
    return json.loads(done.stdout)


def _limit_s(within_s: float) -> int:
    """After how much processor time a search has not come to an end."""
    return int(2 * within_s + 10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--within", type=float, default=WITHIN_S, help="seconds of search for each")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these mutants in place of the sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    parser.add_argument("--try", dest="name", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.name:
        resource.setrlimit(resource.RLIMIT_CPU, (_limit_s(options.within), resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
        print(json.dumps(try_one(options.name, options.within)))
        return 0
    names = options.only or [mutant.name for mutant in sample()]
    results = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda name: try_in_process(name, options.within), names):
            results.append(result)
            seconds, name, by = result["seconds"], str(result["name"]), str(result["by"]) or "SURVIVED"
            print(f"{seconds:6.1f} s  {result['schedules']:>5}  {name:<100.100}  {by:.60}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    return summarize(results)


def summarize(results: list[dict[str, object]]) -> int:
    """Print what came of all; how many survivors have no reason."""
    survivors = [str(result["name"]) for result in results if not result["by"]]
    killed = len(results) - len(survivors)
    print(f"{killed} of {len(results)} found, {killed / len(results):.1%}")
    unexplained = [name for name in survivors if name not in SURVIVORS]
    for name in survivors:
        print(f"survived: {name}\n    {SURVIVORS.get(name, 'NO REASON IS KNOWN')}")
    return len(unexplained)


if __name__ == "__main__":
    sys.exit(main())
