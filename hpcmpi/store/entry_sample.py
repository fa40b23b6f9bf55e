"""A few entries of matrices and edges of graphs in files, read as an ordinary program would read them.

Checks compare them with what the ranks hold. That a reader is right is not shown by what the same reader returns again:
nothing here uses the parsers and readers that jobs use, only h5py, NumPy and Python's own text. Where a file allows
random access, entries are drawn from all of it, else (gzip, ``.npz``) from its beginning. Reading stops after
``_SECONDS``. Everything here is local.
"""

from __future__ import annotations

import gzip
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpcmpi.errors import InputError

_SAMPLES = 16
_SECONDS = 0.05
_PREFIX_BYTES = 1 << 16
_PREFIX = 1 << 14  # elements
_SHOWN = 60  # characters of a line


class Entry(NamedTuple):
    """An entry at a 0-based place, or an edge; ``value`` is None where there is none; ``place`` is where it stands."""

    row: int
    column: int
    value: Any
    place: str


def sample_list(path: Path, *, first_id: int = 0) -> list[Entry]:
    """Edges of lines ``id id ...``, comments excepted; ids are counted from ``first_id``."""
    return _drawn(path, 0, lambda line: _entry(line, first_id, values=False))


def sample_market(path: Path, *, values: bool, nonzero: bool = False) -> list[Entry]:
    """Entries of a MatrixMarket file as they stand in it, or elements of an array with their places.

    With ``nonzero``, only those elements of an array are drawn that are not 0.
    """
    with _text(path) as file:
        words = file.readline().decode().lower().split()
        size = next(line for line in iter(file.readline, b"") if line.strip() and not line.startswith(b"%"))
        body = file.tell()
        first = file.read(_PREFIX_BYTES).splitlines(keepends=True)
    field, symmetry = words[3], words[4]
    if words[2] == "coordinate":
        with_values = values and field != "pattern"
        return _drawn(path, body, lambda line: _entry(line, 1, values=with_values, one=values))
    m = int(size.split()[0])
    n = int(size.split()[1])
    below, strictly = symmetry != "general", symmetry == "skew-symmetric"
    places = ((row, column) for column in range(n) for row in range(below * column + strictly, m))
    lines = [line for line in first if line.endswith(b"\n") and line.strip() and not line.startswith(b"%")]
    entries = [Entry(*place, _value(line.split()), _line(line)) for line, place in zip(lines, places, strict=False)]
    return _chosen([entry for entry in entries if not nonzero or entry.value != 0])


def sample_adjacency(path: Path) -> list[Entry]:
    """Edges from the first number of each line to one of the others."""

    def parsed(line: bytes) -> Entry | None:
        ids = line.split()
        return Entry(int(ids[0]), int(ids[_random().integers(1, len(ids))]), None, _line(line)) if ids[1:] else None

    return _drawn(path, 0, parsed)


def sample_metis(path: Path) -> list[Entry]:
    """Edges of the first vertices of a METIS file."""
    with _text(path) as file:
        lines = [line for line in file.read(_PREFIX_BYTES).splitlines(keepends=True) if not line.startswith(b"%")]
    while lines and not lines[0].strip():
        lines.pop(0)
    header = [int(word) for word in lines[0].split()]
    form = f"{header[2] if len(header) > 2 else 0:03d}"
    skipped = int(form[0]) + int(form[1]) * (header[3] if len(header) > 3 else 1)
    whole = [line for line in lines[1:] if line.endswith(b"\n")][: header[0]]
    found = ((vertex, line.split()[skipped :: 1 + int(form[2])], line) for vertex, line in enumerate(whole))
    return _chosen([Entry(vertex, int(ids[-1]) - 1, None, _line(line)) for vertex, ids, line in found if ids])


def sample_pairs(where: tuple[Path, str]) -> list[Entry]:
    """Edges of an array (edges, 2) or (2, edges) in ``.npy``, ``.npz`` or HDF5."""
    with _arrays(where[0]) as find:
        array = find(where[1])
        count = len(array) if array.shape[1] == 2 else array.shape[1]

        def edge(at: int) -> Entry:
            ends = array[at] if array.shape[1] == 2 else array[:, at]
            return Entry(int(ends[0]), int(ends[1]), None, f"edge {at}")

        return _within_time(edge, count)


def sample_sparse(where: tuple[Path, str], layout: str, *, values: bool) -> list[Entry]:
    """Entries of a sparse matrix in a group of HDF5, or in SciPy's ``.npz``."""
    path, group = where
    with _arrays(path) as find:
        names = ("indptr", "indices")
        if layout == "coo":
            names = ("row", "col")
        elif find(f"{group}/indptr") is None:
            names = ("jc", "ir")
        outer, inner = (find(f"{group}/{name}") for name in names)
        data = find(f"{group}/data") if values else None

        def entry(at: int) -> Entry:
            line = outer[at] if layout == "coo" else bisect_right(outer, at) - 1
            places = (int(line), int(inner[at]))
            row, column = places[::-1] if layout == "csc" else places
            return Entry(row, column, None if data is None else data[at], f"entry {at}")

        known = len(outer) if layout == "coo" else int(outer[len(outer) - 1])  # less than all in a prefix
        return _within_time(entry, min(known, len(inner)))


@contextmanager
def _text(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as text:
            yield text
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _random() -> np.random.Generator:
    return np.random.default_rng()


def _drawn(path: Path, body: int, parsed: Callable[[bytes], Entry | None]) -> list[Entry]:
    """Entries of the first line behind byte ``body``, and of lines drawn from all that can be reached."""
    with _text(path) as file:
        if isinstance(file, gzip.GzipFile):
            file.seek(body)
            lines = [line for line in file.read(_PREFIX_BYTES).splitlines(keepends=True) if line.endswith(b"\n")]
            entries = [parsed(line) for line in lines if _counts(line)]
            return _chosen([entry for entry in entries if entry is not None])
        size = file.seek(0, 2) - body
        found, until = [], time.perf_counter() + _SECONDS
        for offset in [0, *_random().integers(0, max(1, size), _SAMPLES).tolist()]:
            file.seek(body + max(0, offset - 1))
            if offset:
                file.readline()  # of which only the end may be seen
            line = next((line for line in iter(file.readline, b"") if _counts(line)), b"")
            entry = parsed(line) if line else None
            found += [entry] if entry is not None else []
            if time.perf_counter() > until:
                break
    return found


def _counts(line: bytes) -> bool:
    """Whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith((b"#", b"%", b"//"))


def _entry(line: bytes, first_id: int, *, values: bool, one: bool = False) -> Entry:
    words = line.replace(b",", b" ").split()
    value = _value(words[2:]) if values else 1.0 if one else None
    return Entry(int(words[0]) - first_id, int(words[1]) - first_id, value, _line(line))


def _value(words: Sequence[bytes]) -> complex | float:
    numbers = [float(word.lower().replace(b"d", b"e")) for word in words]
    return complex(*numbers) if len(numbers) == 2 else numbers[0]


def _line(line: bytes) -> str:
    return f"line {line.decode('utf-8', 'replace').strip()[:_SHOWN]!r}"


def _chosen(entries: list[Entry]) -> list[Entry]:
    """The first of ``entries`` and some of the others."""
    places = _random().permutation(len(entries))[: _SAMPLES - 1].tolist()
    return [entries[place] for place in sorted({0, *places})] if entries else []


def _within_time(entry: Callable[[int], Entry], count: int) -> list[Entry]:
    """Entries at the first and last place and at random ones, as many as the time allows."""
    found, until = [], time.perf_counter() + _SECONDS
    for at in [0, count - 1, *_random().integers(0, count, _SAMPLES - 2).tolist()] if count else []:
        found.append(entry(at))
        if time.perf_counter() > until:
            break
    return found


@contextmanager
def _arrays(path: Path) -> Iterator[Callable[[str], Any]]:
    """What finds an array of a file by its name, or None; of ``.npz`` its first elements."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x93NUMPY"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        yield lambda _name: array
    elif magic.startswith(b"PK"):
        with np.load(path, allow_pickle=False) as archive:
            yield lambda name: _first_elements(archive, name.lstrip("/"))
    else:
        with h5py.File(path, "r", locking="best-effort") as held:
            yield held.get


def _first_elements(archive: Any, name: str) -> Any:
    """The first elements, or rows, of an array in an archive."""
    if name not in archive.files:
        return None
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = reader(file)
        width = int(np.prod(shape[1:], dtype=np.int64))
        if by_columns or width > _PREFIX:  # not in rows of a few elements
            return archive[name]
        rows = min(shape[0], _PREFIX // max(1, width))
        return np.frombuffer(file.read(rows * width * dtype.itemsize), dtype).reshape(rows, *shape[1:])
