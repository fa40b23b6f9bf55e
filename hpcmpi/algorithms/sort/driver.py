"""Sort what was asked for: find the sizes, read or generate, sort, check."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.sort import DTYPES, KEY_BYTES, Params, Resolved, records
from hpcmpi.algorithms.sort.cost import least_memory, row_bytes
from hpcmpi.algorithms.sort.distributions import fill, held
from hpcmpi.algorithms.sort.external import External
from hpcmpi.algorithms.sort.keys import Codec, codec
from hpcmpi.algorithms.sort.library import order_images, positioned, private, sort_images, sort_rows, wide
from hpcmpi.algorithms.sort.order import order_room
from hpcmpi.algorithms.sort.rows import Rows
from hpcmpi.algorithms.sort.sample import capacity
from hpcmpi.algorithms.sort.splitters import layout
from hpcmpi.algorithms.sort.verification import disorders, multiset, permutation_faults, strip_rows, strips
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, block, pieces
from hpcmpi.record import Block, Cost, Result, Saved, Snapshot, Verdict, counted, human_bytes
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample, compared
from hpcmpi.store.scratch import check_folder, check_free


@dataclass
class Problem:
    """What to sort. ``keys`` are this rank's keys or records, none where they stay in the file; see :class:`Params`.

    ``room`` is memory for the result. ``positions`` is set by a run that moves rows, ``external`` is one that is begun.
    """

    params: Resolved
    code: Codec | None
    keys: NDArray[Any]
    columns: dict[str, NDArray[Any]]
    read: Callable[[Range], NDArray[Any]]
    room: NDArray[Any]
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    external: External | None = None
    samples: tuple[Sample, ...] = ()  # of what was read from files

    @property
    def n(self) -> int:
        """Rows of all ranks."""
        return self.params.n or 0

    def words(self, array: NDArray[Any], start: int) -> tuple[NDArray[Any], ...]:
        """Words of records from position ``start`` on."""
        return tuple(records.key_words(array, self.key_bytes, start, descending=self.params.descending))

    @property
    def key_bytes(self) -> int:
        """Bytes of a record's key."""
        return self.params.key_bytes or KEY_BYTES


# What the runner calls


def resolve(comm: MPI.Comm, params: Params) -> Resolved:
    """``params`` with n and dtype filled in from the headers of the files.

    Raises InputError for files that do not fit together or cannot be sorted, UsageError for options that contradict.
    """
    ndim = 2 if params.records else 1
    where = params.by or params.input
    source = open_source(comm, where, ndim=ndim, record_bytes=params.records) if where else None
    columns = [open_source(comm, value) for value in params.values]
    with agreement(comm):
        options = {field.name: getattr(params, field.name) for field in dataclasses.fields(Params)}
        if params.records:
            options["key_bytes"] = params.key_bytes or KEY_BYTES
        check_folder(params.scratch)
        if source is None:
            options["generate"] = params.generate or (None if params.records else "uniform")
            options["dtype"] = None if params.records else params.dtype or "float64"
            return _enough_memory(Resolved(**options), comm.size)
        if params.records:
            if source.dtype != np.uint8 or source.shape[1] != params.records:
                raise InputError(
                    f"{source}: holds {source.shape} {source.dtype}; (n, {params.records}) uint8 is expected of records"
                )
        elif str(source.dtype.newbyteorder("=")) not in (*DTYPES, "bool"):
            hint = "; strings are records: uint8 of two dimensions, with --records" * (source.dtype.kind == "S")
            raise InputError(f"{source}: holds {source.holds}; keys are bool, {', '.join(DTYPES)}{hint}")
        elif params.dtype not in (None, str(source.dtype.newbyteorder("="))):
            raise UsageError(f"{source}: holds {source.dtype}, but --dtype says {params.dtype}")
        for column in columns:
            sortable = column.dtype.kind in "biufcSV" and not column.dtype.hasobject
            if not column.shape or column.shape[0] != source.shape[0] or not sortable:
                raise InputError(
                    f"{column}: has shape {column.shape} and dtype {column.dtype}; {source.shape[0]} rows of numbers "
                    f"are expected, as many as keys in {source}"
                )
        widths = [column.dtype.itemsize * math.prod(column.shape[1:]) for column in columns]
        dtype = None if params.records else str(source.dtype.newbyteorder("="))
        options |= {"n": source.shape[0], "dtype": dtype}
        return _enough_memory(Resolved(**options, width=sum(widths)), comm.size)


def _enough_memory(params: Resolved, ranks: int) -> Resolved:
    """``params``; UsageError where ``--memory`` is too little to sort by runs."""
    if params.memory is not None:
        n, row = params.n or 0, row_bytes(params)
        least = least_memory(n, ranks, row, params.memory)
        if params.memory < least:
            raise UsageError(
                f"--memory {human_bytes(params.memory)} is too little to sort {n} rows of {row} bytes on "
                f"{counted(ranks)}: {human_bytes(least)} a rank would do"
            )
    return params


def warm_up(params: Resolved) -> None:
    """Sort a few keys as the run will."""
    comm = MPI.COMM_SELF
    tiny = dataclasses.replace(params, n=200_000 if params.records is None and params.memory is None else 1000)
    tiny = dataclasses.replace(
        tiny, input=None, by=None, values=(), generate="uniform", argsort=_moves(params), width=0, validate=False
    )
    if params.records is not None:
        key_bytes = min(params.key_bytes or KEY_BYTES, records.LENGTH)
        tiny = dataclasses.replace(tiny, records=records.LENGTH, key_bytes=key_bytes)
    problem = prepare(comm, dataclasses.replace(tiny, memory=None), None)
    result = run(comm, problem, lambda _fraction: None)
    verify(comm, problem, result)
    if problem.code is not None and not _moves(params) and params.method == "sample":
        _warm_up_partition(problem)


def _warm_up_partition(problem: Problem) -> None:
    """One rank alone has nothing to deal out."""
    from hpcmpi.algorithms.sort.partitioner import PADDING, Partitioner

    code = problem.code
    if code is None or code.image.itemsize <= 2:
        return
    limits = np.iinfo(code.image)
    low, high = np.array([limits.min, 0], code.image), np.array([-1, limits.max], code.image)
    out = np.empty(1000 + PADDING, code.image)
    for portable in (False, True):
        dealer = Partitioner(code, 2, 1000, portable=portable)
        dealer.partition(code.raw(problem.keys[:1000]), 0, min(1000, problem.keys.size), low, high, 0, out, 0)


def _moves(params: Resolved) -> bool:
    """Whether rows move, and not keys only."""
    return params.argsort or params.by is not None


def prepare(comm: MPI.Comm, params: Resolved, _plan: Cost | None) -> Problem:
    """This rank's keys or records and columns, read or generated, and room for the result."""
    n = params.n or 0
    where = params.by or params.input
    ndim = 2 if params.records else 1
    source = open_source(comm, where, ndim=ndim, record_bytes=params.records) if where else None
    mine = (
        held(params.generate or "uniform", n, comm.size, comm.rank)
        if source is None
        else block(n, comm.size, comm.rank)
    )

    sample = None if source is None else Sample(source, params.seed)

    def read(part: Range) -> NDArray[Any]:
        if source is not None and sample is not None:
            whole = (part, *(Range(0, extent) for extent in source.shape[1:]))
            array = source.read(comm, whole, params.dtype or np.uint8)
            if params.memory is None:
                sample.hold(array, whole)
            else:
                sample.see(array, whole)
            return array
        if params.records:
            return records.gensort(part)
        return fill(params.generate or "uniform", params.seed, n, part, params.dtype or "float64")

    if params.memory is not None:
        row = row_bytes(params)
        check_free(comm, params.scratch, -(-n // comm.size) * (row + (params.records or row)))  # runs and results
    code = None if params.records else codec(params.dtype or "float64", descending=params.descending)
    keys = read(mine if params.memory is None else Range(mine.start, mine.start))
    samples = [] if sample is None else [sample]
    columns = {}
    for name, column in _named(comm, params.values).items():
        part = (mine, *(Range(0, extent) for extent in column.shape[1:]))
        columns[name] = column.read(comm, part, column.dtype)
        samples.append(Sample(column, params.seed).hold(columns[name], part))
    room = np.empty(0, np.int64) if code is None else _room(params, code, keys.size, comm.size)
    room.fill(0)  # the first touch of fresh memory belongs to the preparation
    return Problem(params, code, keys, columns, read, room, samples=tuple(samples))


def _room(params: Resolved, code: Codec, n_local: int, ranks: int) -> NDArray[Any]:
    """Memory for what the run makes of ``n_local`` keys."""
    n, width = params.n or 0, code.image.itemsize
    if params.by is not None or params.memory is not None or params.method != "sample":
        return np.empty(0, code.image)
    if params.argsort:
        return np.empty(order_room(n, n_local, ranks, width) // 8 + 1, np.int64)
    return np.empty(capacity(n, ranks, width) if width > 2 else 0, code.image)  # short keys are counted


def _named(comm: MPI.Comm, values: tuple[str, ...]) -> dict[str, Source]:
    """Columns by the names of their datasets in the result: ``values``, or ``values/NAME`` where there are several."""
    sources = [open_source(comm, value) for value in values]
    if len(sources) == 1:
        return {"values": sources[0]}
    given = [(source.dataset or source.path.stem).rpartition("/")[2] for source in sources]
    named = {name: source for name, source in zip(given, sources, strict=True) if given.count(name) == 1}
    for name, source in zip(given, sources, strict=True):
        if given.count(name) > 1:
            numbered = (f"{name}_{number}" for number in range(len(given)))
            named[next(candidate for candidate in numbered if candidate not in named)] = source
    return {f"values/{name}": source for name, source in named.items()}


def resumable(params: Resolved) -> bool:
    """Whether the sort goes by runs, between which it can checkpoint."""
    return params.memory is not None


def save(comm: MPI.Comm, problem: Problem) -> Snapshot:
    """What has been sorted."""
    if problem.external is None:
        raise ValueError("no external sort has begun")
    return problem.external.save(comm)


def restore(comm: MPI.Comm, problem: Problem, saved: Saved) -> None:
    """Take what has been sorted."""
    problem.external = _external(comm, problem)
    problem.external.restore(comm, saved)


def run(
    comm: MPI.Comm, problem: Problem, report: Callable[[float], None], checkpoint: Callable[[], None] = lambda: None
) -> Result:
    """Sort once; ``report`` is told the fraction that is done."""
    params = problem.params
    with private(comm) as own:
        if params.memory is not None:
            problem.external = problem.external or _external(own, problem)
            with closing(problem.external):
                (array,) = problem.external.run(own, report, checkpoint)
            problem.external = None
            arrays = {"keys" if problem.code is not None else "records": array}
        elif params.validate:
            arrays = {}
        elif problem.code is None:
            words = problem.words(problem.keys, layout(own, len(problem.keys)).start)
            columns = () if params.argsort else (problem.keys,)
            rows = sort_rows(own, Rows(words, columns), params.method, report)
            if params.argsort:
                problem.positions = records.positions(rows.words[-1], problem.key_bytes)
                arrays = {"order": problem.positions}
            else:
                arrays = {"records": rows.columns[0]}
        elif params.argsort:
            raw = problem.code.raw(problem.keys)
            memory = problem.room.view(np.uint8)
            problem.positions = order_images(own, raw, problem.code, params.method, memory, report)
            arrays = {"order": problem.positions}
        elif params.by is not None:
            rows = positioned(own, (wide(problem.code.encode(problem.keys)),), list(problem.columns.values()))
            rows = sort_rows(own, rows, params.method, report)
            problem.positions = rows.words[-1]
            keys = problem.code.decode(rows.words[0].astype(problem.code.image))
            arrays = {"keys": keys, **dict(zip(problem.columns, rows.columns, strict=True))}
        else:
            raw = problem.code.raw(problem.keys)
            images = sort_images(own, raw, problem.code, params.method, problem.room, report)
            arrays = {"keys": problem.code.decode(images)}
    return Result(
        {name: _block(name, array, problem.n, comm) for name, array in arrays.items()},
        problem.n,
        "record/s" if params.records else "key/s",
        {
            "size": f"{problem.n} {f'records of {params.records} bytes' if params.records else f'{params.dtype} keys'}",
            "method_used": _method(params),
            "grid": str(comm.size),
            "share_bytes": comm.allreduce(max((array.nbytes for array in arrays.values()), default=0), MPI.MAX),
        },
    )


def _method(params: Resolved) -> str:
    if params.validate:
        return "validation"
    return "external" if params.memory is not None else params.method


def _external(comm: MPI.Comm, problem: Problem) -> External:
    params, code = problem.params, problem.code

    def read(part: Range) -> Rows:
        array = problem.read(part)
        if code is None:
            return Rows(problem.words(array, part.start), (array,))
        return Rows((code.encode(array),))

    def keep(rows: Rows) -> tuple[NDArray[Any], ...]:
        return tuple(rows.columns) if code is None else (code.decode(rows.words[0]),)

    return External(comm, read, problem.n, memory=params.memory or 0, folder=params.scratch, keep=keep)


def _block(name: str, array: NDArray[Any], n: int, comm: MPI.Comm) -> Block:
    dims = ("n", *(f"{name.replace('/', '_')}_{axis}" for axis in range(1, array.ndim)))
    start = block(n, comm.size, comm.rank).start
    return Block(array, (start, *[0] * (array.ndim - 1)), (n, *array.shape[1:]), dims)


def verify(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    """Check the result against what there was to sort, and a sample of that against its files."""
    return compared(comm, problem.samples, _verdict(comm, problem, result))


def _verdict(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    if _moves(problem.params):
        return _verify_rows(comm, problem, result)
    if problem.params.validate:
        return _validate(comm, problem)
    if problem.code is None:
        return _verify_records(comm, problem, result.arrays["records"].local)
    keys = result.arrays["keys"].local
    wrong = disorders(comm, keys, descending=problem.params.descending)
    before, after = multiset(comm, _input(comm, problem)), multiset(comm, strips(keys))
    facts: dict[str, bool | int | float | str] = {"disorders": wrong, "checksum": f"{after.checksum:016x}"}
    if wrong:
        return Verdict(False, f"{wrong} neighbours are out of order", facts)
    if before != after or after.n != problem.n:
        return Verdict(False, f"the result has {after}, the input, of {problem.n}, {before}", facts)
    return Verdict(True, f"in order, checksum {after.checksum:016x} as that of the input", facts)


def _input(comm: MPI.Comm, problem: Problem) -> Iterable[NDArray[Any]]:
    """The input of this rank in strips, read anew where it stayed in its file. All ranks have equally many."""
    if problem.params.memory is None:
        yield from strips(problem.keys)
        return
    mine = block(problem.n, comm.size, comm.rank)
    parts = list(pieces(mine, strip_rows(row_bytes(problem.params))))
    rounds = comm.allreduce(len(parts), MPI.MAX)
    for part in parts + [Range(mine.stop, mine.stop)] * (rounds - len(parts)):
        yield problem.read(part)


def _verify_rows(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:
    keys = problem.keys if problem.code is not None else problem.keys[:, : problem.key_bytes]
    before = [keys, *problem.columns.values()]
    after = None
    if not problem.params.argsort:
        after = [result.arrays[name].local for name in ("keys", *problem.columns)]
    with private(comm) as own:
        fault = permutation_faults(own, before, after, problem.positions, descending=problem.params.descending)
    return Verdict(fault is None, fault or "a permutation, which sorts and keeps equal keys in their order")


def _verify_records(comm: MPI.Comm, problem: Problem, local: NDArray[np.uint8]) -> Verdict:
    found = records.valsort(comm, local, problem.key_bytes, descending=problem.params.descending)
    total = 0
    for strip in _input(comm, problem):
        total += records.checksum(MPI.COMM_SELF, strip)
    expected = comm.allreduce(total)
    right = found.unordered == 0 and found.checksum == expected and found.records == problem.n
    facts = _facts(found)
    reason = f"in order, checksum {found.checksum:x} as that of the input"
    if not right:
        reason = (
            f"{found.unordered} of {found.records} records out of order, checksum {found.checksum:x}; the input has "
            f"{problem.n} with checksum {expected:x}"
        )
    return Verdict(right, reason, facts, found.lines(problem.n, expected))


def _validate(comm: MPI.Comm, problem: Problem) -> Verdict:
    """What valsort would tell of the input."""
    found = records.valsort(comm, problem.keys, problem.key_bytes, descending=problem.params.descending)
    reason = f"{found.unordered} of {found.records} records out of order, checksum {found.checksum:x}"
    return Verdict(found.unordered == 0, reason, _facts(found), found.lines())


def _facts(found: records.Validation) -> dict[str, bool | int | float | str]:
    return {
        "records_found": found.records, "checksum": f"{found.checksum:x}", "duplicate_keys": found.duplicates,
        "unordered_records": found.unordered,
    }  # fmt: skip
