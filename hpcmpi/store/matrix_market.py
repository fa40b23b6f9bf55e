"""MatrixMarket files, read by all ranks at once (Boisvert, Pozo, Remington 1996, NISTIR 5935).

``coordinate`` files hold entries with their places, ``array`` files all elements column by column (of a symmetric
matrix those of the lower triangle); both are read as entries.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.store.text import LONE_RETURN, TextFile, text_file
from hpcmpi.store.text_kernels import parse_entries

_BANNER = b"%%matrixmarket"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Numbers of a line beside row and column; SciPy writes unsigned-integer.
_FIELDS = {"pattern": 0, "integer": 1, "unsigned-integer": 1, "real": 1, "complex": 2}
_SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
_BANNER_LIKE = re.compile(rb"matrix\W?market|%.*\bmatrix\b.*\b(coordinate|array)\b", re.IGNORECASE)
_LONGEST_BANNER = 1000


class Entries(NamedTuple):
    """Entries of a matrix, at 0-based places: (k,) int64, (k,) int64, (k,) float64 or complex128."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[Any]


@dataclass(frozen=True)
class MatrixMarket:
    """What the header of a file says; ``offset`` is where the entries begin, ``entries`` how many lines there are.

    ``dense`` is whether these hold the elements of an ``array``, without their places.
    """

    file: TextFile
    field: str
    symmetry: str
    shape: tuple[int, int]
    entries: int
    offset: int
    dense: bool = False

    def __str__(self) -> str:
        return str(self.file)

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64, or complex128 for a complex field."""
        return np.dtype(np.complex128 if self.field == "complex" else np.float64)

    @property
    def nonzeros(self) -> int:
        """Entries of the whole matrix; an upper bound where only one half is stored."""
        return self.entries if self.symmetry == "general" else 2 * self.entries

    def read(self, comm: MPI.Comm, *, whole: bool = True, values: bool = True) -> Entries:
        """This rank's share of the entries, with both halves of a symmetric matrix if ``whole``. Collective.

        Without ``values``, those of a ``coordinate`` file are not judged, and have no meaning.
        Raises InputError, on all ranks, for a line that is no entry or lies outside, and if there are too few or many.
        """
        with agreement(comm):
            parts = [
                (at, self._parsed(at, text, values=values or self.dense))
                for at, text in self.file.pieces(self.offset, comm.size, comm.rank)
            ]
        found = comm.allreduce(sum(len(part.rows) for _, part in parts))
        if found == self.entries and self.dense:
            parts = self._placed(comm, parts)
        with agreement(comm):
            if found != self.entries:
                raise InputError(f"{self}: {found} entries found, {self.entries} expected by its header")
            rows, columns, numbers = (
                (np.concatenate(x) for x in zip(*(part for _, part in parts), strict=True)) if parts else _NOTHING
            )
            entries = Entries(rows, columns, numbers.astype(self.dtype, copy=False))
            return self._completed(entries) if whole else entries

    def _placed(self, comm: MPI.Comm, parts: list[tuple[int, Entries]]) -> list[tuple[int, Entries]]:
        """The elements of an ``array`` with their places, which follow from how many come before them. Collective."""
        sizes = sorted(piece for pieces in comm.allgather([(at, len(x.rows)) for at, x in parts]) for piece in pieces)
        starts, count = dict[int, int](), 0
        for at, size in sizes:
            starts[at], count = count, count + size
        m, n = self.shape
        lowest = np.arange(n) * (self.symmetry != "general") + (self.symmetry == "skew-symmetric")  # row of each column
        before = np.concatenate([[0], np.cumsum(np.maximum(0, m - lowest))])  # elements of the columns before
        placed = []
        with agreement(comm):
            for at, part in parts:
                number = np.arange(starts[at], starts[at] + len(part.rows))
                columns = np.searchsorted(before, number, "right") - 1
                rows = number - before[columns] + lowest[columns] if number.size else number
                odd = self._odd_diagonal(rows, columns, part.values)
                if odd.size:
                    raise InputError(f"{self}: element ({rows[odd[0]] + 1}, {columns[odd[0]] + 1}): {self._diagonal()}")
                placed.append((at, Entries(rows, columns, part.values)))
        return placed

    def _parsed(self, at: int, text: bytes, *, values: bool) -> Entries:
        numbers = _FIELDS[self.field]
        shortest = 2 if self.dense else 4  # bytes of a line: its digits, spaces between them, a line feed
        room = min(text.count(b"\n") + 1, self.entries + 1, len(text) // shortest + 1)
        rows, columns = np.empty((2, room), np.int64)
        found = np.ones((room, max(1, numbers)))
        careful = np.empty((room * numbers, 4), np.int64)
        symbols = np.frombuffer(bytearray(text), np.uint8)
        integer = self.field.endswith("integer")
        form = (*self.shape, numbers, integer, not self.dense)
        count, left, bad = parse_entries(symbols, *form, rows, columns, found, careful)
        if bad >= 0:
            raise self._refused(at + bad)
        rows, columns = rows[:count], columns[:count]
        if not values:
            return Entries(rows, columns, found[:count, 0])
        number = _integer if integer else _decimal
        for entry, which, begin, end in careful[:left].tolist():
            try:
                found[entry, which] = number(text[begin:end])
            except ValueError as error:
                raise self._refused(at + text.rfind(b"\n", 0, begin) + 1, str(error)) from None
        odd = np.empty(0, np.intp) if self.dense else self._odd_diagonal(rows, columns, found[:count])
        if odd.size:
            room = int(odd[0])  # then the parser stops at the line of that entry
            *_, bad = parse_entries(symbols, *form, rows[:room], columns, found, careful)
            raise self._refused(at + bad, self._diagonal())
        wide = found[:count, 0] + 1j * found[:count, 1] if numbers == 2 else found[:count, 0]
        return Entries(rows, columns, wide)

    def _diagonal(self) -> str:
        """What is expected there."""
        kind = "0 or no entry" if self.symmetry == "skew-symmetric" else "a real number"
        return f"{kind} on the diagonal of a {self.symmetry} matrix is expected"

    def _odd_diagonal(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[Any]
    ) -> NDArray[np.intp]:
        """Entries on the diagonal that the symmetry rules out."""
        if self.symmetry == "skew-symmetric":
            return np.flatnonzero((rows == columns) & (values if values.ndim == 1 else values.any(axis=1)).astype(bool))
        if self.symmetry == "hermitian" and self.field == "complex":
            imaginary = values.imag if values.dtype.kind == "c" else values[:, 1]
            return np.flatnonzero((rows == columns) & ~(imaginary == 0))
        return np.empty(0, np.intp)

    def _refused(self, at: int, expected: str = "") -> InputError:
        form = " ".join(["row", "column", "value", "value"][2 * self.dense : 2 + _FIELDS[self.field]])
        rows, columns = self.shape
        form = f"one of {self.entries} lines '{form}' inside {rows} x {columns} is expected"
        return self.file.bad_line(at, expected or form)

    def _completed(self, entries: Entries) -> Entries:
        """Both halves of the matrix, where one is stored."""
        if self.symmetry == "general":
            return entries
        rows, columns, values = entries
        other = rows != columns
        mirrored = {"symmetric": values, "skew-symmetric": -values, "hermitian": np.conj(values)}[self.symmetry][other]
        return Entries(
            np.concatenate([rows, columns[other]]),
            np.concatenate([columns, rows[other]]),
            np.concatenate([values, mirrored]),
        )


def _decimal(token: bytes) -> float:
    """The number; Fortran writes d for e. ValueError, without words, for what is none."""
    if b"_" in token:  # which Python takes
        raise ValueError
    try:
        return float(token.lower().replace(b"d", b"e"))
    except ValueError:
        raise ValueError from None


def _integer(token: bytes) -> float:
    """The whole number; ValueError says what was expected instead of one that float64 does not hold."""
    if not token.removeprefix(b"-" if token.startswith(b"-") else b"+").isdigit():
        raise ValueError("a whole number is expected, as the header says 'integer'")
    number = float(token)
    if math.isinf(number) or number != int(token):
        raise ValueError("float64 does not hold this number; 'real' in the header would have it rounded")
    return number


_NOTHING = Entries(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def open_matrix_market(comm: MPI.Comm, where: str) -> MatrixMarket | None:
    """What the header of ``where`` says, or None if it is no MatrixMarket file. Rank 0 reads, the others are told.

    Raises InputError for a damaged header, also if it is hardly recognisable, and fields and symmetries that do not
    exist.
    """
    found: MatrixMarket | None = on_root(comm, lambda: _inspect(Path(where)))
    return found


def _inspect(path: Path) -> MatrixMarket | None:
    text = text_file(path)
    if text is None:
        return None  # whoever opens it as an array will say so
    with text.opened() as file:
        banner = file.readline(_LONGEST_BANNER)
        if banner.lower().startswith(_BYTE_ORDER_MARK + _BANNER):
            raise InputError(f"{path}: begins with a byte-order mark; '%%MatrixMarket' must be its first bytes")
        if not banner.lower().startswith(_BANNER) and not _BANNER_LIKE.search(banner):
            return None
        if b"\r" in banner.rstrip(b"\r\n"):
            raise InputError(f"{path}: {LONE_RETURN}")
        shown = banner.decode("ascii", "replace").rstrip()[:80]
        words = banner.decode("ascii", "replace").lower().split()
        if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
            raise InputError(
                f"{path}: its first line is {shown!r}; '%%MatrixMarket matrix coordinate FIELD SYMMETRY' is expected"
            )
        if words[2] not in ("coordinate", "array"):
            raise InputError(f"{path}: holds a matrix as {words[2]}; coordinate or array is expected")
        dense = words[2] == "array"
        fields = [field for field in _FIELDS if field != "pattern" or not dense]
        if words[3] not in fields or words[4] not in _SYMMETRIES:
            raise InputError(
                f"{path}: is {words[3]} {words[4]}; one of {', '.join(fields)} and one of {', '.join(_SYMMETRIES)} "
                f"are expected"
            )
        line = file.readline()
        while line.startswith(b"%") or (line and not line.strip()):
            line = file.readline()
        sizes = line.split()
        if len(sizes) != 3 - dense or not all(size.isdigit() and len(size) <= 18 for size in sizes):
            expected = "rows columns" if dense else "rows columns entries"
            raise InputError(f"{path}: its size line is {line[:200]!r}; '{expected}' is expected")
        m, n = int(sizes[0]), int(sizes[1])
        if words[4] != "general" and m != n:
            raise InputError(f"{path}: is {words[4]}, but {m} x {n}")
        triangle = {"general": m * n, "skew-symmetric": m * (m - 1) // 2}.get(words[4], m * (m + 1) // 2)
        entries = triangle if dense else int(sizes[2])
        return MatrixMarket(text, words[3], words[4], (m, n), entries, file.tell(), dense)


def warm_up() -> None:
    """Compile or load the parser."""
    MatrixMarket(TextFile(Path(), False), "real", "general", (1, 1), 1, 0)._parsed(0, b"1 1 1\n", values=True)
