"""The layers of the architecture: imports go downwards only, without cycles, and some words have one home.

Imports inside functions count as those at the top of a module do. Imports under ``if TYPE_CHECKING`` must go downwards
too, but may take types from any library, since they cost nothing at run time.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "hpcmpi"

Name = tuple[str, ...]


class Unit(NamedTuple):
    """A module or sub-package of hpcmpi: its level, and libraries that it may import at once, or inside functions."""

    level: int
    libraries: frozenset[str] = frozenset()
    lazy: frozenset[str] = frozenset()


def unit(level: int, libraries: str = "", lazy: str = "") -> Unit:
    return Unit(level, frozenset(libraries.split()), frozenset(lazy.split()))


HEAVY = "mpi4py numpy h5py numba threadpoolctl rich"
UNITS = {
    "__init__": unit(0),
    "record": unit(0),
    "errors": unit(0),
    "launch": unit(0),
    "mpi_library": unit(0),
    "pmi": unit(0),
    "partition": unit(0),
    "processes": unit(0),
    "leftovers": unit(0),
    "machine": unit(0),
    "dtypes": unit(0, "numpy"),
    "arrays": unit(1, "numpy"),
    "comm": unit(1, "numpy mpi4py"),
    "threads": unit(1, lazy="threadpoolctl numba"),
    "blas": unit(1, "numpy", lazy="threadpoolctl"),
    "generator": unit(1, "numpy"),
    "jit": unit(1, "numba llvmlite"),
    "simd": unit(1, "numba llvmlite"),
    "simd_lanes": unit(1, "numba llvmlite"),
    "store": unit(2, "numpy mpi4py h5py", lazy="hdf5plugin zstandard"),
    "algorithms": unit(3, "numpy mpi4py numba"),
    "runner": unit(4, HEAVY),
    "batch": unit(5),
    "commands": unit(6, "click", lazy=HEAVY),
    "cli": unit(6, "click"),
    "__main__": unit(6),
}
SPECS = ("__init__", "cost")  # modules of an algorithm that are read without NumPy and MPI
SAME_LEVEL = {
    ("cli", "commands"),
    ("__main__", "cli"),
    ("jit", "threads"),
}  # beside level 0, and algorithms among themselves
COMM_WORLD = {"runner", "commands"}
COMPUTED = "a computed name"
FOR_KERNELS = frozenset({"jit", "simd", "simd_lanes"})
BY_NAME = {"__init__", "cli", "runner", "batch", "commands"}  # may import modules whose names they compute
COUNTS = re.compile(
    r"I?(neighbor_)?((all)?gather|scatter|alltoall)[vw](_init)?|I?reduce_scatter(_init)?", re.IGNORECASE
)


class Import(NamedTuple):
    """Something imported: a module's dotted name and, of ``from module import name``, the name."""

    module: str
    name: str | None
    line: int
    lazy: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """A source file by its name below hpcmpi, such as ``("store", "writer")`` or ``("store", "__init__")``.

    ``words`` are the identifiers, imported names and strings that could name one for ``getattr``, and their lines;
    ``public`` is the value of ``PUBLIC``.
    """

    name: Name
    imports: tuple[Import, ...]
    words: tuple[tuple[str, int], ...]
    public: dict[str, str]

    @property
    def unit(self) -> str:
        return self.name[0]

    @property
    def algorithm(self) -> str | None:
        return self.name[1] if self.unit == "algorithms" and len(self.name) > 2 else None

    @property
    def is_spec(self) -> bool:
        """Whether only the standard library and level 0 may be imported here."""
        return UNITS[self.unit].level == 0 or (self.unit == "algorithms" and self.name[-1] in SPECS)


def read(root: Path) -> dict[Name, Module]:
    paths = {path.relative_to(root / PACKAGE).with_suffix("").parts: path for path in (root / PACKAGE).rglob("*.py")}
    return {name: examine(name, path.read_text(encoding="utf-8")) for name, path in sorted(paths.items())}


@cache
def examine(name: Name, text: str) -> Module:
    tree = ast.parse(text, "/".join(name))
    return Module(name, tuple(imports(name, tree)), tuple(words(tree)), declared_public(tree))


def imports(place: Name, tree: ast.Module) -> Iterator[Import]:
    """Every import of a module, wherever it stands; also those by ``import_module`` and ``__import__``."""

    def walk(node: ast.AST, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
        match node:
            case ast.Import():
                yield from (Import(alias.name, None, node.lineno, lazy, typing_only) for alias in node.names)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    above = place[: len(place) - node.level]
                    base = ".".join([PACKAGE, *above, *([base] if base else [])])
                yield from (Import(base, alias.name, node.lineno, lazy, typing_only) for alias in node.names)
            case ast.Call(args=[name, *_]) if called(node) in ("import_module", "__import__"):
                literal = name.value if isinstance(name, ast.Constant) else COMPUTED
                yield Import(literal, None, node.lineno, lazy, typing_only)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for child in node.body:
                    yield from walk(child, lazy=lazy, typing_only=True)
                for child in node.orelse:
                    yield from walk(child, lazy=lazy, typing_only=typing_only)
                return
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy=inside, typing_only=typing_only)

    return walk(tree, lazy=False, typing_only=False)


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def words(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.Constant(value=str(word)):
                yield word, node.lineno
            case ast.alias(name=word):
                yield word, node.lineno


def declared_public(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "PUBLIC" for t in node.targets):
            return ast.literal_eval(node.value)
    return {}


def public_functions(modules: Mapping[Name, Module]) -> dict[str, Name]:
    """Public function of any algorithm to the module that holds it."""
    specs = [module for module in modules.values() if module.algorithm and module.name[-1] == "__init__"]
    return {function: (*spec.name[:-1], home) for spec in specs for function, home in spec.public.items()}


def resolve(modules: Mapping[Name, Module], public: Mapping[str, Name], wanted: Import) -> tuple[Name, str | None]:
    """Name of the imported module of hpcmpi, and of what is taken from it, if that is no module."""
    path = tuple(wanted.module.split(".")[1:])
    if wanted.name is not None:
        for whole in ((*path, wanted.name), (*path, wanted.name, "__init__")):
            if whole in modules:
                return whole, None
    if not path and wanted.name in public:  # `from hpcmpi import matmul`
        return public[wanted.name], wanted.name
    return (path, wanted.name) if path in modules else ((*path, "__init__"), wanted.name)


def violations(root: Path) -> list[str]:
    """What the package below ``root`` does against its architecture, one line each."""
    modules = read(root)
    public = public_functions(modules)
    found: list[str] = []
    graph: dict[Name, set[Name]] = {name: set() for name in modules}
    for module in modules.values():
        where = f"{'/'.join((PACKAGE, *module.name))}.py"
        if module.unit not in UNITS:
            found.append(f"{where}: has no level; give it one in {Path(__file__).name}")
            continue
        for wanted in module.imports:
            at = f"{where}:{wanted.line}"
            if wanted.module.split(".")[0] == PACKAGE:
                target, name = resolve(modules, public, wanted)
                if target not in modules or target[0] not in UNITS:
                    found.append(f"{at}: imports {wanted.module}, which is not there or has no level")
                    continue
                if reason := against_layers(module, modules[target], name, public):
                    found.append(f"{at}: imports {'.'.join((PACKAGE, *target))}: {reason}")
                else:
                    graph[module.name].add(target)
            elif reason := against_libraries(module, wanted):
                found.append(f"{at}: imports {wanted.module}: {reason}")
        for word, line in module.words:
            if word == "COMM_WORLD" and module.unit not in COMM_WORLD:
                found.append(f"{where}:{line}: COMM_WORLD belongs to the runner and the commands")
            if COUNTS.fullmatch(word) and module.unit != "comm":
                found.append(f"{where}:{line}: {word}: counts and displacements belong to comm")
    return found + [f"cycle: {' -> '.join(map('.'.join, cycle))}" for cycle in cycles(graph)]


def against_layers(module: Module, target: Module, name: str | None, public: Mapping[str, Name]) -> str | None:
    """Why ``module`` may not import ``target`` (and from it ``name``), or None if it may."""
    own, other = UNITS[module.unit].level, UNITS[target.unit].level
    if module.is_spec and not target.is_spec:
        return "only level 0 may be imported here"
    if module.algorithm and target.algorithm:
        if module.algorithm == target.algorithm:
            return None
        if module.is_spec or is_kernels(module):
            return "only the drivers and methods may use other algorithms"
        if public.get(name or "") != target.name:
            return "only the public functions of other algorithms may be used"
        return None
    if module.unit == "batch" and target.unit != "batch" and not target.is_spec and target.unit != "store":
        return "batch reads specs, costs and result files only"
    if is_kernels(module):
        return None if target.unit in FOR_KERNELS else f"kernels may import {' and '.join(sorted(FOR_KERNELS))} only"
    if module.algorithm and other > 2:
        return f"{module.name[-1]}.py of an algorithm may import up to level 2, this is level {other}"
    if module.unit == target.unit or other < own or own == other == 0 or (module.unit, target.unit) in SAME_LEVEL:
        return None
    return f"level {own} may not import level {other}"


def is_kernels(module: Module) -> bool:
    """Whether a module of an algorithm holds compiled kernels: its name says so."""
    return bool(module.algorithm) and module.name[-1].endswith("kernels")


def against_libraries(module: Module, wanted: Import) -> str | None:
    """Why ``module`` may not import this library, or None if it may."""
    library = wanted.module.split(".")[0]
    if library == COMPUTED:
        return None if module.unit in BY_NAME else "nobody can tell what this is"
    if library in sys.stdlib_module_names or wanted.typing_only:
        return None
    allowed = UNITS[module.unit]
    if module.is_spec and not (allowed.level == 0 and library in allowed.libraries):
        return "only the standard library may be imported here"
    if is_kernels(module) and library == "mpi4py":
        return "kernels know no communicator"
    if library in allowed.libraries or (wanted.lazy and library in allowed.lazy):
        return None
    return "may be imported inside functions only" if library in allowed.lazy else f"{module.unit} does not use it"


def cycles(graph: Mapping[Name, set[Name]]) -> Iterator[list[Name]]:
    """A cycle of imports through each module that comes back to an earlier one in a depth-first search."""
    done: set[Name] = set()
    trail: list[Name] = []

    def visit(name: Name) -> Iterator[list[Name]]:
        if name in trail:
            yield [*trail[trail.index(name) :], name]
        elif name not in done:
            trail.append(name)
            for target in sorted(graph[name]):
                yield from visit(target)
            trail.pop()
            done.add(name)

    for name in graph:
        yield from visit(name)


def test_the_package_keeps_to_its_layers():
    assert violations(ROOT) == []


def test_every_level_of_the_architecture_is_looked_at():
    modules = read(ROOT)
    assert {name[0] for name in modules} == set(UNITS)
    assert sum(len(module.imports) for module in modules.values()) > 100
    assert public_functions(modules)["matmul"] == ("algorithms", "matmul", "library")


@pytest.fixture
def planted(tmp_path):
    """Plants files and lines into a copy of the package that has one more algorithm; returns what is new."""
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))

    spare = tmp_path / PACKAGE / "algorithms" / "spare"
    spare.mkdir()
    (spare / "__init__.py").write_text('"""Another algorithm."""\n\nPUBLIC = {"spare": "driver"}\n')
    (spare / "driver.py").write_text("def spare():\n    return 1\n")
    before = violations(tmp_path)

    def plant(files: Mapping[str, str]) -> list[str]:
        for name, text in files.items():
            with (tmp_path / PACKAGE / name).open("a") as file:
                file.write(f"\n{text}\n")
        return [line for line in violations(tmp_path) if line not in before]

    return plant


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("record.py", "from hpcmpi.errors import Status"),
        ("record.py", "if TYPE_CHECKING:\n    import h5py"),
        ("blas.py", "from hpcmpi import record"),
        ("blas.py", "def f():\n    from hpcmpi.record import count"),
        ("threads.py", "def f():\n    import numba"),
        ("store/reader.py", "from .publication import Writer\nfrom ..comm import allreduce"),
        ("algorithms/spare/driver.py", "from hpcmpi import matmul, store, comm"),
        ("algorithms/spare/ring.py", "from hpcmpi import store"),
        ("algorithms/spare/ring.py", "from hpcmpi.algorithms.matmul.library import matmul"),
        ("algorithms/spare/kernels.py", "import numba\nimport numpy as np\nfrom hpcmpi.jit import kernel"),
        (
            "algorithms/spare/cost.py",
            "import math\nfrom hpcmpi.algorithms.spare import PUBLIC\nfrom hpcmpi.record import Cost",
        ),
        ("runner/job.py", "from hpcmpi.store import save\nWORLD = MPI.COMM_WORLD"),
        ("commands/extra.py", "def f():\n    import numpy\n    from hpcmpi.runner.job import run_job"),
        ("batch/local.py", "from hpcmpi.store.result import results\nfrom hpcmpi.algorithms.matmul.cost import plans"),
        ("comm/mail.py", "def f(comm):\n    comm.Alltoallv(1, 2)"),
        ("errors.py", '"""A docstring may speak of MPI.COMM_WORLD and of Alltoallv."""'),
    ],
)
def test_what_the_architecture_allows_is_allowed(planted, file, text):
    assert planted({file: text}) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("errors.py", "import hpcmpi.comm", "only level 0"),
        ("errors.py", "from hpcmpi import comm", "only level 0"),
        ("errors.py", "def f():\n    from hpcmpi.blas import gemm", "only level 0"),
        ("errors.py", "class A:\n    def f(self):\n        if self:\n            import hpcmpi.cli", "only level 0"),
        ("record.py", "if TYPE_CHECKING:\n    from hpcmpi.comm import Traffic", "only level 0"),
        ("record.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import numpy", "only the standard library"),
        ("record.py", "import numpy", "only the standard library"),
        ("machine.py", "def f():\n    import click", "only the standard library"),
        ("launch.py", "try:\n    import mpi4py\nexcept ImportError:\n    pass", "only the standard library"),
        ("partition.py", "f = lambda: __import__('numpy')", "only the standard library"),
        ("partition.py", "import importlib\nimportlib.import_module('hpcmpi.comm')", "only level 0"),
        ("partition.py", "import importlib\nimportlib.import_module(name)", "nobody can tell"),
        ("__init__.py", "import numpy", "only the standard library"),
        ("__init__.py", "from hpcmpi.algorithms.matmul.library import matmul", "only level 0"),
        ("algorithms/spare/__init__.py", "from hpcmpi.algorithms.spare.driver import spare", "only level 0"),
        ("algorithms/spare/__init__.py", "import numpy", "only the standard library"),
        ("algorithms/spare/cost.py", "import numpy", "only the standard library"),
        ("algorithms/spare/cost.py", "from hpcmpi.store import Source", "only level 0"),
        ("algorithms/spare/cost.py", "from .driver import spare", "only level 0"),
        ("algorithms/spare/cost.py", "from hpcmpi.algorithms.matmul import Params", "only the drivers and methods"),
        ("generator.py", "from hpcmpi.comm import traffic", "level 1 may not import level 1"),
        ("threads.py", "import threadpoolctl", "inside functions only"),
        ("threads.py", "def f():\n    import numpy", "threads does not use it"),
        ("blas.py", "import mpi4py", "blas does not use it"),
        ("comm/mail.py", "from hpcmpi.store import save", "level 1 may not import level 2"),
        ("comm/mail.py", "from .. import store", "level 1 may not import level 2"),
        ("store/writer.py", "from hpcmpi.algorithms import matmul", "level 2 may not import level 3"),
        ("store/writer.py", "from ..runner import job", "level 2 may not import level 4"),
        ("algorithms/spare/driver.py", "from hpcmpi.runner.job import Driver", "may import up to level 2"),
        ("algorithms/spare/driver.py", "from hpcmpi import cli", "may import up to level 2"),
        ("algorithms/spare/ring.py", "from hpcmpi.runner import job", "may import up to level 2"),
        ("algorithms/spare/kernels.py", "from hpcmpi.comm import wait", "kernels may import jit and simd"),
        ("algorithms/spare/merge_kernels.py", "from hpcmpi.threads import limit", "kernels may import jit and simd"),
        ("algorithms/spare/kernels.py", "from mpi4py import MPI", "kernels know no communicator"),
        ("algorithms/spare/kernels.py", "from hpcmpi import matmul", "only the drivers and methods"),
        ("algorithms/spare/driver.py", "from hpcmpi.algorithms.matmul.summa import summa", "only the public functions"),
        ("algorithms/spare/driver.py", "from hpcmpi.algorithms.matmul import driver", "only the public functions"),
        ("runner/job.py", "from hpcmpi.batch import jobfile", "level 4 may not import level 5"),
        ("batch/local.py", "from hpcmpi.runner.job import run_job", "batch reads specs, costs and result files only"),
        ("batch/local.py", "from hpcmpi.algorithms.matmul.library import matmul", "batch reads specs"),
        ("batch/local.py", "from hpcmpi.commands import show", "batch reads specs"),
        ("batch/local.py", "import click", "batch does not use it"),
        ("runner/job.py", "from hpcmpi.commands import show", "level 4 may not import level 6"),
        ("runner/job.py", "def f():\n    from hpcmpi.cli import parse", "level 4 may not import level 6"),
        ("commands/show.py", "from hpcmpi.cli import parse", "level 6 may not import level 6"),
        ("commands/show.py", "import numpy", "inside functions only"),
        ("cli.py", "def f():\n    import numpy", "cli does not use it"),
        ("cli.py", "import mpi4py.MPI", "cli does not use it"),
        ("extra.py", "x = 1", "has no level"),
        ("comm/mail.py", "import hpcmpi.nothing", "which is not there"),
        ("algorithms/matmul/summa.py", "WORLD = MPI.COMM_WORLD", "COMM_WORLD belongs"),
        ("store/reader.py", "def f():\n    from mpi4py.MPI import COMM_WORLD", "COMM_WORLD belongs"),
        ("comm/mail.py", "world = getattr(MPI, 'COMM_WORLD')", "COMM_WORLD belongs"),
        ("algorithms/spare/driver.py", "def f(comm):\n    comm.Alltoallv(1, 2)", "counts and displacements"),
        ("store/writer.py", "def f(comm):\n    comm.Igatherv(1, 2)", "counts and displacements"),
        ("runner/job.py", "def f(comm):\n    comm.Reduce_scatter(1, 2)", "counts and displacements"),
        ("algorithms/spare/ring.py", "def f(comm):\n    comm.Ineighbor_alltoallw(1, 2)", "counts and displacements"),
    ],
)
def test_a_planted_violation_is_found_and_named(planted, file, text, said):
    [found] = planted({file: text})
    assert found.startswith(f"{PACKAGE}/{file}")
    assert said in found


@pytest.mark.parametrize(
    "files",
    [
        {"errors.py": "from hpcmpi import launch", "launch.py": "def f():\n    from hpcmpi.errors import Status"},
        {"store/reader.py": "from hpcmpi.store import writer", "store/writer.py": "import hpcmpi.store.reader"},
        {
            "algorithms/spare/driver.py": "from hpcmpi import matmul",
            "algorithms/matmul/core.py": "from hpcmpi import spare",
        },
        {
            "algorithms/spare/driver.py": "from .ring import ring",
            "algorithms/spare/ring.py": "from hpcmpi.algorithms.matmul.library import matmul\nring = 1",
            "algorithms/matmul/summa.py": "def f():\n    from hpcmpi.algorithms.spare.driver import spare",
        },
    ],
    ids=["level 0", "store", "two algorithms", "by way of a method"],
)
def test_a_planted_cycle_is_found(planted, files):
    found = planted(files)
    assert found
    assert all(line.startswith("cycle: ") for line in found)


# Arrays of integers alone, in place, in the inner loop of a search.
INTEGER_EXTREMES = {("algorithms", "bfs", "one_d")}


def extremes_by_mpi(name: Name) -> Iterator[tuple[int, str]]:
    """Lines of a module that have MPI find extremes, of what may be floats, other than by ``comm.allreduce``."""
    tree = ast.parse((ROOT / PACKAGE).joinpath(*name).with_suffix(".py").read_text(encoding="utf-8"))
    allowed = set()
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            function = ast.unparse(call.func)
            floats = re.search(r"float|\babs\b|perf_counter\(\)\)", "".join(map(ast.unparse, call.args[:1])))
            if function in ("allreduce", "collective.allreduce") or (function.endswith(".allreduce") and not floats):
                allowed |= {id(argument) for argument in call.args}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("MPI.MAXLOC", "MPI.MINLOC"):
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("MPI.MAX", "MPI.MIN") and id(node) not in allowed:
            yield node.lineno, ast.unparse(node)


def test_extremes_of_floats_are_found_by_one_function():
    """The one that gives all ranks NaN where one has it: MPI libraries differ, and so may ranks."""
    found = {
        (name, line): text
        for name in read(ROOT)
        if name not in {("comm", "collectives"), *INTEGER_EXTREMES}
        for line, text in extremes_by_mpi(name)
    }
    assert not found
