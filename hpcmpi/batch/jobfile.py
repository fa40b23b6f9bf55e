"""A job file, and the points of its sweep.

::

    command = "sort"
    [params]                  # the command's own options
    n = "1e8"
    [sweep]                   # lists make a grid; zip = {...} pairs lists of one length
    ranks = [1, 2, 4]
    [run]                     # ranks, threads, repeats, output folder ...
    [slurm]                   # partition, time, mem ...

It is data: reading it runs nothing. A point is one run: the options of ``[params]``, and one choice from ``[sweep]``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import itertools
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcmpi import algorithms
from hpcmpi.batch.document import Document, Keys
from hpcmpi.batch.kinds import RUN, SLURM, whole
from hpcmpi.batch.values import own_options, parse
from hpcmpi.errors import InputError, quoted
from hpcmpi.record import Job, asked

_LONGEST_VALUE = 24  # characters of a value in the name of a point
_LAUNCH = ("ranks", "threads")  # swept beside the command's own options


@dataclass(frozen=True)
class Point:
    """One run: its ``name`` within the study, the words of its own options, and the job that these stand for.

    ``output`` is its result file. ``row`` is where to look for it: the choices of the sweep, by their names.
    """

    name: str
    words: tuple[str, ...]
    job: Job
    row: Mapping[str, str]

    @property
    def output(self) -> Path:
        """The result file."""
        if self.job.output is None:
            raise ValueError(f"{self.name} has no output")
        return self.job.output

    @property
    def log(self) -> Path:
        """What a run here prints."""
        return self.output.with_suffix(".log")

    @property
    def ranks(self) -> int:
        """Ranks that it runs on."""
        return self.job.ranks or 1

    @property
    def asked(self) -> str:
        """What decides its result, as result files have it."""
        return json.dumps(asked(self.job), sort_keys=True)

    def argv(self, *, force: bool = False, restart: bool = False) -> list[str]:
        """The words behind ``hpcmpi``."""
        job = self.job
        argv = [job.algorithm, *self.words, "--ranks", str(self.ranks)]
        argv += ["--threads", str(job.threads)] if job.threads else []
        argv += ["--compress", job.compress] if job.compress else []
        argv += ["--repeat", str(job.repeat)] if job.repeat != 1 else []
        argv += ["--timeout", f"{job.timeout:g}"] if job.timeout else []
        argv += ["--checkpoint-every", f"{job.checkpoint_every:g}"] if job.checkpoint_every else []
        flags = {"--no-verify": not job.verify, "--no-arrays": job.no_arrays, "--force": force, "--restart": restart}
        return [*argv, *(flag for flag, wanted in flags.items() if wanted), "-o", str(self.output)]


@dataclass(frozen=True)
class JobFile:
    """A whole job file; ``slurm`` is its table [slurm], checked."""

    path: Path
    command: str
    folder: Path
    points: tuple[Point, ...]
    slurm: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.path.stem

    def select(self, names: tuple[str, ...]) -> tuple[Point, ...]:
        """The points of these names, all where none is named. Raises InputError for a name that there is not."""
        known = [point.name for point in self.points]
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"`hpcmpi status {self.path}` lists what there is"
                raise InputError(f"{self.path}: no point {quoted(name)}; {advice}")
        return tuple(point for point in self.points if not names or point.name in names)


def read(path: Path) -> JobFile:
    """The job file ``path``. Raises InputError for whatever is wrong with it, with file, line and key."""
    document = Document(path)
    document.check_keys((), document.data, ("command", "params", "sweep", "run", "slurm"))
    command, spec = _command(document)
    run, slurm = (checked(document, name, kinds) for name, kinds in (("run", RUN), ("slurm", SLURM)))
    options = own_options(spec)
    document.check_keys(("params",), _own_keys(document, options), options)
    rows = list(_rows(document, {**options, **dict.fromkeys(_LAUNCH)}))
    folder = run.get("output", Path("hpcmpi-results", path.stem))
    points = tuple(_point(document, command, spec, run, row, folder) for row in rows)
    _refuse_doubles(document, points)
    return JobFile(path, command, folder, points, slurm)


def _command(document: Document) -> tuple[str, Any]:
    command = document.data.get("command")
    known = sorted(module.name for module in pkgutil.iter_modules(algorithms.__path__))
    if command is None:
        raise document.error(("command",), f"is missing; one of {', '.join(known)}")
    if command not in known:
        near = difflib.get_close_matches(str(command), known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise document.error(("command",), f"{quoted(command)} is no algorithm; {advice}")
    return command, importlib.import_module(f"{algorithms.__name__}.{command}").Params


def checked(document: Document, name: str, kinds: Mapping[str, Any], where: Keys | None = None) -> dict[str, Any]:
    """The table ``name`` with values as ``kinds``, functions by key, make them."""
    table, where = document.table(name), where or (name,)
    document.check_keys(where, table, kinds)
    values = {}
    for key, value in table.items():
        try:
            values[key] = kinds[key](value)
        except ValueError as error:
            raise document.error((*where, key), str(error)) from None
    return values


def _own_keys(document: Document, options: Mapping[str, Any]) -> Iterator[str]:
    """Keys of [params]; whoever looks for a place for ranks is told."""
    for key in document.table("params"):
        if key in RUN and key not in options:
            raise document.error(("params", key), "is no option of the command's own; it belongs to [run]")
        yield key


def _rows(document: Document, known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The choices of the sweep: every combination of its lists, with those of ``zip`` taken together."""
    sweep = dict(document.table("sweep"))
    paired = sweep.pop("zip", {})
    if not isinstance(paired, dict):
        raise document.error(("sweep", "zip"), f"is a table of lists, {{a = [1, 2], b = [3, 4]}}, not {quoted(paired)}")
    document.check_keys(("sweep",), sweep, known)
    document.check_keys(("sweep", "zip"), paired, known)
    fixed = {*document.table("params"), *(key for key in _LAUNCH if key in document.table("run"))}
    for where, table in ((("sweep",), sweep), (("sweep", "zip"), paired)):
        for key, values in table.items():
            if not isinstance(values, list) or not values:
                raise document.error((*where, key), f"is a list of values to go through, not {quoted(values)}")
            twice = next((value for at, value in enumerate(values) if value in values[:at]), None)
            if twice is not None and where[-1] != "zip":
                raise document.error((*where, key), f"has {quoted(twice)} twice")
            if key in fixed or (where[-1] == "zip" and key in sweep):
                raise document.error((*where, key), "is given elsewhere too")
    lengths = {key: len(values) for key, values in paired.items()}
    if len(set(lengths.values())) > 1:
        raise document.error(("sweep", "zip"), f"pairs lists of one length; these have {lengths}")
    pairs = [dict(zip(paired, values, strict=True)) for values in zip(*paired.values(), strict=True)] or [{}]
    for choice in itertools.product(*sweep.values()):
        for pair in pairs:
            yield {**dict(zip(sweep, choice, strict=True)), **pair}


def _point(
    document: Document, command: str, spec: Any, run: Mapping[str, Any], row: Mapping[str, Any], folder: Path
) -> Point:
    launch = {key: run[key] for key in _LAUNCH if key in run}
    values, words = {}, list[str]()
    options = own_options(spec)
    given = {**document.table("params"), **{key: value for key, value in row.items() if key in options}}
    for key, value in given.items():
        where = _place(document, key)
        try:
            values[options[key].name], said = parse(options[key], value)
        except ValueError as error:
            raise document.error(where, str(error)) from None
        words += said
    for key in _LAUNCH:
        if key in row and key not in options:
            try:
                launch[key] = whole(row[key])
            except ValueError as error:
                raise document.error(_place(document, key), str(error)) from None
    named = {key: _named(value) for key, value in row.items()}
    name = "-".join(f"{key}{value}" for key, value in named.items()) or command
    try:
        job = Job(
            command, spec(**values), output=folder / f"{name}.h5", no_arrays=not run.get("arrays", True),
            repeat=run.get("repeats", 1), threads=launch.get("threads"), ranks=launch.get("ranks", 1),
            verify=run.get("verify", True), timeout=run.get("timeout"), checkpoint_every=run.get("checkpoint-every"),
            compress=run.get("compress"),
        )  # fmt: skip
    except ValueError as error:
        raise document.error(("params",) if "params" in document.data else ("command",), str(error)) from None
    return Point(name, tuple(words), job, {key: str(value) for key, value in row.items()})


def _place(document: Document, key: str) -> Keys:
    """Where ``key`` is given."""
    sweep = document.table("sweep")
    if key in sweep:
        return ("sweep", key)
    return ("sweep", "zip", key) if key in sweep.get("zip", {}) else ("params", key)


def _named(value: Any) -> str:
    """``value`` as a part of the name of a file, unlike that of any other value."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    if re.fullmatch(rf"[\w.+,-]{{1,{_LONGEST_VALUE}}}", text, re.ASCII):
        return text
    short = re.sub(r"[^\w.+,]", "_", text.rpartition("/")[2], flags=re.ASCII)[: _LONGEST_VALUE // 2]
    return f"{short}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _refuse_doubles(document: Document, points: tuple[Point, ...]) -> None:
    seen: set[str] = set()
    for point in points:
        if point.name in seen:
            raise document.error(("sweep",), f"has {point.name} twice")
        seen.add(point.name)
