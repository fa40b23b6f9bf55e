"""A result file read back: its attributes, phases and ranks, and whether its blocks are what was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpcmpi.errors import InputError
from hpcmpi.store.hdf5 import (
    DAMAGE,
    MARK,
    MARK_VALUE,
    checksum,
    is_column,
    load_filters,
    open_hdf5,
    written_by_hpcmpi,
)
from hpcmpi.store.kind import kind

_PIECE_BYTES = 32 << 20


class BlockCheck(NamedTuple):
    """One block of a dataset: where it is, and the crc32 that was written and the one that is found."""

    dataset: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    written: int
    found: int


@contextmanager
def results(path: Path) -> Iterator[list[Any]]:
    """The groups of the runs in ``path``, open in the body.

    Raises InputError if it is no file of ours, or damaged, also where the body stumbles over it.
    """
    if (found := kind(path)) != "file":
        reasons = {"folder": "is a folder, not a file", "missing": "no such file"}
        raise InputError(f"{path}: {reasons.get(found, 'is a device, a pipe or a socket, not a file')}")
    with open_hdf5(path) as file:
        groups = [group for group in _members(file, path) if isinstance(group, h5py.Group) and written_by_hpcmpi(group)]
        if not groups:
            raise InputError(f"{path}: holds no result of hpcmpi: no group has the attribute {MARK} = {MARK_VALUE}")
        yield groups


def _members(file: Any, path: Path) -> Iterator[Any]:
    """Objects at the top of ``file``, without dangling links; InputError for one that could be a damaged result."""
    for name in file:
        try:
            yield file[name]
        except DAMAGE as error:
            if isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise InputError(f"{path}:/{name}: cannot be opened: {error}") from error


def table(group: Any, name: str) -> Any:
    """The table ``name`` of a run; InputError if damage has made it longer than its file."""
    dataset = group[name]
    if dataset.nbytes > Path(group.file.filename).stat().st_size:
        raise InputError(f"{group.file.filename}: damaged HDF5 file: {dataset.name} is longer than the file")
    return dataset[...]


def rows(group: Any, name: str) -> list[Any]:
    """The table ``name`` of a run, ``ranks`` or ``phases``: for each rank, and each phase of it, a dict of columns."""
    if isinstance(group[name], h5py.Dataset):  # as files of 2026 before December have it
        found = table(group, name)
        columns = {column: found[column] for column in found.dtype.names}
    else:
        arrays = {column: item for column, item in group[name].items() if not item.is_scale}
        columns = {column: table(group[name], column) for column in arrays}
    first = next(iter(columns.values()))

    def row(place: tuple[int, ...]) -> dict[str, Any]:
        return {column: values[place] for column, values in columns.items()}

    if first.ndim == 1:
        return [row((rank,)) for rank in range(first.shape[0])]
    return [[row((rank, phase)) for phase in range(first.shape[1])] for rank in range(first.shape[0])]


def phase_names(group: Any) -> list[str]:
    """Names of the columns of the table ``phases``."""
    if isinstance(group["phases"], h5py.Dataset):
        return [str(name) for name in group["phases"].attrs["names"]]
    return [name.decode() for name in table(group["phases"], "phase")]


def check_blocks(group: Any) -> Iterator[BlockCheck]:
    """Read every block of a run's datasets and compute its crc32 anew, in pieces that fit in memory."""
    names: list[str] = []
    if "checksums" in group:
        group["checksums"].visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    arrays: list[str] = []
    group.visititems(lambda name, item: arrays.append(name) if is_array(name, item) else None)
    for name in sorted({*names} ^ {*arrays}):
        raise InputError(f"{group.file.filename}:{group.name}/{name}: the array or its checksums are missing")
    for name in names:
        dataset = load_filters(group[name])
        for start, shape, crc in table(group, f"checksums/{name}"):
            yield BlockCheck(
                name, tuple(start.tolist()), tuple(shape.tolist()), int(crc), _crc32(dataset, start, shape)
            )


def is_array(name: str, item: Any) -> bool:
    """Whether an item of a run's group is one of its arrays, and no table or scale."""
    return (
        isinstance(item, h5py.Dataset)
        and name not in ("phases", "ranks")  # as files of 2026 before December have them
        and not is_column(item)
        and not item.is_scale
        and not name.startswith("checksums/")
    )


def _crc32(dataset: Any, start: Any, shape: Any) -> int:
    if dataset.ndim == 0:
        return checksum(np.asarray(dataset[()]))
    crc = 0
    row_bytes = int(np.prod(shape[1:], dtype=object)) * dataset.dtype.itemsize
    rows = max(1, _PIECE_BYTES // max(1, row_bytes))
    others = tuple(slice(s, s + n) for s, n in zip(start[1:], shape[1:], strict=True))
    for at in range(int(start[0]), int(start[0] + shape[0]), rows):
        crc = checksum(dataset[(slice(at, min(at + rows, int(start[0] + shape[0]))), *others)], crc)
    return crc
