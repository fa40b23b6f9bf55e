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
from hpcmpi.algorithms.reduce.strips import kernel_dtype, real_parts, strips

_PRIME = np.uint64(PRIME)
_FAR = 2**63 - 1
_SUMMED = {"sum", "mean", "norm", "var", "std"}


@dataclass
class Witness:
    """What was seen of some elements of each line; without fields that ``ops`` do not need.

    ``residues`` (parts + 1, lines) uint64 of the sums and the sum of squares; ``sums`` (parts, lines, 8) float64, as
    the kernel says; ``least`` and ``greatest`` (lines,) and their first places (lines,) int64; ``nonzero`` (lines,);
    ``counts`` (bins,); ``logarithm`` (lines,) float64, of the magnitude of the product.
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


def see(ops: Sequence[str], lines: NDArray[Any], at: int, edges: NDArray[np.floating] | None) -> Witness:
    """Look at ``lines`` (outer, inner, n), n > 0, whose first elements are number ``at`` of their lines."""
    count, dtype = lines.shape[0] * lines.shape[1], lines.dtype
    parts = 2 if dtype.kind == "c" else 1
    found = Witness(
        np.zeros((parts + 1, count), np.uint64), np.zeros((parts, count, 8)),
        np.zeros(0), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64),
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64),
    )  # fmt: skip
    if _SUMMED & set(ops):
        _see_sums(found, lines)
    if {"min", "max", "argmin", "argmax"} & set(ops):
        native = lines.astype(lines.dtype.newbyteorder("="), copy=False)
        found.least, found.greatest = native.min(axis=-1).reshape(-1), native.max(axis=-1).reshape(-1)
        found.at_least = native.argmin(axis=-1).reshape(-1) + at
        found.at_greatest = native.argmax(axis=-1).reshape(-1) + at
    if {"any", "all", "count-nonzero"} & set(ops):
        found.nonzero = np.count_nonzero(lines, axis=-1).reshape(-1).astype(np.int64)
    if edges is not None:
        counts = np.zeros(len(edges) - 1, np.int64)
        for strip in strips(lines, whole=False):
            counts += np.histogram(strip.rows.reshape(-1).astype(np.float64), edges.astype(np.float64))[0]
        found.counts = counts
    if "prod" in ops:
        found.logarithm, found.negative = np.zeros(count), np.zeros(count, np.int64)
        for strip in strips(lines, whole=False):
            own, numbers = slice(strip.line, strip.line + len(strip.rows)), strip.rows.astype(np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                found.logarithm[own] += np.log2(np.abs(numbers)).sum(axis=1)
            found.negative[own] += np.signbit(numbers).sum(axis=1)
    return found


def _see_sums(found: Witness, lines: NDArray[Any]) -> None:
    for strip in strips(lines, whole=kernel_dtype(lines.dtype) == np.float64):
        own = slice(strip.line, strip.line + len(strip.rows))
        if strip.rows.dtype.kind in "iu":
            found.residues[0, own] += _residues_of_integers(strip.rows)
            found.residues[0, own] %= _PRIME
            compensated(strip.rows.astype(np.float64), found.sums[0, own])
            continue
        for part, x in enumerate(real_parts(strip.rows)):
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
    for name in ("nonzero", "counts", "logarithm", "negative"):
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
