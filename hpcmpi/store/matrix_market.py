"""MatrixMarket files of sparse matrices, read by all ranks at once (Boisvert, Pozo, Remington 1996, NISTIR 5935)."""

from __future__ import annotations

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
        count, left, bad = parse_entries(symbols, *self.shape, numbers, rows, columns, values, careful)
        if bad >= 0:
            raise self._refused(at + bad)
        for entry, which, begin, end in careful[:left].tolist():
            try:
                values[entry, which] = float(text[begin:end].lower().replace(b"d", b"e"))
            except ValueError:
                raise self._refused(at + text.rfind(b"\n", 0, begin) + 1) from None
        wide = values[:count, 0] + 1j * values[:count, 1] if numbers == 2 else values[:count, 0]
        return Entries(rows[:count], columns[:count], wide)

    def _refused(self, at: int) -> InputError:
        form = " ".join(["row", "column", "value", "value"][: 2 + _FIELDS[self.field]])
        rows, columns = self.shape
        return self.file.bad_line(at, f"'{form}' inside {rows} x {columns} is expected, {self.entries} times")

    def _completed(self, entries: Entries) -> Entries:
        """Both halves of the matrix, where one is stored."""
        if self.symmetry == "general":
            return entries
        rows, columns, values = entries
        if self.symmetry == "skew-symmetric" and np.any(rows == columns):
            raise InputError(f"{self}: is skew-symmetric, but holds an entry on the diagonal")
        other = rows != columns
        mirrored = {"symmetric": values, "skew-symmetric": -values, "hermitian": np.conj(values)}[self.symmetry][other]
        return Entries(
            np.concatenate([rows, columns[other]]),
            np.concatenate([columns, rows[other]]),
            np.concatenate([values, mirrored]),
        )


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
