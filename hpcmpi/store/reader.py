"""Arrays in: ``FILE[:/dataset]`` of HDF5, ``.npz`` or ``.npy``, opened by every rank; each reads its own part."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError, cut
from hpcmpi.machine import READ_BYTES
from hpcmpi.partition import Range, pieces
from hpcmpi.store.hdf5 import attribute, described, dtype_of, load_filters, open_hdf5, shown
from hpcmpi.store.kind import kind
from hpcmpi.store.npz import ZIP_SIGNATURE, Member, members, read_header
from hpcmpi.store.references import check_whole, datasets, find, listed

_PIECE_BYTES = READ_BYTES
_noted: set[str] = set()  # arrays whose notes have been printed
NPY_SIGNATURE = b"\x93NUMPY"


@dataclass(frozen=True)
class Source:
    """An array in a file: where it is, its shape and its dtype.

    ``dataset`` is None for ``.npy`` and for a file without a header, which ``raw`` tells. ``unit`` is the shape of what
    must be read, and inflated, as a whole whatever part of it is asked for: a chunk of HDF5, a row or column of
    ``.npz`` (which are also read from the first one on). It is None where any part can be read by itself. ``offset`` is
    the place of an array that lies row by row, in elements of ``dtype``, in the file ``stored_in``: not ``path`` where
    links lead to the array. ``notes`` report what the file says of the numbers and reading does not apply.
    """

    path: Path
    dataset: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    raw: bool = False
    unit: tuple[int, ...] | None = None
    offset: int | None = None
    stored_in: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> str:
        """What its elements are called."""
        return described(self.dtype)

    @property
    def unit_bytes(self) -> int:
        """Bytes of a unit; 0 where there are none."""
        return math.prod(self.unit) * self.dtype.itemsize if self.unit else 0

    def __str__(self) -> str:
        return f"{self.path}:{self.dataset}" if self.dataset else str(self.path)

    def read(self, comm: MPI.Comm, part: tuple[Range, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Each rank's own ``part`` as a C-contiguous array of ``dtype``; collective, so that errors are common.

        Raises InputError if the file cannot be read to the end.
        """
        with agreement(comm):
            return self._read(part, np.dtype(dtype))

    def read_alone(self, part: tuple[Range, ...], dtype: DTypeLike) -> NDArray[Any]:
        """As :meth:`read`, but this rank alone. Local: an error should be agreed on by the caller.

        Rows of a matrix that lie in the file as they are are read as such: a map of the file would hold its pages, and
        HDF5 reads some way ahead in each row.
        """
        if self.offset is None or len(part) != 2:
            return self._read(part, np.dtype(dtype))
        rows, columns = part
        out = np.empty((rows.size, columns.size), dtype)
        nbytes = max(1, columns.size * self.dtype.itemsize)
        with (self.stored_in or self.path).open("rb", buffering=0) as file:
            for piece in pieces(rows, max(1, _PIECE_BYTES // nbytes)) if out.size else ():
                target = out[piece.start - rows.start : piece.stop - rows.start]
                found = target if out.dtype == self.dtype else np.empty(target.shape, self.dtype)
                self._read_rows(file.fileno(), piece, columns, found)
                if found is not target:
                    self.convert(found, target, (piece, columns))
        return out

    def _read_rows(self, descriptor: int, rows: Range, columns: Range, out: NDArray[Any]) -> None:
        """Fill the contiguous ``out``, of this array's dtype, from a file of rows."""
        for number, line in enumerate(out.reshape(1, -1) if columns.size == self.shape[1] else out):
            data = line.view(np.uint8).data
            at = ((rows.start + number) * self.shape[1] + columns.start) * self.dtype.itemsize + (self.offset or 0)
            while data.nbytes:
                found = os.preadv(descriptor, [data], at)
                if not found:
                    raise InputError(f"{self}: truncated: cannot read rows {rows.start} to {rows.stop}")
                data, at = data[found:], at + found

    def _read(self, part: tuple[Range, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        out = np.empty(tuple(r.size for r in part), dtype)
        if out.size == 0:
            return out
        whole = part[0] if part else Range(0, 1)  # a scalar is one row
        with self._opened() as array:
            for rows in _whole_units(whole, max(1, _PIECE_BYTES * whole.size // out.nbytes), self.unit):
                place = (slice(rows.start - whole.start, rows.stop - whole.start),)[: len(part)]
                index = (rows.slice, *(r.slice for r in part[1:]))[: len(part)]
                target: NDArray[Any] = out[(*place, ...)]  # type: ignore[arg-type]  # NumPy's stubs know no such tuple
                if self.unit and array.dtype == dtype and hasattr(array, "read_direct"):
                    self._get(array, index, target)
                else:
                    self.convert(self._get(array, index), target, (rows, *part[1:])[: len(part)])
        return out

    def scan(
        self, part: tuple[Range, Range], nbytes: int, turn: int, turns: int
    ) -> Iterator[tuple[tuple[Range, Range], NDArray[Any]]]:
        """Pieces of ``part`` of a matrix, where each lies and its elements, every unit read once.

        Pieces are at most ``nbytes`` large, or one unit. Of ``turns`` readers that take one after the other this is
        reader ``turn``; what can only be read from the first row on, all of it, is for reader 0. Local.
        """
        if self.dataset is not None and is_npz(self.path):
            if turn == 0:
                yield from self._scan_npz(part, nbytes)
            return
        rows, columns = self.unit or (1, 1)
        wide = max(1, nbytes // max(1, rows * self.dtype.itemsize))
        high = max(1, nbytes // max(1, min(wide, part[1].size + columns) * self.dtype.itemsize))
        places = [
            (part_rows, part_columns)
            for part_rows in _whole_units(part[0], high, (rows,))
            for part_columns in _whole_units(part[1], wide, (columns,))
        ]
        with self._opened(rdcc_nbytes=0) as array:  # nothing is read twice, so no cache
            for place in places[turn::turns]:
                yield place, self._get(array, (place[0].slice, place[1].slice))

    def _scan_npz(self, part: tuple[Range, Range], nbytes: int) -> Iterator[tuple[tuple[Range, Range], NDArray[Any]]]:
        with Member(self.path, self.dataset or "") as member:
            by_columns = member.unit[0] != 1
            outer, inner = part[::-1] if by_columns else part
            for lines in pieces(Range(0, outer.stop), max(1, nbytes // max(1, self.unit_bytes))):
                found = member.lines(lines)
                kept = Range(max(lines.start, outer.start), lines.stop)
                if kept.size > 0:
                    found = found[kept.start - lines.start :, inner.slice]
                    yield ((inner, kept), found.T) if by_columns else ((kept, inner), found)

    def _get(self, array: Any, index: tuple[slice, ...], target: NDArray[Any] | None = None) -> Any:
        """``array[index]``, or that put straight into ``target``."""
        try:
            return array[index] if target is None else array.read_direct(target, index)
        except (OSError, RuntimeError) as error:
            rows = index[0] if index else slice(0, 1)
            raise InputError(f"{self}: cannot read rows {rows.start} to {rows.stop}: {error}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"{self}: holds {self.holds}, which cannot be read: {error}") from error

    def convert(self, found: Any, out: NDArray[Any], part: tuple[Range, ...]) -> None:
        """Fill ``out`` with ``found``, this array's ``part``; InputError if it has a number too large for ``out``."""
        try:
            with np.errstate(over="raise"):
                out[...] = found
        except FloatingPointError:
            with np.errstate(over="ignore"):
                lost = np.isfinite(found) & ~np.isfinite(np.asarray(found).astype(out.dtype))
            found, first = np.asarray(found), np.unravel_index(int(np.argmax(lost)), lost.shape)
            place = ", ".join(str(r.start + int(i)) for r, i in zip(part, first, strict=True))
            raise InputError(
                f"{self}: element ({place}) is {found[first]}, which {out.dtype} cannot hold: "
                f"its largest number is {np.finfo(out.dtype).max:.4g}"
            ) from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{self}: holds {self.holds}, which cannot be read as {out.dtype}: {error}") from error

    @contextmanager
    def _opened(self, **options: Any) -> Iterator[Any]:
        """The array: an h5py dataset or a memory map; ``options`` are h5py's."""
        if self.dataset is not None:
            with Member(self.path, self.dataset) if is_npz(self.path) else self._in_hdf5(options) as array:
                yield array
            return
        try:
            if self.raw:
                array = np.memmap(self.path, self.dtype, "r", shape=self.shape)
            else:
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be opened: {error}") from error
        yield array

    @contextmanager
    def _in_hdf5(self, options: dict[str, Any]) -> Iterator[Any]:
        with open_hdf5(self.path, warn=False, **options) as file:  # rank 0 has warned when it read the header
            yield load_filters(find(file, self.dataset or "/", self.path))


def _whole_units(whole: Range, longest: int, unit: tuple[int, ...] | None) -> Iterator[Range]:
    """Cut ``whole`` into ranges of at most ``longest`` indices, or a unit's, that end where units do."""
    step = unit[0] if unit else 1
    length = max(step, longest // step * step)
    start = whole.start
    while start < whole.stop:
        stop = min(whole.stop, start // step * step + length)
        yield Range(start, stop)
        start = stop


def is_npz(path: Path) -> bool:
    """Whether a file holds NumPy arrays in a zip archive; not if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_SIGNATURE)) == ZIP_SIGNATURE
    except OSError:
        return False


def split_dataset(where: str) -> tuple[Path, str]:
    """(File, dataset) of ``FILE[:/dataset]``; the dataset is empty where none is named.

    Both may contain colons: of the places where ``where`` could be end, the last one after an existing file is taken,
    or the first one if none is.
    """
    cuts = [match.start() for match in re.finditer(":/", where)]
    for end in (len(where), *cuts[::-1], *cuts[:1]):
        if kind(where[:end]) == "file":
            break
    else:
        end = cuts[0] if cuts else len(where)
    return Path(where[:end]), where[end + 1 :]


def open_source(comm: MPI.Comm, where: str, *, ndim: int | None = None, record_bytes: int | None = None) -> Source:
    """Find the array that ``where``, ``FILE[:/dataset]``, names. Rank 0 reads the header; the others are told.

    Without ``:/dataset`` an HDF5 or ``.npz`` file must hold just one array of numbers with ``ndim`` dimensions. With
    ``record_bytes``, a file that is none of HDF5, ``.npz`` and ``.npy`` holds records of so many bytes, a row each.
    Raises InputError if the file is missing or damaged, if there is no such array, or if it has other dimensions.
    """
    source: Source = on_root(comm, lambda: inspect(where, ndim, record_bytes))
    if comm.rank == 0 and source.notes and str(source) not in _noted:
        _noted.add(str(source))
        sys.stderr.write(f"hpcmpi: warning: {source}: {'; '.join(source.notes)}\n")
    return source


def inspect(where: str, ndim: int | None, record_bytes: int | None = None) -> Source:
    """What :func:`open_source` does, on one rank."""
    import h5py

    path, dataset = split_dataset(where)
    if kind(path) == "folder":
        raise InputError(f"{path}: is a folder, not a file")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except FileNotFoundError:
        cuts = (match.start() for match in re.finditer(":", where))
        hint = next(
            (f"; a dataset is named {where[:at]}:/{where[at + 1 :]}" for at in cuts if kind(where[:at]) == "file"), ""
        )
        raise InputError(f"{path}: no such file{hint}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None
    if magic.startswith(NPY_SIGNATURE):
        source = _inspect_npy(path, dataset)
    elif h5py.is_hdf5(path):  # whose signature may come after a block of the user's, as in MATLAB's files
        source = _inspect_hdf5(path, dataset, ndim)
    elif record_bytes:
        source = _inspect_records(path, record_bytes)
    elif not magic:
        raise InputError(f"{path}: is empty")
    elif magic.startswith(ZIP_SIGNATURE):
        source = _inspect_npz(path, dataset, ndim)
    else:
        raise InputError(f"{path}: neither HDF5 nor .npy: it begins with the bytes {magic!r}")
    if ndim is not None and len(source.shape) != ndim:
        found = f"{len(source.shape)} dimensions, shape {source.shape}"
        raise InputError(f"{source}: has {found}; {ndim} are expected{_as_bytes(source)}")
    return source


def _as_bytes(source: Source) -> str:
    """How what holds strings can be read."""
    if source.dtype.kind != "S" or len(source.shape) != 1:
        return ""
    n, width = source.shape[0], source.dtype.itemsize
    return (
        f": strings of {width} bytes can be stored as uint8 of shape {(n, width)}, by .view('u1').reshape(-1, {width})"
    )


def _inspect_records(path: Path, record_bytes: int) -> Source:
    records, rest = divmod(path.stat().st_size, record_bytes)
    if rest:
        raise InputError(
            f"{path}: truncated: {path.stat().st_size} bytes found, a multiple of {record_bytes} expected of records"
        )
    return Source(path, None, (records, record_bytes), np.dtype(np.uint8), raw=True)


def _inspect_npy(path: Path, dataset: str) -> Source:
    if dataset:
        raise InputError(f"{path}: a .npy file holds one array and no dataset {dataset!r}")
    with path.open("rb") as file:
        shape, by_columns, dtype = read_header(file, str(path))
        _check_numbers(dtype, str(path))
        offset = file.tell()
    expected, found = offset + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if found < expected:
        raise InputError(f"{path}: truncated: {found} bytes found, {expected} bytes expected by its .npy header")
    return Source(path, None, shape, dtype, offset=None if by_columns else offset)


def _check_numbers(dtype: np.dtype[Any], where: str) -> None:
    """Refuse what cannot be read into memory as it is."""
    if dtype.hasobject:
        raise InputError(f"{where}: holds {described(dtype)}; numbers are expected")


def _inspect_npz(path: Path, dataset: str, ndim: int | None) -> Source:
    if not dataset:
        found = members(path)
        numbers = [name for name, (_, dtype) in found.items() if dtype.kind in "biufc"]
        fitting = [name for name in numbers if ndim in (None, len(found[name][0]))]
        if len(fitting) != 1:
            what = f"name one array as {path}:/NAME" if numbers else "holds no array of numbers"
            listing = shown([f"/{name} {shape}" for name, (shape, _) in found.items()])
            raise InputError(f"{path}: {what}; there are: {listing}")
        dataset = f"/{fitting[0]}"
    with Member(path, dataset) as member:
        _check_numbers(member.dtype, f"{path}:{dataset}")
        return Source(path, dataset, member.shape, member.dtype, unit=member.unit)


def _inspect_hdf5(path: Path, dataset: str, ndim: int | None) -> Source:
    import h5py

    with open_hdf5(path) as file:
        dataset = dataset or _only_dataset(file, path, ndim)
        item = find(file, dataset, path)
        if not isinstance(item, h5py.Dataset):
            inside = datasets(item)[0] if isinstance(item, h5py.Group) else {}
            listing = listed({f"{dataset.rstrip('/')}{name}": found for name, found in inside.items()})
            raise InputError(f"{path}:{dataset}: is no dataset, but a group with: {listing}")
        dtype = dtype_of(item)
        if dtype is None:
            stored = item.id.get_type()
            name = type(stored).__name__.removeprefix("Type").removesuffix("ID").lower()
            found = f"elements of HDF5's class {name} of {stored.get_size()} bytes, for which NumPy has no type"
            raise InputError(f"{path}:{dataset}: holds {found}; numbers are expected")
        if item.shape is None:
            raise InputError(f"{path}:{dataset}: holds no array")
        _check_numbers(dtype, f"{path}:{dataset}")
        check_whole(item)
        as_in_memory = dtype.kind in "biufc" and item.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True))
        lies_there = as_in_memory and item.id.get_storage_size() == item.nbytes  # not one that was never written
        offset = item.id.get_offset() if lies_there else None
        stored_in = None if offset is None else Path(item.file.filename)
        return Source(
            path,
            dataset,
            tuple(item.shape),
            dtype,
            unit=item.chunks,
            offset=offset,
            stored_in=stored_in,
            notes=conventions(item),
        )


def conventions(item: Any) -> tuple[str, ...]:
    """What an HDF5 dataset's attributes say of its numbers that reading does not apply.

    NetCDF's fill values and packing, except those that change nothing, and the reversed dimensions of MATLAB.
    """
    notes, listing = [], []
    for name in ("_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "valid_range"):
        value = attribute(item, name)
        if value is None:
            continue
        values = np.asarray(value)
        neutral = {"scale_factor": 1, "add_offset": 0}.get(name)
        if values.dtype.kind in "fiu" and (np.all(values == neutral) or np.all(np.isnan(values))):
            continue
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(values.tolist())
        listing.append(f"{name} = {cut(text.strip('[]'))}")
    if listing:
        notes.append(f"numbers are taken as they are stored, without regard to {', '.join(listing)}")
    if attribute(item, "MATLAB_class") is not None and len(item.shape) > 1:
        notes.append("MATLAB stores its dimensions in reverse: a matrix is read transposed")
    return tuple(notes)


def _only_dataset(file: Any, path: Path, ndim: int | None) -> str:
    """Name of the one dataset of numbers with ``ndim`` dimensions; InputError if there is none, or several."""
    found, broken = datasets(file)
    kinds = {name: dtype for name, item in found.items() if (dtype := dtype_of(item)) is not None}
    numbers = [name for name, dtype in kinds.items() if dtype.kind in "biufc"]  # no tables
    fitting = [name for name in numbers if ndim in (None, found[name].ndim)]
    if len(fitting) == 1:
        return fitting[0]
    listing = listed(found) + (f"; cannot be opened: {shown(broken)}" if broken else "")
    if numbers:
        raise InputError(f"{path}: name one dataset as {path}:/DATASET; there are: {listing}")
    raise InputError(f"{path}: holds no dataset of numbers; there are: {listing}")
