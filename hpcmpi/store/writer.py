"""One ordinary HDF5 file written by all ranks, without parallel HDF5.

1. Rank 0 creates contiguous datasets with their space allocated and tells where in the file each begins. How it is
   with compressed ones, :mod:`~hpcmpi.store.compression` says.
2. Every rank writes its block there with ``pwrite``, and takes its crc32.
3. Every rank syncs; rank 0 adds attributes and tables, marks the group complete, syncs, and renames the file.

States: *reserved* (an empty partial file), *written* (all blocks on disk), *published* (the target). Before the last
one the target is what it was. The file format stays within HDF5 1.10's, so that older tools read it.
"""

from __future__ import annotations

import errno
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.errors import OutputError
from hpcmpi.record import Block, Phases, Scalar
from hpcmpi.store import publication
from hpcmpi.store.compression import Chunks, creation, encoder, lay_out, worthwhile
from hpcmpi.store.hdf5 import MARK, MARK_VALUE, TABLE, checksum, strips
from hpcmpi.store.publication import Writer

_LARGEST_PWRITE = 1 << 30  # Linux writes at most 2 GiB less a page at once
_ALIGNMENT = 1 << 20
_LONGEST_TEXT = 60_000  # bytes
_DESCRIPTION_BYTES = 1 << 18  # room for what HDF5 writes beside the elements of tables
_DESCRIPTION_BYTES_AN_ARRAY = 1 << 13
_INDEX_BYTES_A_CHUNK = 256
_STRING_BYTES = 64  # of one that lies in HDF5's heap, beside its text
_RESERVED = ("checksums", "phases", "ranks", "provenance")  # what a group holds beside arrays and scales
_NETCDF_DIMENSION = "This is a netCDF dimension but not a netCDF variable."


@dataclass(frozen=True)
class Table:
    """What rank 0 knows of all ranks: ``columns`` over the same named dimensions ``dims``, each an array of its own.

    That is what netCDF's and xarray's tools show; they cut strings in compounds to one character. A column is numbers,
    or a list of strings. ``units`` are those of columns, ``labels`` the names of the places along a dimension.
    """

    dims: tuple[str, ...]
    columns: Mapping[str, NDArray[Any] | list[str]]
    description: str
    units: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file, without what describes it."""
        return sum(
            sum(_STRING_BYTES + len(text.encode()) for text in values) if isinstance(values, list) else values.nbytes
            for values in (*self.columns.values(), *self.labels.values())
        )


def _write_table(group: Any, table: Table) -> None:
    import h5py

    group.attrs.update({TABLE: 1, "description": table.description})
    for dim, names in table.labels.items():
        group.create_dataset(dim, data=names, dtype=h5py.string_dtype()).make_scale(dim)
    for name, values in table.columns.items():
        if isinstance(values, list):
            dataset = group.create_dataset(name, data=values, dtype=h5py.string_dtype())
        else:
            dataset = group.create_dataset(name, data=values)
        if name in table.units:
            dataset.attrs["units"] = table.units[name]
        _attach_scales(group, name, dataset.shape, table.dims, set())


class Output:
    """The file ``target`` while the ranks of ``comm`` make it.

    ``group`` names its one group, ``writer`` the job and attempt. ``durable=False`` leaves the syncing to the operating
    system. ``compress`` is ``gzip`` or ``zstd`` (which needs the extra of that name), for arrays of 64 KiB and more.
    Raises OutputError, on all ranks, when the target cannot be written.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        target: Path,
        group: str,
        writer: Writer,
        *,
        force: bool = False,
        durable: bool = True,
        compress: str | None = None,
    ) -> None:
        self.comm, self.target, self.group, self.writer = comm, target, group, writer
        self._force, self._durable, self._compress = force, durable, compress
        with collective.agreement(comm):
            self._encode = encoder(compress) if compress else None
        self._place: publication.Place = collective.on_root(comm, lambda: publication.place(target, writer))
        self.partial = self._place.partial
        _unpublished.add(self)  # before there is a file: a signal may come at any time
        try:
            self._inode: int = collective.on_root(comm, self._reserve)
        except BaseException:
            self.discard()
            raise

    def _reserve(self) -> int:
        with _told_as_output(self.target):
            return publication.reserve(self._place, self.writer, force=self._force)

    def write(self, arrays: Mapping[str, Block], phases: Phases | None = None) -> None:
        """Write each rank's blocks of ``arrays`` and record their checksums. Phases: write, checksum."""
        timed = phases or Phases()
        with timed("write"):
            offsets = collective.on_root(self.comm, lambda: self._create(arrays))
            with collective.agreement(self.comm), _told_as_output(self.target):
                self._write_blocks(arrays, offsets)
            for name, block in arrays.items():
                if self._compresses(block):
                    self._write_chunks(name, block)
        with timed("checksum"):
            for name, block in arrays.items():
                entry = (block.start or (0,), block.local.shape or (1,), checksum(block.local))  # a scalar is one row
                entries = self.comm.gather(entry) or []
                collective.on_root(self.comm, partial(self._record_checksums, name, entries))

    def _create(self, arrays: Mapping[str, Block]) -> dict[str, int]:
        """Datasets with their space allocated but not filled; the offset in the file of each that has elements."""
        import h5py

        plain = [block for block in arrays.values() if not self._compresses(block)]
        length = sum(math.prod(block.shape) * block.dtype.itemsize for block in plain)
        with _told_as_output(self.target):
            os.truncate(self.partial, length)  # sparse; fails where no file may be that long
        with self._opened("w", _DESCRIPTION_BYTES_AN_ARRAY * len(arrays)) as file:
            group = file.create_group(self.group)
            group.attrs.update({MARK: MARK_VALUE, "complete": False})
            offsets = {}
            for name, block in arrays.items():
                if self._compress and self._compresses(block):
                    create = creation(self._compress, block.shape, block.dtype.itemsize)
                else:
                    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                    create.set_layout(h5py.h5d.CONTIGUOUS)
                    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
                links.set_create_intermediate_group(True)
                space = h5py.h5s.create_simple(block.shape)
                kind = h5py.h5t.py_create(block.dtype, logical=True)
                dataset = h5py.h5d.create(group.id, name.encode(), kind, space, dcpl=create, lcpl=links)
                offset = dataset.get_offset()
                if offset is not None:
                    offsets[name] = offset
                _attach_scales(
                    group, name, block.shape, block.dims, {*_RESERVED, *(name.split("/")[0] for name in arrays)}
                )
            return offsets

    @contextmanager
    def _opened(self, mode: str, nbytes: int) -> Iterator[Any]:
        """The partial file in HDF5, with disk space claimed for ``nbytes`` of tables and for what describes them.

        HDF5 crashes (2.0: segmentation fault as it closes the file) where it finds no space: it must not find out.
        """
        import h5py

        with _told_as_output(self.target):
            _claim(self.partial, nbytes + _DESCRIPTION_BYTES)
            with h5py.File(
                self.partial,
                mode,
                libver=("earliest", "v110"),
                alignment_threshold=_ALIGNMENT,
                alignment_interval=_ALIGNMENT,
                locking=False,  # the file is ours alone, and some file systems cannot lock
            ) as file:
                yield file

    def _write_blocks(self, arrays: Mapping[str, Block], offsets: Mapping[str, int]) -> None:
        descriptor = os.open(self.partial, os.O_WRONLY)
        try:
            for name, offset in offsets.items():
                for at, run in contiguous_runs(arrays[name]):
                    _pwrite(descriptor, run, offset + at)
        finally:
            os.close(descriptor)

    def _compresses(self, block: Block) -> bool:
        return self._encode is not None and worthwhile(block)

    def _write_chunks(self, name: str, block: Block) -> None:
        """Compress the chunks of one array and write them. Collective."""
        if self._encode is None:
            return
        chunks = Chunks(self.comm, block, self._encode)
        for number in range(chunks.rounds):
            own = chunks.encoded(number)
            entries = self.comm.gather([(chunk.start, len(chunk.data), chunk.skipped) for chunk in own]) or []
            places = collective.on_root(self.comm, partial(self._enter, name, entries))
            with collective.agreement(self.comm), _told_as_output(self.target):
                descriptor = os.open(self.partial, os.O_WRONLY)
                try:
                    for chunk, place in zip(own, places[self.comm.rank], strict=True):
                        _pwrite(descriptor, memoryview(chunk.data), place)
                finally:
                    os.close(descriptor)

    def _enter(self, name: str, entries: Sequence[Any]) -> list[list[int]]:
        """Have HDF5 enter the chunks of all ranks into the array's index; their places in the file, by rank."""
        together = [entry for theirs in entries for entry in theirs]
        with _told_as_output(self.target):
            _claim(self.partial, _INDEX_BYTES_A_CHUNK * len(together) + _DESCRIPTION_BYTES)
            places = iter(lay_out(self.partial, f"{self.group}/{name}", together))
        return [[next(places) for _ in theirs] for theirs in entries]

    def _record_checksums(self, name: str, entries: Sequence[Any]) -> None:
        ndim = len(entries[0][0])
        kind = np.dtype([("start", np.int64, (ndim,)), ("shape", np.int64, (ndim,)), ("crc32", np.uint32)])
        table = np.array(entries, kind)
        with self._opened("r+", table.nbytes) as file:
            file[self.group].create_dataset(f"checksums/{name}", data=table)

    def sync(self) -> None:
        """Force this node's part of the file to the disk."""
        with collective.agreement(self.comm), _told_as_output(self.target):
            if self._durable:
                _fsync(self.partial)

    def finish(
        self,
        attributes: Mapping[str, Scalar],
        tables: Mapping[str, Table],
        groups: Mapping[str, Mapping[str, Scalar]],
    ) -> None:
        """Add what rank 0 knows of the run (ignored on other ranks), and publish.

        ``attributes`` go to the group, ``tables`` and ``groups`` of attributes are sub-groups.
        """

        def complete() -> None:
            with _told_as_output(self.target):
                with self._opened("r+", sum(table.nbytes for table in tables.values())) as file:
                    group = file[self.group]
                    group.attrs.update(_storable(attributes))
                    for name, table in tables.items():
                        _write_table(group.create_group(name), table)
                    for name, values in groups.items():
                        group.require_group(name).attrs.update(_storable(values))
                    group.attrs.update({"job": self.writer.job, "attempt": self.writer.attempt, "complete": True})
                if self._durable:
                    _fsync(self.partial)
                publication.publish(self._place, self.writer, force=self._force)

        collective.on_root(self.comm, complete)
        _unpublished.discard(self)

    def discard(self) -> bool:
        """Remove the partial file; return False if it has been published already. Local: any rank may.

        Whether the file is published or removed is decided by the file system: only one of the two finds it.
        """
        _unpublished.discard(self)
        try:
            self.partial.unlink()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            return not self._is_published()
        return True

    def _is_published(self) -> bool:
        try:
            return self._place.destination.stat().st_ino == self._inode
        except (OSError, AttributeError):  # no such file; not even reserved
            return False


_unpublished: set[Output] = set()  # of this process


def discard_unpublished() -> None:
    """Remove the partial files of all outputs that this process takes part in. Local: for a job that is being ended."""
    for output in list(_unpublished):
        output.discard()


def save(
    comm: MPI.Comm,
    path: str | os.PathLike[str],
    arrays: Mapping[str, Block],
    *,
    group: str = "result",
    attributes: Mapping[str, Scalar] | None = None,
    force: bool = False,
    durable: bool = True,
    compress: str | None = None,
    phases: Phases | None = None,
) -> None:
    """Write distributed ``arrays`` into one HDF5 file, whole or not at all.

    Raises OutputError, on all ranks, if ``path`` exists and ``force`` is not set, or cannot be written.
    """
    job = comm.bcast(uuid.uuid4().hex[:12])
    output = Output(comm, Path(path), group, Writer(job, 0), force=force, durable=durable, compress=compress)
    try:
        output.write(arrays, phases)
        output.sync()
        output.finish(attributes or {}, {}, {})
    except BaseException:
        output.discard()
        raise


def contiguous_runs(block: Block) -> Iterator[tuple[int, memoryview]]:
    """(Byte offset in the dataset, bytes) of each stretch of ``block`` that is contiguous in the row-major dataset.

    A stretch that is not contiguous in memory comes in strips, so that little is copied at once.
    """
    local, shape = block.local, block.shape
    if local.size == 0:
        return
    split = len(shape)  # dimensions from here on are whole, so that one index before them is contiguous
    while split > 0 and local.shape[split - 1] == shape[split - 1]:
        split -= 1
    outer = max(0, split - 1)  # the dimension before the whole ones is contiguous too, if only a part
    strides = [int(np.prod(shape[d + 1 :], dtype=object)) for d in range(len(shape))]
    for index in np.ndindex(local.shape[:outer]):
        place = (*index, *[0] * (len(shape) - outer))
        at = sum((s + i) * stride for s, i, stride in zip(block.start, place, strides, strict=True))
        at *= local.itemsize
        for strip in strips(local[(*index, ...)]):
            yield at, strip.reshape(-1).view(np.uint8).data
            at += strip.nbytes


def _pwrite(descriptor: int, data: memoryview, at: int) -> None:
    while data.nbytes:
        written = os.pwrite(descriptor, data[:_LARGEST_PWRITE], at)
        data, at = data[written:], at + written


def _storable(attributes: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """``attributes`` as HDF5 takes them: text in UTF-8, and below the 64 KiB of an attribute.

    A whole number that no 64 bits hold becomes text: it must not cost the result.
    """

    def stored(value: Scalar) -> Scalar:
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            value = hex(value) if abs(value) >= 10**4000 else str(value)  # Python refuses to print longer ones
        if isinstance(value, str):
            return value.encode("utf-8", "replace")[:_LONGEST_TEXT].decode("utf-8", "ignore")
        return value

    return {name: stored(value) for name, value in attributes.items()}


def _claim(path: Path, nbytes: int) -> None:
    """Have ``nbytes`` of disk space beyond the end of the file, or OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot tell
            raise
    finally:
        os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _told_as_output(target: Path) -> Iterator[None]:
    """Turn OSError, which h5py raises too, into OutputError about ``target``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise OutputError(f"{target}: cannot be written: {reason}") from error


def _attach_scales(group: Any, name: str, shape: tuple[int, ...], dims: tuple[str, ...], taken: set[str]) -> None:
    """Give the dataset netCDF's named dimensions, whose scales hold no data and take no space.

    NetCDF looks for them in the dataset's own group and in those around it, and nowhere else. Datasets share the scale
    of a name if they share its extent; another extent, and a name that is ``taken``, make it ``NAME_EXTENT``.
    """
    import h5py

    dataset = group[name]
    for axis, extent in enumerate(shape):
        dim = dims[axis] if dims else f"{name.replace('/', '_')}_{axis}"
        if dim in taken or (dim in group and group[dim].shape != (extent,)):
            dim = f"{dim}_{extent}"
        while dim in taken or (dim in group and group[dim].shape != (extent,)):
            dim += "_"
        if dim not in group:
            create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            create.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
            space = h5py.h5s.create_simple((extent,))
            h5py.h5d.create(group.id, dim.encode(), h5py.h5t.IEEE_F32BE, space, dcpl=create)
            group[dim].make_scale(f"{_NETCDF_DIMENSION}{extent:10d}")
        dataset.dims[axis].attach_scale(group[dim])
