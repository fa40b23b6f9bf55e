"""What a second look at lines of numbers finds, with NumPy and with arithmetic unlike that of the states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.reduce.check_kernels import PRIME, add_pairs, compensated, residues
from hpcmpi.algorithms.reduce.missing import Missing
from hpcmpi.algorithms.reduce.strips import kernel_dtype, real_parts, strips

_PRIME = np.uint64(PRIME)
_FAR = 2**63 - 1
_SUMMED = {"sum", "mean", "norm", "var", "std"}


@dataclass
class Witness:
    """What was seen of some elements of each line; without fields that ``ops`` do not need.

    ``residues`` (parts + 1, lines) uint64 of the sums and the sum of squares; ``sums`` (parts, lines, 8) float64, as
    the kernel says; ``least`` and ``greatest`` (lines,) and their first places (lines,) int64; ``nonzero`` (lines,);
    ``counts`` (bins,); ``logarithm`` (lines,) float64, of the magnitude of the product; ``kept`` (lines,), how many
    elements are not left out.
    """

    residues: NDArray[np.uint64]
    sums: NDArray[np.float64]
    least: NDArray[Any]
    greatest: NDArray[Any]
    at_least: NDArray[np.int64]
    at_greatest: NDArray[np.int64]
    nonzero: NDArray[np.int64]
    counts: NDArray[np.int64]
    logarithm: NDArray[np.float64]
    negative: NDArray[np.int64]
    kept: NDArray[np.int64]


def see(
    ops: Sequence[str], lines: NDArray[Any], at: int, edges: NDArray[np.floating] | None, missing: Missing
) -> Witness:
    """Look at ``lines`` (outer, inner, n), n > 0, whose first elements are number ``at`` of their lines.

    What is ``missing`` is left out.
    """
    count, dtype = lines.shape[0] * lines.shape[1], lines.dtype
    parts = 2 if dtype.kind == "c" else 1
    kept = _kept(lines, missing)
    found = Witness(
        np.zeros((parts + 1, count), np.uint64), np.zeros((parts, count, 8)),
        np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64),
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64),
        np.full(count, lines.shape[2]) if kept is None else np.count_nonzero(kept, axis=1),
    )  # fmt: skip
    if _SUMMED & set(ops):
        _see_sums(found, lines, kept)
    if {"min", "max", "argmin", "argmax"} & set(ops):
        native = lines.astype(lines.dtype.newbyteorder("="), copy=False)
        if kept is None:
            found.least, found.greatest = native.min(axis=-1).reshape(-1), native.max(axis=-1).reshape(-1)
            found.at_least = native.argmin(axis=-1).reshape(-1) + at
            found.at_greatest = native.argmax(axis=-1).reshape(-1) + at
        else:
            native = native.reshape(count, -1)
            found.least, found.at_least = _extreme(native, kept, at, np.min, _largest)
            found.greatest, found.at_greatest = _extreme(native, kept, at, np.max, _smallest)
    if {"any", "all", "count-nonzero"} & set(ops):
        nonzero = lines != 0 if kept is None else (lines != 0) & kept.reshape(lines.shape)
        found.nonzero = np.count_nonzero(nonzero, axis=-1).reshape(-1).astype(np.int64)
    if edges is not None:
        counts = np.zeros(len(edges) - 1, np.int64)
        for strip in strips(lines, whole=False):
            numbers = strip.rows.astype(np.float64).reshape(-1)
            numbers = numbers if kept is None else numbers[strip.of(kept).reshape(-1)]
            counts += np.histogram(numbers, edges.astype(np.float64))[0]
        found.counts = counts
    if "prod" in ops:
        found.logarithm, found.negative = np.zeros(count), np.zeros(count, np.int64)
        for strip in strips(lines, whole=False):
            own, numbers = slice(strip.line, strip.line + len(strip.rows)), strip.rows.astype(np.float64)
            if kept is not None:
                numbers = np.where(strip.of(kept), numbers, 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                found.logarithm[own] += np.log2(np.abs(numbers)).sum(axis=1)
            found.negative[own] += np.signbit(numbers).sum(axis=1)
    return found


def _kept(lines: NDArray[Any], missing: Missing) -> NDArray[np.bool_] | None:
    """(lines, n): which elements are not left out, told in the array's own dtype; None where all are kept."""
    if not missing.leaves_out:
        return None
    kept = np.ones(lines.shape, np.bool_)
    if missing.fill is not None:
        kept &= lines != missing.fill
    if missing.omit:
        kept &= lines == lines  # noqa: PLR0124 - NaN
    return kept.reshape(-1, lines.shape[2])


def _extreme(
    lines: NDArray[Any], kept: NDArray[np.bool_], at: int, choose: Any, stand_in: Any
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The extreme of each line's ``kept`` elements and its first place; where none is kept, the other end, nowhere."""
    values = choose(np.where(kept, lines, stand_in(lines.dtype)), axis=1)
    undefined = values != values  # noqa: PLR0124 - NaN
    here = kept & np.where(undefined[:, None], lines != lines, lines == values[:, None])  # noqa: PLR0124 - NaN
    return values, np.where(here.any(axis=1), here.argmax(axis=1) + at, _FAR)


def _largest(dtype: np.dtype[Any]) -> Any:
    return dtype.type(True if dtype.kind == "b" else np.inf if dtype.kind == "f" else np.iinfo(dtype).max)


def _smallest(dtype: np.dtype[Any]) -> Any:
    return dtype.type(False if dtype.kind == "b" else -np.inf if dtype.kind == "f" else np.iinfo(dtype).min)


def _see_sums(found: Witness, lines: NDArray[Any], kept: NDArray[np.bool_] | None) -> None:
    whole = kept is None and kernel_dtype(lines.dtype) == np.float64
    for strip in strips(lines, whole=whole):
        own, rows = slice(strip.line, strip.line + len(strip.rows)), strip.rows
        if kept is not None:
            rows = rows.copy()
            rows[~strip.of(kept)] = 0
        if rows.dtype.kind in "iu":
            found.residues[0, own] += _residues_of_integers(rows)
            found.residues[0, own] %= _PRIME
            compensated(rows.astype(np.float64), found.sums[0, own])
            continue
        for part, x in enumerate(real_parts(rows)):
            residues(x, found.residues[part, own], found.residues[-1, own])
            compensated(x, found.sums[part, own])


def _residues_of_integers(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Residues of the sums of rows of at most 2^16 64-bit integers."""
    halves = (
        (rows >> 32).astype(np.int64).sum(axis=1),
        (rows & rows.dtype.type(0xFFFFFFFF)).astype(np.int64).sum(axis=1),
    )
    high, low = (np.mod(half, PRIME).astype(object) for half in halves)
    return np.asarray((high * 2**32 + low) % PRIME).astype(np.uint64)


def joined(seen: Sequence[Witness]) -> Witness:
    """What several have seen of the same lines, of elements that follow each other."""
    first, *others = seen
    if not others:
        return first
    found = Witness(**{field.name: getattr(first, field.name) for field in fields(Witness)})
    for other in others:
        found.residues = (found.residues + other.residues) % _PRIME
    sums = np.stack([w.sums for w in seen])
    found.sums = sums.sum(axis=0)
    for part in range(sums.shape[1]):
        for at in (0, 2):
            found.sums[part, :, at], found.sums[part, :, at + 1] = add_pairs(sums[:, part], at)
    for name in ("nonzero", "counts", "logarithm", "negative", "kept"):
        setattr(found, name, np.sum([getattr(w, name) for w in seen], axis=0))
    if first.least.size:
        found.least, found.at_least = _first_of(seen, "least", np.min)
        found.greatest, found.at_greatest = _first_of(seen, "greatest", np.max)
    return found


def _first_of(seen: Sequence[Witness], name: str, choose: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    values = np.stack([getattr(w, name) for w in seen])
    places = np.stack([getattr(w, f"at_{name}") for w in seen])
    best = choose(values, axis=0)
    here = (values == best) | ((values != values) & (best != best))  # noqa: PLR0124 - NaN
    return best, np.where(here, places, _FAR).min(axis=0)


def joined_over_ranks(comm: MPI.Comm, seen: Witness | None) -> Witness | None:
    """What all ranks have seen; None where a rank, or all of them, have seen nothing."""
    if comm.size == 1:
        return seen
    mine = {} if seen is None else {field.name: getattr(seen, field.name) for field in fields(Witness)}
    everyone = comm.allgather({name: (array.shape, array.dtype.str) for name, array in mine.items()})
    witnesses = [described for described in everyone if described]
    if not witnesses:
        return None
    columns = {
        name: collective.gather_blocks(comm, mine[name][None] if mine else np.zeros((0, *shape), dtype))
        for name, (shape, dtype) in witnesses[0].items()
    }
    return joined([Witness(**{name: column[k] for name, column in columns.items()}) for k in range(len(witnesses))])
