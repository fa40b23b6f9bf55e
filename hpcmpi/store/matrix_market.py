"""MatrixMarket files of sparse matrices, read by all ranks at once (Boisvert, Pozo, Remington 1996, NISTIR 5935)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.store.text import TextFile, text_file
from hpcmpi.store.text_kernels import parse_entries

_BANNER = b"%%matrixmarket"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELDS = {"pattern": 0, "integer": 1, "real": 1, "complex": 2}  # numbers a line beside row and column
_SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")
_SHORTEST_LINE = 4  # bytes: two digits, a space, a line feed


class Entries(NamedTuple):
    """Entries of a matrix, at 0-based places: (k,) int64, (k,) int64, (k,) float64 or complex128."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[Any]


@dataclass(frozen=True)
class MatrixMarket:
    """What the header of a file says; ``offset`` is where the entries begin, ``entries`` how many lines there are."""

    file: TextFile
    field: str
    symmetry: str
    shape: tuple[int, int]
    entries: int
    offset: int

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

    def read(self, comm: MPI.Comm, *, whole: bool = True) -> Entries:
        """This rank's share of the entries, with both halves of a symmetric matrix if ``whole``. Collective.

        Raises InputError, on all ranks, for a line that is no entry or lies outside, and if there are too few or many.
        """
        with agreement(comm):
            parts = [self._parsed(*piece) for piece in self.file.pieces(self.offset, comm.size, comm.rank)]
            rows, columns, values = (np.concatenate(x) for x in zip(*parts, strict=True)) if parts else _NOTHING
        found = comm.allreduce(len(rows))
        with agreement(comm):
            if found != self.entries:
                raise InputError(f"{self}: {found} entries found, {self.entries} expected by its header")
            entries = Entries(rows, columns, values.astype(self.dtype, copy=False))
            return self._completed(entries) if whole else entries

    def _parsed(self, at: int, text: bytes) -> Entries:
        numbers = _FIELDS[self.field]
        room = min(text.count(b"\n") + 1, self.entries + 1, len(text) // _SHORTEST_LINE + 1)
        rows, columns = np.empty((2, room), np.int64)
        values = np.ones((room, max(1, numbers)))
        careful = np.empty((room * numbers, 4), np.int64)
        symbols = np.frombuffer(bytearray(text), np.uint8)
        integer = self.field == "integer"
        count, left, bad = parse_entries(symbols, *self.shape, numbers, integer, rows, columns, values, careful)
        if bad >= 0:
            raise self._refused(at + bad)
        number = _integer if integer else _decimal
        for entry, which, begin, end in careful[:left].tolist():
            try:
                values[entry, which] = number(text[begin:end])
            except ValueError as error:
                raise self._refused(at + text.rfind(b"\n", 0, begin) + 1, str(error)) from None
        odd = self._odd_diagonal(rows[:count], columns[:count], values[:count])
        if odd.size:
            room = int(odd[0])  # then the parser stops at the line of that entry
            *_, bad = parse_entries(symbols, *self.shape, numbers, integer, rows[:room], columns, values, careful)
            expected = (
                "no entry on the diagonal" if self.symmetry == "skew-symmetric" else "a real number on the diagonal"
            )
            raise self._refused(at + bad, f"{expected} of a {self.symmetry} matrix is expected")
        wide = values[:count, 0] + 1j * values[:count, 1] if numbers == 2 else values[:count, 0]
        return Entries(rows[:count], columns[:count], wide)

    def _odd_diagonal(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Entries on the diagonal that the symmetry rules out."""
        if self.symmetry == "skew-symmetric":
            return np.flatnonzero(rows == columns)
        if self.symmetry == "hermitian" and self.field == "complex":
            return np.flatnonzero((rows == columns) & ~(values[:, 1] == 0))
        return np.empty(0, np.intp)

    def _refused(self, at: int, expected: str = "") -> InputError:
        form = " ".join(["row", "column", "value", "value"][: 2 + _FIELDS[self.field]])
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

    Raises InputError for a damaged header, a dense (``array``) matrix, and fields and symmetries that do not exist.
    """
    found: MatrixMarket | None = on_root(comm, lambda: _inspect(Path(where)))
    return found


def _inspect(path: Path) -> MatrixMarket | None:
    text = text_file(path)
    if text is None:
        return None  # whoever opens it as an array will say so
    with text.opened() as file:
        banner = file.readline(1000)
        if banner.lower().startswith(_BYTE_ORDER_MARK + _BANNER):
            raise InputError(f"{path}: begins with a byte-order mark; '%%MatrixMarket' must be its first bytes")
        if not banner.lower().startswith(_BANNER):
            return None
        words = banner.decode("ascii", "replace").lower().split()
        if len(words) != 5 or words[1] != "matrix":
            raise InputError(f"{path}: its first line is {banner!r}; '%%MatrixMarket matrix ...' is expected")
        if words[2] != "coordinate":
            raise InputError(
                f"{path}: holds a dense ({words[2]}) matrix; a coordinate one, or HDF5 or .npy, is expected"
            )
        if words[3] not in _FIELDS or words[4] not in _SYMMETRIES:
            raise InputError(
                f"{path}: is {words[3]} {words[4]}; one of {', '.join(_FIELDS)} and one of {', '.join(_SYMMETRIES)} "
                f"are expected"
            )
        line = file.readline()
        while line.startswith(b"%") or (line and not line.strip()):
            line = file.readline()
        sizes = line.split()
        if len(sizes) != 3 or not all(size.isdigit() and len(size) <= 18 for size in sizes):
            raise InputError(f"{path}: its size line is {line[:200]!r}; 'rows columns entries' is expected")
        m, n, entries = (int(size) for size in sizes)
        if words[4] != "general" and m != n:
            raise InputError(f"{path}: is {words[4]}, but {m} x {n}")
        return MatrixMarket(text, words[3], words[4], (m, n), entries, file.tell())


def warm_up() -> None:
    """Compile or load the parser."""
    MatrixMarket(TextFile(Path(), False), "real", "general", (1, 1), 1, 0)._parsed(0, b"1 1 1\n")
