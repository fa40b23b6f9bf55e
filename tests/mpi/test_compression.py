"""Compressed arrays: every chunk where HDF5 looks for it, the same on any number of ranks, whatever the blocks."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - the tests read what zstd has written
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi.errors import InputError, OutputError
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block
from hpcmpi.store import compression, writer
from hpcmpi.store.reader import open_source
from hpcmpi.store.result import check_blocks, results

DTYPES = ["bool", "int8", "float64", "longdouble", "complex128", ">i4"]


@pytest.fixture
def folder(comm):
    made = comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"]) if comm.rank == 0 else None)
    yield Path(made)
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(made)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(compression, "_CHUNK_BYTES", 400)
    monkeypatch.setattr(compression, "_ROUND_BYTES", 4000)
    monkeypatch.setattr(compression, "_SMALLEST", 1)


def save(comm, *arguments, **options):
    comm.barrier()
    writer.save(comm, *arguments, durable=False, **options)
    comm.barrier()


def numbers(shape, dtype="float64"):
    return (np.arange(math.prod(shape), dtype="int64").reshape(shape) * 7 % 113).astype(dtype)


def deal(comm, whole, grid):
    ranges = grid_block(whole.shape, grid, comm.rank)
    return Block(whole[tuple(r.slice for r in ranges)], tuple(r.start for r in ranges), whole.shape)


def assert_holds(path, wholes):
    with h5py.File(path, "r") as file:
        for name, whole in wholes.items():
            dataset = file["result"][name]
            assert (dataset.shape, dataset.dtype) == (whole.shape, whole.dtype)
            assert np.array_equal(dataset[()], whole), name
    with results(path) as groups:
        assert [check for group in groups for check in check_blocks(group) if check.found != check.written] == []


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_every_grid_of_blocks_of_every_shape_and_dtype(comm, folder, kind):
    shapes = [(230,), (0,), (19, 23), (2, 90), (5, 6, 7), ()]
    whole, arrays = {}, {}
    for number, shape in enumerate(shapes):
        possible = itertools.product(range(1, comm.size + 1), repeat=len(shape))
        fitting = [grid for grid in possible if math.prod(grid) == comm.size or not shape]
        for grid in sorted({fitting[0], fitting[len(fitting) // 2], fitting[-1]}) if kind == "gzip" else fitting[-1:]:
            name = f"{shape} on {grid}"
            whole[name] = numbers(shape, DTYPES[number % len(DTYPES)])
            arrays[name] = deal(comm, whole[name], grid) if shape else Block(whole[name], (), ())
    save(comm, folder / "x.h5", arrays, compress=kind)
    assert_holds(folder / "x.h5", whole)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "longdouble"])  # which has idle bytes
def test_chunks_are_those_that_hdf5_itself_would_write_and_small(comm, folder, dtype):
    whole = numbers((64, 50), dtype)
    save(comm, folder / "x.h5", {"x": deal(comm, whole, (comm.size, 1))}, compress="gzip")
    with h5py.File(folder / "x.h5", "r") as file:
        ours = file["result/x"]
        assert (ours.compression, ours.shuffle, ours.compression_opts) == ("gzip", True, 1)
        with h5py.File(folder / f"y{comm.rank}.h5", "w") as other:
            theirs = other.create_dataset(
                "x", data=whole, chunks=ours.chunks, compression="gzip", compression_opts=1, shuffle=True
            )
            for index in range(ours.id.get_num_chunks()):
                start = ours.id.get_chunk_info(index).chunk_offset
                mask, data = ours.id.read_direct_chunk(start)
                plain = theirs.id.read_direct_chunk(start)
                if mask == 0:
                    assert zlib.decompress(data) == zlib.decompress(plain[1])  # of two versions of zlib
                else:
                    assert len(data) == math.prod(ours.chunks) * whole.itemsize <= len(plain[1])


def test_files_are_alike_on_any_number_of_ranks_and_stay_small(comm, folder):
    whole = np.zeros((300, 40))
    whole[5] = 1
    for grid in ((comm.size, 1), (1, comm.size)):
        save(comm, folder / f"{grid}.h5", {"x": deal(comm, whole, grid)}, compress="gzip", force=True)
    save(MPI.COMM_SELF, folder / f"alone{comm.rank}.h5", {"x": Block(whole, (0, 0), whole.shape)}, compress="gzip")
    comm.barrier()
    with h5py.File(folder / f"alone{comm.rank}.h5", "r") as alone:
        expected = chunks_of(alone["result/x"])
    for grid in ((comm.size, 1), (1, comm.size)):
        with h5py.File(folder / f"{grid}.h5", "r") as file:
            assert chunks_of(file["result/x"]) == expected
            assert file["result/x"].id.get_storage_size() < whole.nbytes / 3


def chunks_of(dataset):
    starts = [dataset.id.get_chunk_info(index).chunk_offset for index in range(dataset.id.get_num_chunks())]
    return {start: dataset.id.read_direct_chunk(start) for start in starts}


@settings(max_examples=8)
@given(st.data())
def test_blocks_cut_anywhere(data):
    comm = MPI.COMM_WORLD
    shape = tuple(data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=2)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), min_size=comm.size - 1, max_size=comm.size - 1)))
    start, stop = [0, *cuts][comm.rank], [*cuts, shape[axis]][comm.rank]
    whole = numbers(shape, "int32")
    local = whole[(*[slice(None)] * axis, slice(start, stop))]
    folder = Path(comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"])))
    block = Block(local, tuple(start if d == axis else 0 for d in range(len(shape))), shape)
    save(comm, folder / "x.h5", {"x": block}, compress="gzip")
    assert_holds(folder / "x.h5", {"x": whole})


def test_noise_is_stored_as_it_is(comm, folder):
    whole = np.random.default_rng(1).integers(0, 256, (40, 90), "uint8")
    save(comm, folder / "x.h5", {"x": deal(comm, whole, (1, comm.size))}, compress="gzip")
    assert_holds(folder / "x.h5", {"x": whole})
    with h5py.File(folder / "x.h5", "r") as file:
        masks = {file["result/x"].id.get_chunk_info(i).filter_mask for i in range(file["result/x"].id.get_num_chunks())}
        assert 3 in masks


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_arrays_are_read_as_input(comm, folder, kind):
    whole = numbers((50, 41))
    save(comm, folder / "x.h5", {"x": deal(comm, whole, (comm.size, 1))}, compress=kind)
    source = open_source(comm, f"{folder / 'x.h5'}:/result/x")
    columns = grid_block(whole.shape, (1, comm.size), comm.rank)
    assert np.array_equal(source.read(comm, columns, "float32"), whole[:, columns[1].slice])
    assert source.read(comm, (Range(3, 3), Range(0, 41)), "float64").shape == (0, 41)


def test_a_damaged_chunk_is_found(comm, folder):
    whole = numbers((40, 30))
    save(comm, folder / "x.h5", {"x": deal(comm, whole, (comm.size, 1))}, compress="gzip")
    if comm.rank == 0:
        with h5py.File(folder / "x.h5", "r") as file:
            chunk = file["result/x"].id.get_chunk_info(2)
        with (folder / "x.h5").open("r+b") as file:
            file.seek(chunk.byte_offset + chunk.size // 2)
            file.write(b"\xff\x00\xff")
    comm.barrier()
    with pytest.raises(InputError, match="damaged"), results(folder / "x.h5") as [group]:
        list(check_blocks(group))


def test_a_package_that_is_missing_is_told_before_anything_is_computed(comm, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(OutputError, match=r"pip install 'hpcmpi\[zstd\]'"):
        save(
            comm,
            folder / "x.h5",
            {"x": Block(np.zeros((comm.size, 3))[comm.rank : comm.rank + 1], (comm.rank, 0), (comm.size, 3))},
            compress="zstd",
        )
    comm.barrier()
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_told_on_all_ranks(comm, folder, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_pwrite", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save(comm, folder / "x.h5", {"x": deal(comm, numbers((40, 30)), (comm.size, 1))}, compress="gzip")
    comm.barrier()
    assert list(folder.iterdir()) == []


def test_chunks_have_about_a_mebibyte(monkeypatch):
    monkeypatch.setattr(compression, "_CHUNK_BYTES", 1 << 20)
    for shape in ((10**9,), (8192, 8192), (3, 10**7), (10**7, 3), (100, 200, 300), (17, 5)):
        chunk = compression.chunk_shape(shape, 8)
        assert all(0 < c <= n for c, n in zip(chunk, shape, strict=True))
        assert min(1 << 19, 8 * math.prod(shape)) <= 8 * math.prod(chunk) <= 1 << 20
