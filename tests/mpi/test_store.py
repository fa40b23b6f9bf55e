"""One ordinary HDF5 file from all ranks, whole or not at all; and arrays in, of which each rank reads its part."""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import re
import resource
import shutil
import tempfile
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpcmpi.errors import InputError, OutputError
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block, Phases
from hpcmpi.store import publication, writer
from hpcmpi.store.hdf5 import checksum
from hpcmpi.store.publication import Writer
from hpcmpi.store.reader import open_source
from hpcmpi.store.result import check_blocks, results
from hpcmpi.store.writer import Output, Table, contiguous_runs

DTYPES = [
    *(
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ),
    *("longdouble", "complex64", "complex128", "clongdouble", ">i4", ">u2", ">f8", ">c16"),
]


@pytest.fixture
def folder(comm):
    """An empty folder, the same for all ranks of ``comm``."""
    made = comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"]) if comm.rank == 0 else None)
    yield Path(made)
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(made)


@contextmanager
def between_barriers(comm):
    """No rank sees what the body changes on disk before it has looked at what was there, nor misses it later."""
    comm.barrier()
    try:
        yield
    finally:
        comm.barrier()


def on_disk(comm, change):
    """Have rank 0 make or change a file."""
    with between_barriers(comm):
        if comm.rank == 0:
            change()


def save(comm, *arguments, durable=False, **options):
    with between_barriers(comm):
        writer.save(comm, *arguments, durable=durable, **options)


def grids_of(ranks, ndim):
    """Every grid of ``ndim`` dimensions that has ``ranks`` ranks."""
    return [grid for grid in itertools.product(range(1, ranks + 1), repeat=ndim) if math.prod(grid) == ranks]


def deal(comm, whole, grid, dims=()):
    """This rank's block of ``whole``, which every rank holds."""
    ranges = grid_block(whole.shape, grid, comm.rank)
    local = np.ascontiguousarray(whole[tuple(r.slice for r in ranges)])
    return Block(local, tuple(r.start for r in ranges), whole.shape, dims)


def numbers(shape, dtype="float64"):
    values = np.arange(math.prod(shape), dtype="int64").reshape(shape) * 7 % 113
    if np.dtype(dtype).kind == "c":
        return (values + 1j * (values + 1)).astype(dtype)
    return (values % 2 == 0) if dtype == "bool" else values.astype(dtype)


def read_back(path, name, group="result"):
    with h5py.File(path, "r") as file:
        return file[group][name][()]


def assert_same(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(found, expected)


def damaged_blocks(path):
    with results(path) as groups:
        return [check for group in groups for check in check_blocks(group) if check.written != check.found]


def partials(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith((".partial", ".lock")))


# What is written


def test_every_numeric_dtype_is_read_back_by_h5py_as_it_was(comm, folder):
    whole = {dtype: numbers((11, 5), dtype) for dtype in DTYPES}
    arrays = {dtype: deal(comm, values, (comm.size, 1)) for dtype, values in whole.items()}
    save(comm, folder / "x.h5", arrays)
    for dtype, values in whole.items():
        assert_same(read_back(folder / "x.h5", dtype), values)
    assert damaged_blocks(folder / "x.h5") == []


def test_every_grid_of_blocks_of_every_shape(comm, folder):
    shapes = [(23,), (1,), (0,), (9, 8), (2, 30), (30, 2), (0, 4), (4, 0), (5, 6, 7), (3, 0, 2)]
    cases = {
        f"{shape} on {grid}": (numbers(shape), grid) for shape in shapes for grid in grids_of(comm.size, len(shape))
    }
    save(comm, folder / "x.h5", {name: deal(comm, *case) for name, case in cases.items()})
    with h5py.File(folder / "x.h5", "r") as file:
        for name, (whole, grid) in cases.items():
            assert_same(file["result"][name][()], whole)
            table = file["result/checksums"][name][:]
            assert len(table) == comm.size
            for rank, (start, extent, crc) in enumerate(table):
                ranges = grid_block(whole.shape, grid, rank)
                assert [(at, at + n) for at, n in zip(start, extent, strict=True)] == [tuple(r) for r in ranges]
                assert crc == checksum(whole[tuple(r.slice for r in ranges)])
    assert damaged_blocks(folder / "x.h5") == []


@settings(max_examples=20)
@given(st.data())
def test_blocks_cut_anywhere(data):
    comm = MPI.COMM_WORLD
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), min_size=comm.size - 1, max_size=comm.size - 1)))
    start, stop = [0, *cuts][comm.rank], [*cuts, shape[axis]][comm.rank]
    whole = numbers(shape, "int32")
    local = whole[(*[slice(None)] * axis, slice(start, stop))]
    folder = Path(comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"])))
    block = Block(local, tuple(start if d == axis else 0 for d in range(len(shape))), shape)
    save(comm, folder / "x.h5", {"x": block})
    assert_same(read_back(folder / "x.h5", "x"), whole)
    assert damaged_blocks(folder / "x.h5") == []


def test_a_scalar_that_all_ranks_hold(comm, folder):
    save(comm, folder / "x.h5", {"x": Block(np.array(2.5), (), ())})
    assert_same(read_back(folder / "x.h5", "x"), np.float64(2.5))
    assert damaged_blocks(folder / "x.h5") == []


def test_all_on_one_rank(comm, folder):
    whole, arrays = numbers((6, 5)), {}
    for owner in range(comm.size):
        arrays[f"of {owner}"] = Block(whole if comm.rank == owner else whole[:0], (0, 0), whole.shape)
    save(comm, folder / "x.h5", arrays)
    for name in arrays:
        assert_same(read_back(folder / "x.h5", name), whole)


def test_local_blocks_of_any_strides(comm, folder):
    lay_out = {
        "Fortran": np.asfortranarray,
        "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
        "every third column": lambda x: np.repeat(x, 3, axis=-1)[..., ::3],
        "backwards": lambda x: x[::-1].copy()[::-1],
        "first axis last": lambda x: np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0),
    }
    whole, arrays = {}, {}
    for shape, layout in itertools.product(((40,), (12, 9), (7, 6, 5)), lay_out):
        for grid in {grids_of(comm.size, len(shape))[0], grids_of(comm.size, len(shape))[-1]}:
            name = f"{shape} on {grid}, {layout}"
            whole[name] = numbers(shape)
            block = deal(comm, whole[name], grid)
            arrays[name] = Block(lay_out[layout](block.local), block.start, shape)
    save(comm, folder / "x.h5", dict(sorted(arrays.items())))
    for name, values in whole.items():
        assert_same(read_back(folder / "x.h5", name), values)
    assert damaged_blocks(folder / "x.h5") == []


def test_many_arrays_also_in_sub_groups_with_attributes_and_named_dimensions(comm, folder):
    a, b = numbers((7, 4)), numbers((4, 3), "complex64")
    rows = (comm.size, 1)
    save(
        comm,
        folder / "x.h5",
        {"weights/a": deal(comm, a, rows, ("m", "k")), "weights/deep/b": deal(comm, b, rows, ("k", "n"))},
        group="train",
        attributes={"epochs": 3, "rate": 0.5, "method": "sgd, naïve", "verified": True},
    )
    with h5py.File(folder / "x.h5", "r") as file:
        group = file["train"]
        assert list(file) == ["train"]
        assert_same(group["weights/a"][()], a)
        assert_same(group["weights/deep/b"][()], b)
        kept = ("epochs", "rate", "method", "verified", "complete", "attempt")
        assert [group.attrs[name] for name in kept] == [3, 0.5, "sgd, naïve", True, True, 0]
        assert len(group.attrs["job"]) == 12
        assert [dim[0].name for dim in group["weights/a"].dims] == ["/train/m", "/train/k"]
        assert [dim[0].name for dim in group["weights/deep/b"].dims] == ["/train/k", "/train/n"]
        assert set(group["checksums/weights"]) == {"a", "deep"}
    assert damaged_blocks(folder / "x.h5") == []
    assert partials(folder) == []


def test_tables_and_groups_of_rank_0_alone(comm, folder):
    output = Output(comm, folder / "x.h5", "matmul", Writer("77", 2), durable=False)
    phases = Phases()
    output.write({"C": deal(comm, numbers((5, 5)), (comm.size, 1))}, phases)
    output.sync()
    if comm.rank == 0:
        seconds = {"seconds": np.array([[1.5, 2.0]])}
        tables = {
            "phases": Table(("rank", "phase"), seconds, "", {"seconds": "s"}, {"phase": ["x", "y"]}),
            "ranks": Table(("rank",), {"host": ["næme", "b"]}, ""),
        }
        output.finish({"n": 5}, tables, {"provenance": {"host": "a"}})
    else:
        output.finish({}, {}, {})
    assert set(phases.by_name) == {"write", "checksum"}
    with h5py.File(folder / "x.h5", "r") as file:
        group = file["matmul"]
        assert group["phases/seconds"][...].tolist() == [[1.5, 2]]
        assert group["phases/seconds"].attrs["units"] == "s"
        assert [dim[0].name for dim in group["phases/seconds"].dims] == ["/matmul/phases/rank", "/matmul/phases/phase"]
        assert [name.decode() for name in group["phases/phase"]] == ["x", "y"]
        assert [name.decode() for name in group["ranks/host"]] == ["næme", "b"]
        assert group["provenance"].attrs["host"] == "a"
        assert dict(group.attrs) == {
            "n": 5, "job": "77", "attempt": 2, "complete": True, "written_by": "hpcmpi",
        }  # fmt: skip


def test_the_format_is_one_that_hdf5_1_10_reads_and_arrays_are_contiguous(comm, folder):
    save(comm, folder / "x.h5", {"x": deal(comm, numbers((600, 300)), (comm.size, 1))})
    with h5py.File(folder / "x.h5", "r") as file:
        dataset = file["result/x"]
        assert dataset.chunks is None
        assert dataset.id.get_offset() % (1 << 20) == 0
    assert (folder / "x.h5").read_bytes()[8] in (0, 2), "version of the superblock"


def test_an_unfinished_file_says_that_it_is_not_complete(comm, folder):
    output = Output(comm, folder / "x.h5", "result", Writer("1", 0), durable=False)
    output.write({"x": deal(comm, numbers((5, 5)), (comm.size, 1))})
    assert not (folder / "x.h5").exists()
    with h5py.File(output.partial, "r") as file:
        assert not file["result"].attrs["complete"]
    with between_barriers(comm):
        output.discard()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_any_rank_can_remove_all_that_is_unpublished_and_nothing_that_is_published(comm, folder, force):
    """As the rank that ends a job does, be it while a checkpoint or a converted graph is written."""
    done = Output(comm, folder / "done.h5", "result", Writer("1", 0), durable=False)
    done.write({"x": deal(comm, numbers((5, 5)), (comm.size, 1))})
    done.finish({}, {}, {})
    begun = [Output(comm, folder / f"{n}.h5", "result", Writer("1", 0), force=force, durable=False) for n in range(2)]
    with between_barriers(comm):
        if comm.rank == comm.size - 1:
            writer.discard_unpublished()
    assert [path.name for path in folder.iterdir()] == ["done.h5"]
    assert not done.discard()
    assert all(output.discard() for output in begun)


def test_dimensions_of_one_name_and_different_extents_and_names_that_are_taken(comm, folder):
    dims = {"a": (4, "n"), "b": (7, "n"), "c": (7, "n"), "m": (3, "m"), "d": (5, "phases"), "n_7": (2, "k")}
    rows = (comm.size,)
    save(comm, folder / "x.h5", {name: deal(comm, numbers((n,)), rows, (dim,)) for name, (n, dim) in dims.items()})
    with h5py.File(folder / "x.h5", "r") as file:
        group, used = file["result"], {}
        for name, (extent, _) in dims.items():
            assert_same(group[name][()], numbers((extent,)))
            scale = group[name].dims[0][0]
            assert (scale.shape, scale.is_scale, group[name].is_scale) == ((extent,), True, False)
            used[name] = scale.name.removeprefix("/result/")
    assert used == {"a": "n", "b": "n_7_", "c": "n_7_", "m": "m_3", "d": "phases_5", "n_7": "k"}
    assert damaged_blocks(folder / "x.h5") == []


def test_whole_numbers_that_no_64_bits_hold_become_text(comm, folder):
    values = {"most": 2**64 - 1, "least": -(2**63), "more": 2**64, "less": -(2**63) - 1, "huge": 10**5000}
    save(comm, folder / "x.h5", new(comm), attributes=values)
    with h5py.File(folder / "x.h5", "r") as file:
        found = [file["result"].attrs[name] for name in values]
    assert found == [2**64 - 1, -(2**63), str(2**64), str(-(2**63) - 1), hex(10**5000)]


# Checksums


def test_a_flipped_bit_is_found_and_its_block_named(comm, folder):
    path, whole = folder / "x.h5", numbers((8 * comm.size, 6))
    save(comm, path, {"x": deal(comm, whole, (comm.size, 1)), "y": deal(comm, whole, (comm.size, 1))})
    with h5py.File(path, "r") as file:
        begin = file["result/y"].id.get_offset()
    for victim in range(comm.size):
        at = begin + (8 * victim + 3) * 6 * whole.itemsize
        on_disk(comm, lambda at=at: flip(path, at))
        [damaged] = damaged_blocks(path)
        assert (damaged.dataset, damaged.start, damaged.shape) == ("y", (8 * victim, 0), (8, 6))
        assert damaged.written == checksum(whole[8 * victim : 8 * victim + 8])
        on_disk(comm, lambda at=at: flip(path, at))
    assert damaged_blocks(path) == []


def flip(path, at, bit=2):
    """Change one bit of the byte ``at``."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_blocks_larger_than_a_piece_are_checked_piece_by_piece(comm, folder, monkeypatch):
    monkeypatch.setattr("hpcmpi.store.result._PIECE_BYTES", 100)
    whole = numbers((50, 7))
    save(comm, folder / "x.h5", {"x": deal(comm, whole, (1, comm.size)), "z": deal(comm, whole[:, 0], (comm.size,))})
    assert damaged_blocks(folder / "x.h5") == []


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_checksum_is_the_crc32_of_the_elements_in_row_major_order(order):
    x = np.array(numbers((300, 200)), order=order)
    expected = zlib.crc32(np.ascontiguousarray(x).tobytes())
    assert checksum(x) == expected
    assert checksum(x[100:], checksum(x[:100])) == expected
    assert checksum(x[::2, ::3]) == zlib.crc32(x[::2, ::3].tobytes())
    assert checksum(x[:, 7]) == zlib.crc32(x[:, 7].tobytes())
    assert checksum(x[:0]) == 0
    assert checksum(np.float64(3.5)[...]) == zlib.crc32(np.float64(3.5).tobytes())


def test_the_checksum_of_a_long_strided_array_does_not_go_element_by_element(monkeypatch):
    pieces, crc32 = [], zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data, crc: pieces.append(len(data)) or crc32(data, crc))
    for x in (np.zeros(200_000)[::2], np.zeros((2, 100_000)).T):
        pieces.clear()
        checksum(x)
        assert sum(pieces) == x.nbytes
        assert len(pieces) < 100


# Where the bytes go


def test_offsets_of_blocks_beyond_2_to_the_31_elements():
    far = 2**31 + 5
    [(at, run)] = contiguous_runs(Block(np.arange(4, dtype="int16"), (far,), (far + 100,)))
    assert (at, run.tobytes()) == (2 * far, np.arange(4, dtype="int16").tobytes())
    local = np.arange(6, dtype="float64").reshape(2, 3)
    runs = list(contiguous_runs(Block(local, (2**20, 2**33), (2**21, 2**34))))
    assert [at for at, _ in runs] == [8 * ((2**20 + i) * 2**34 + 2**33) for i in range(2)]
    assert b"".join(run.tobytes() for _, run in runs) == local.tobytes()


def test_an_array_past_2_to_the_31_elements_is_written_and_read_at_its_end(comm, folder):
    n = 2**31 + 10 * comm.size
    tail = numbers((10 * comm.size,), "int8")
    local = tail[10 * comm.rank : 10 * comm.rank + 10]
    save(comm, folder / "x.h5", {"x": Block(local, (2**31 + 10 * comm.rank,), (n,))})
    assert (folder / "x.h5").stat().st_blocks * 512 < 2**30, "the hole before the end takes space"
    with h5py.File(folder / "x.h5", "r") as file:
        assert file["result/x"].shape == (n,)
        assert_same(file["result/x"][2**31 :], tail)
    source = open_source(comm, f"{folder}/x.h5:/result/x")
    assert_same(source.read(comm, (Range(2**31, n),), "int8"), tail)
    assert damaged_blocks(folder / "x.h5") == []


@given(st.integers(1, 50), st.integers(0, 100), st.integers(0, 5))
@settings(max_examples=30)
def test_writes_that_the_system_cuts_short_go_on_where_they_ended(most, size, offset):
    data = np.arange(size, dtype="uint8").tobytes()
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        pwrite = os.pwrite
        patch.setattr(writer, "_LARGEST_PWRITE", 17)
        patch.setattr(os, "pwrite", lambda descriptor, part, at: pwrite(descriptor, part[:most], at))
        writer._pwrite(file.fileno(), memoryview(data), offset)
        assert file.read() == bytes(offset if size else 0) + data


@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 5)])
def test_runs_are_as_long_as_they_can_be(shape):
    whole = np.arange(math.prod(shape), dtype="int64").reshape(shape)
    [(at, run)] = contiguous_runs(Block(whole, (0,) * len(shape), shape))
    assert (at, len(run)) == (0, whole.nbytes)
    [(at, run)] = contiguous_runs(Block(whole[1:2], (1, *(0,) * (len(shape) - 1)), shape))
    assert (at, len(run)) == (whole[0].nbytes, whole[0].nbytes)
    assert list(contiguous_runs(Block(whole[:0], (0,) * len(shape), shape))) == []


def test_a_long_stretch_that_is_not_contiguous_in_memory_is_copied_in_strips():
    whole = numbers((2, 300, 1000))
    for local in (np.asfortranarray(whole), whole[:, ::-1][:, ::-1], np.repeat(whole, 2, axis=2)[..., ::2]):
        runs = list(contiguous_runs(Block(local, (0, 0, 0), whole.shape)))
        assert max(len(run) for _, run in runs) <= (1 << 20 if not local.flags.c_contiguous else whole.nbytes)
        assert [at for at, _ in runs] == [0, *itertools.accumulate(len(run) for _, run in runs)][:-1]
        assert b"".join(bytes(run) for _, run in runs) == whole.tobytes()
        assert len(runs) < 10


# Whole or not at all


@pytest.fixture
def old(comm, folder):
    """An earlier result at the target, and its bytes."""
    target = folder / "x.h5"
    save(comm, target, {"x": deal(comm, np.zeros((3, 3)), (comm.size, 1))}, attributes={"age": "old"})
    content = target.read_bytes()
    return target, content


def new(comm):
    return {"x": deal(comm, numbers((3, 3)), (comm.size, 1))}


def refused(comm, path, **options):
    """What all ranks raise alike, when they save to ``path``."""
    with pytest.raises(OutputError) as caught:
        save(comm, path, new(comm), **options)
    assert caught.value.agreed
    assert len(set(comm.allgather(str(caught.value)))) == 1
    return str(caught.value)


def test_an_existing_target_is_refused_and_replaced_by_force(comm, folder, old):
    target, content = old
    assert "x.h5: exists; --force replaces it" in refused(comm, target)
    assert target.read_bytes() == content
    assert partials(folder) == []
    save(comm, target, new(comm), force=True)
    assert_same(read_back(target, "x"), numbers((3, 3)))


def test_any_file_at_the_target_is_refused_whatever_it_holds(comm, folder):
    on_disk(comm, lambda: (folder / "x.h5").write_text("my thesis"))
    assert "exists" in refused(comm, folder / "x.h5")
    assert (folder / "x.h5").read_text() == "my thesis"
    save(comm, folder / "x.h5", new(comm), force=True)
    assert_same(read_back(folder / "x.h5", "x"), numbers((3, 3)))


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Input/output error")])
def test_a_write_that_fails_on_one_rank_leaves_the_target_as_it_was(comm, folder, old, number, reason):
    target, content = old
    arrays = {"x": deal(comm, numbers((60, 3)), (comm.size, 1))}
    pwrite = os.pwrite
    for culprit in {0, comm.size - 1}:
        calls = []

        def fail_later(descriptor, data, at, calls=calls):
            calls.append(at)
            if len(calls) > 1:
                raise OSError(number, os.strerror(number))
            return pwrite(descriptor, data[:3], at)

        with pytest.MonkeyPatch.context() as patch:
            if comm.rank == culprit:
                patch.setattr(os, "pwrite", fail_later)
            with pytest.raises(OutputError, match=f"x.h5: cannot be written: {reason}") as caught:
                save(comm, target, arrays, force=True)
        assert len(calls) == 2 * (comm.rank == culprit)
        assert caught.value.agreed
        assert target.read_bytes() == content
        assert [path.name for path in folder.iterdir()] == ["x.h5"]


@contextmanager
def files_no_longer_than(nbytes):
    """Let this process write no file beyond ``nbytes``: as good as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_from_the_start_is_told_to_all_and_hdf5_does_not_crash(comm, folder, old):
    target, content = old
    arrays = {"x": deal(comm, numbers((200, 700)), (comm.size, 1))}
    for room in (0, 1, 1000, 5000, 20_000, 10**6):
        with (
            files_no_longer_than(room),
            pytest.raises(OutputError, match=r"x\.h5: cannot be written: File too large") as told,
        ):
            save(comm, target, arrays, force=True)
        assert told.value.agreed
        assert target.read_bytes() == content
        assert [path.name for path in folder.iterdir()] == ["x.h5"]


def test_a_disk_that_fills_up_before_the_end_is_told_to_all_and_hdf5_does_not_crash(comm, old):
    target, content = old
    output = Output(comm, target, "result", Writer("1", 0), force=True, durable=False)
    output.write({"x": deal(comm, numbers((200, 700)), (comm.size, 1))})
    size = output.partial.stat().st_size
    table = Table(("row",), {"x": np.zeros(1000)}, "")
    finish = partial(output.finish, {"text": "x" * 3000}, {"table": table}, {})
    for room in (0, 1, 1000, 5000, 20_000):
        with between_barriers(comm), files_no_longer_than(size + room), pytest.raises(OutputError) as told:
            finish()
        assert "File too large" in str(told.value)
        assert told.value.agreed
    assert target.read_bytes() == content
    with between_barriers(comm):
        finish()
    assert_same(read_back(target, "x"), numbers((200, 700)))


def test_room_that_was_claimed_and_not_used_is_given_back(comm, folder):
    save(comm, folder / "x.h5", new(comm))
    assert (folder / "x.h5").stat().st_size < 50_000


def test_a_sync_that_fails_on_one_rank_is_told_to_all(comm, folder, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if comm.rank == comm.size - 1:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        save(comm, folder / "x.h5", new(comm), durable=True)
    assert list(folder.iterdir()) == []


def test_places_that_cannot_be_written_are_refused_at_once(comm, folder):
    on_disk(comm, lambda: (folder / "file").write_text(""))
    on_disk(comm, (folder / "sub").mkdir)
    for path, reason in (
        (folder / "missing" / "x.h5", "no such folder"),
        (folder / "file" / "x.h5", "no such folder"),
        (folder / "sub", "is a folder"),
        (Path("/proc/x.h5"), "cannot be written"),
        (folder / ("x" * 300), "cannot be written: File name too long"),
    ):
        message = refused(comm, path)
        assert str(path)[:100] in message  # of names that are too long, the beginning
        assert reason in message
    assert sorted(path.name for path in folder.iterdir()) == ["file", "sub"]


def test_a_locked_target_is_refused_even_by_force(comm, folder, old):
    target, content = old
    with target.open("rb") as file:
        if comm.rank == 0:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert "is locked by another process" in refused(comm, target, force=True)
    assert target.read_bytes() == content
    assert partials(folder) == []
    save(comm, target, new(comm), force=True)


def publish(comm, target, writer, value, *, force=False, meanwhile=None):
    """A run of ``writer`` from reservation to publication; ``meanwhile`` happens in between."""
    with between_barriers(comm):
        output = Output(comm, target, "result", writer, force=force, durable=False)
        output.write({"x": deal(comm, np.full((4, 2), value), (comm.size, 1))})
        if meanwhile:
            meanwhile()
        output.finish({}, {}, {})


def test_a_later_attempt_replaces_an_earlier_one_without_force(comm, folder):
    for attempt in range(3):
        publish(comm, folder / "x.h5", Writer("77", attempt), attempt)
        assert read_back(folder / "x.h5", "x")[0, 0] == attempt


def test_an_earlier_attempt_may_not_begin_after_a_later_one_was_published(comm, folder):
    publish(comm, folder / "x.h5", Writer("77", 1), 1)
    for force in (False, True):
        with pytest.raises(OutputError, match="attempt 1 of job 77 has published it; attempt 0 may not replace it"):
            publish(comm, folder / "x.h5", Writer("77", 0), 0, force=force)
    assert read_back(folder / "x.h5", "x")[0, 0] == 1
    assert partials(folder) == []


@pytest.mark.parametrize("force", [False, True])
def test_an_earlier_attempt_that_lives_on_keeps_its_result_beside_the_later_ones(comm, folder, force):
    def later():
        publish(comm, folder / "x.h5", Writer("77", 1), 1, force=force)

    with pytest.raises(OutputError, match=r"attempt 0 may not replace it.* is in .*x\.77\.0\.h5") as caught:
        publish(comm, folder / "x.h5", Writer("77", 0), 0, force=force, meanwhile=later)
    assert caught.value.agreed
    assert read_back(folder / "x.h5", "x")[0, 0] == 1
    assert read_back(folder / "x.77.0.h5", "x")[0, 0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["x.77.0.h5", "x.h5"]


def test_a_later_attempt_that_ends_last_replaces_the_earlier_one(comm, folder):
    def earlier():
        publish(comm, folder / "x.h5", Writer("77", 0), 0)

    publish(comm, folder / "x.h5", Writer("77", 1), 1, meanwhile=earlier)
    assert read_back(folder / "x.h5", "x")[0, 0] == 1
    assert [path.name for path in folder.iterdir()] == ["x.h5"]


def test_of_two_runs_with_one_name_the_first_to_end_has_it_and_the_other_is_kept(comm, folder):
    def other():
        publish(comm, folder / "x.h5", Writer("other", 0), 2)

    with pytest.raises(OutputError, match="exists") as caught:
        publish(comm, folder / "x.h5", Writer("mine", 0), 1, meanwhile=other)
    assert str(folder / "x.mine.0.h5") in str(caught.value)
    assert read_back(folder / "x.h5", "x")[0, 0] == 2
    assert read_back(folder / "x.mine.0.h5", "x")[0, 0] == 1
    assert damaged_blocks(folder / "x.mine.0.h5") == []
    assert partials(folder) == []


def test_runs_of_one_name_at_the_same_time_do_not_mix_their_bytes(comm, folder):
    target, alone = folder / "x.h5", MPI.COMM_SELF
    output = Output(alone, target, "result", Writer(f"job{comm.rank}", 0), durable=False)
    comm.barrier()
    output.write({"x": Block(np.full(1000, comm.rank), (0,), (1000,))})
    comm.barrier()
    try:
        output.finish({"rank": comm.rank}, {}, {})
        kept = target
    except OutputError:
        kept = folder / f"x.job{comm.rank}.0.h5"
    comm.barrier()
    assert comm.allgather(kept).count(target) == 1
    assert np.array_equal(read_back(kept, "x"), np.full(1000, comm.rank))
    assert damaged_blocks(target) == []
    assert partials(folder) == []
    assert len(list(folder.iterdir())) == comm.size


def test_a_lock_that_is_never_released_is_told_and_the_result_kept(comm, folder, monkeypatch):
    monkeypatch.setattr(publication, "_LOCK_SECONDS", 0.1)
    with (folder / ".x.h5.lock").open("a") as file:
        if comm.rank == 0:
            fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"\.x\.h5\.lock has been locked by another.* is in .*x\.1\.0\.h5"):
            publish(comm, folder / "x.h5", Writer("1", 0), 5)
    assert not (folder / "x.h5").exists()
    assert read_back(folder / "x.1.0.h5", "x")[0, 0] == 5


def test_a_lock_file_that_a_killed_run_left_behind_locks_nothing(comm, folder):
    on_disk(comm, lambda: (folder / ".x.h5.lock").write_text(""))
    save(comm, folder / "x.h5", new(comm))
    assert_same(read_back(folder / "x.h5", "x"), numbers((3, 3)))
    assert partials(folder) == []


# What is read


def parts_of(comm, shape):
    """Parts of ``shape`` that this rank may ask for: its block on each grid, everything, nothing."""
    yield from (grid_block(shape, grid, comm.rank) for grid in grids_of(comm.size, len(shape)))
    yield tuple(Range(0, n) for n in shape)
    yield tuple(Range(n // 2, n // 2) for n in shape)


def assert_reads(comm, where, whole, dtype=None):
    source = open_source(comm, where, ndim=whole.ndim)
    assert source.shape == whole.shape
    assert source.dtype == whole.dtype
    for part in parts_of(comm, whole.shape):
        block = source.read(comm, part, dtype or whole.dtype)
        assert block.flags.c_contiguous
        assert_same(block, whole[tuple(r.slice for r in part)].astype(dtype or whole.dtype))


def test_parts_of_hdf5_and_npy_of_every_dtype(comm, folder):
    whole = {dtype: numbers((23,), dtype) for dtype in DTYPES}

    def make():
        with h5py.File(folder / "x.h5", "w") as file:
            for dtype, values in whole.items():
                np.save(folder / f"{dtype}.npy", values)
                file[dtype] = values

    on_disk(comm, make)
    for dtype, values in whole.items():
        assert_reads(comm, f"{folder}/{dtype}.npy", values)
        assert_reads(comm, f"{folder}/x.h5:/{dtype}", values)


def test_arrays_of_any_shape_and_order_and_of_no_elements(comm, folder):
    shapes = [(0,), (5,), (0, 3), (3, 0), (9, 7), (4, 5, 6), (1, 1, 1, 1)]

    def make():
        with h5py.File(folder / "x.h5", "w") as file:
            for i, shape in enumerate(shapes):
                np.save(folder / f"c{i}.npy", numbers(shape))
                np.save(folder / f"f{i}.npy", np.asfortranarray(numbers(shape)))
                file[f"x{i}"] = numbers(shape)

    on_disk(comm, make)
    for i, shape in enumerate(shapes):
        for where in (f"c{i}.npy", f"f{i}.npy", f"x.h5:/x{i}"):
            assert_reads(comm, f"{folder}/{where}", numbers(shape))


def test_a_scalar_is_read(comm, folder):
    def make():
        np.save(folder / "x.npy", np.float64(2.5))
        with h5py.File(folder / "x.h5", "w") as file:
            file["x"] = 2.5

    on_disk(comm, make)
    for name in ("x.npy", "x.h5"):
        assert_same(open_source(comm, f"{folder}/{name}").read(comm, (), "float64"), np.float64(2.5))


def test_dtypes_are_converted_piece_by_piece(comm, folder, monkeypatch):
    monkeypatch.setattr("hpcmpi.store.reader._PIECE_BYTES", 100)
    whole = numbers((30, 7), "int16")

    def make():
        np.save(folder / "x.npy", np.asfortranarray(whole))
        with h5py.File(folder / "x.h5", "w") as file:
            file.create_dataset("x", data=whole, chunks=(4, 3), compression="gzip")

    on_disk(comm, make)
    for dtype in ("float64", "complex64", "int32"):
        assert_reads(comm, f"{folder}/x.npy", whole, dtype)
        assert_reads(comm, f"{folder}/x.h5", whole, dtype)


def test_what_is_written_is_read(comm, folder):
    for shape in ((9, 8), (23,)):
        whole = numbers(shape)
        block = deal(comm, whole, (comm.size, 1)[: len(shape)], ("m", "n")[: len(shape)])
        save(comm, folder / "x.h5", {"deep/x": block}, force=True)
        assert_reads(comm, f"{folder}/x.h5", whole)
        assert_reads(comm, f"{folder}/x.h5:/result/deep/x", whole)


def test_a_file_that_another_process_is_writing_is_refused(comm, folder):
    save(comm, folder / "x.h5", {"x": deal(comm, numbers((9, 8)), (comm.size, 1))})
    with (folder / "x.h5").open("rb") as file:
        if comm.rank == 0:
            fcntl.flock(file, fcntl.LOCK_EX)
        comm.barrier()
        assert "another program has locked it" in unreadable(comm, f"{folder}/x.h5")
        with pytest.raises(InputError, match="another program has locked it"):
            damaged_blocks(folder / "x.h5")
        comm.barrier()
    assert_reads(comm, f"{folder}/x.h5", numbers((9, 8)))


def unreadable(comm, where, ndim=None, part=None):
    """What all ranks are told alike of a source that cannot be opened or, given a ``part``, cannot be read."""

    def use():
        source = open_source(comm, str(where), ndim=ndim)
        return source if part is None else source.read(comm, part, "float64")

    with pytest.raises(InputError) as caught:
        use()
    assert caught.value.agreed
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert str(where).partition(":/")[0] in str(caught.value)
    return str(caught.value)


@pytest.fixture
def several(comm, folder):
    """A file with datasets of various dimensions and kinds."""

    def make():
        with h5py.File(folder / "several.h5", "w") as file:
            file["a"] = numbers((3, 4))
            file["g/b"] = numbers((5, 6))
            file["vector"] = numbers((7,))
            file["alias"] = h5py.SoftLink("/a")
            file["broken"] = h5py.SoftLink("/nowhere")
            file["words"] = ["one", "two"]
            file["records"] = np.zeros(3, [("x", "f8"), ("y", "i4")])
            file["nothing"] = h5py.Empty("f8")

    on_disk(comm, make)
    return folder / "several.h5"


def test_of_several_datasets_one_is_named_or_the_only_one_that_fits(comm, several):
    assert_reads(comm, f"{several}:/g/b", numbers((5, 6)))
    assert_reads(comm, f"{several}:/alias", numbers((3, 4)))
    message = unreadable(comm, several, ndim=2)
    assert f"name one dataset as {several}:/DATASET" in message
    assert "/a (3, 4)" in message
    assert "/g/b (5, 6)" in message
    assert "none" not in unreadable(comm, several, ndim=5)


def test_a_dataset_that_is_not_there_is_told_with_those_that_are(comm, several):
    for dataset in ("/missing", "/g/b/c"):
        message = unreadable(comm, f"{several}:{dataset}")
        assert f"{dataset}: no such dataset; there are: /a (3, 4), /g/b (5, 6)" in message
    assert "/g: is no dataset, but a group with: /g/b (5, 6)" in unreadable(comm, f"{several}:/g")
    assert "/: is no dataset, but a group with: /a (3, 4), /g/b (5, 6)" in unreadable(comm, f"{several}:/")
    assert "/broken: links to /nowhere: there is no such object" in unreadable(comm, f"{several}:/broken")


def test_other_dimensions_than_expected_are_told_with_those_found(comm, several, folder):
    on_disk(comm, lambda: np.save(folder / "x.npy", numbers((3, 4, 5))))
    for where, found in (
        (f"{several}:/vector", "has 1 dimensions, shape (7,)"),
        (folder / "x.npy", "has 3 dimensions, shape (3, 4, 5)"),
    ):
        message = unreadable(comm, where, ndim=2)
        assert f"{found}; 2 are expected" in message


def test_datasets_that_hold_no_numbers(comm, several):
    for dataset in ("/nothing", "/words", "/records"):
        assert f"{several}:{dataset}: holds " in unreadable(comm, f"{several}:{dataset}", part=(Range(0, 2),))


def test_npy_files_that_hold_no_numbers(comm, folder):
    for array in (np.array(["a", None], object), np.zeros(3, [("x", "f8"), ("y", "i4")]), np.array(["x", "y"])):
        on_disk(comm, lambda array=array: np.save(folder / "x.npy", array, allow_pickle=True))
        assert str(array.dtype) in unreadable(comm, folder / "x.npy", part=(Range(0, 2),))


def test_an_object_array_is_refused_before_it_could_run_code(comm, folder, monkeypatch):
    on_disk(comm, lambda: np.save(folder / "x.npy", np.array([{}, []], object), allow_pickle=True))
    monkeypatch.setattr(np, "load", lambda *_a, **_k: pytest.fail("was loaded"))
    assert "holds Python objects; numbers are expected" in unreadable(comm, folder / "x.npy")


def test_a_truncated_npy_is_told_with_both_sizes(comm, folder):
    path = folder / "x.npy"
    for order in "CF":

        def make(order=order):
            np.save(path, np.array(numbers((50, 40)), order=order))
            os.truncate(path, path.stat().st_size - 1)

        on_disk(comm, make)
        size = path.stat().st_size
        assert f"truncated: {size} bytes found, {size + 1} bytes expected by its .npy header" in unreadable(comm, path)


def test_an_npy_cut_off_in_its_header(comm, folder):
    path = folder / "x.npy"
    on_disk(comm, lambda: np.save(path, numbers((50, 40))))
    for size in (40, 9, 8, 6):
        on_disk(comm, lambda size=size: os.truncate(path, size))
        assert "damaged .npy header" in unreadable(comm, path)


def test_an_npy_whose_header_is_nonsense(comm, folder):
    valid = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 3), }"
    for header in (
        valid.replace("(3,", "(-1,"),
        valid.replace("(3, 3)", "'three'"),
        valid.replace("<f8", "<z8"),
        valid.replace("'descr'", "1"),
        *("[", "{'descr': 3}", "\0", "3", "import os", "(" * 60),
    ):
        text = header.ljust(117).encode() + b"\n"
        content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        on_disk(comm, lambda content=content: (folder / "x.npy").write_bytes(content))
        assert "damaged .npy header" in unreadable(comm, folder / "x.npy")


def test_a_truncated_hdf5_is_told_with_both_sizes(comm, folder):
    path = folder / "x.h5"
    save(comm, path, {"x": deal(comm, numbers((50, 40)), (comm.size, 1))})
    full = path.stat().st_size
    for size in (full - 1, full // 2, 2000):
        on_disk(comm, lambda size=size: os.truncate(path, size))
        assert f"truncated: {size} bytes found, {full} bytes expected by its HDF5 header" in unreadable(comm, path)


def test_hdf5_behind_a_block_of_the_users(comm, folder):
    path = folder / "x.mat"

    def make():
        with h5py.File(path, "w", userblock_size=512) as file:
            file["x"] = numbers((50, 40))
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file")

    on_disk(comm, make)
    assert_reads(comm, str(path), numbers((50, 40)))
    full = path.stat().st_size
    on_disk(comm, lambda: os.truncate(path, full - 1))
    assert f"truncated: {full - 1} bytes found, {full} bytes expected by its HDF5 header" in unreadable(comm, path)


def test_other_files_are_told_by_how_they_begin(comm, folder):
    for content in (b"", b"1 2 3\n4 5 6\n", b"\x89HDF", b"\x93NUM", bytes(1000)):
        on_disk(comm, lambda content=content: (folder / "x.txt").write_bytes(content))
        message = unreadable(comm, folder / "x.txt")
        if content:
            assert "neither HDF5 nor .npy" in message
            assert repr(content[:8]) in message
        else:
            assert "x.txt: is empty" in message


def test_a_damaged_hdf5_is_told(comm, folder):
    on_disk(comm, lambda: (folder / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8))
    assert "not a readable HDF5 file" in unreadable(comm, folder / "x.h5")


def test_a_flipped_bit_in_what_describes_the_arrays_is_told_or_harmless(comm, folder):
    path, whole = folder / "x.h5", numbers((9, 8))
    save(comm, path, {"deep/x": deal(comm, whole, (comm.size, 1), ("m", "n"))})
    content, told = path.read_bytes(), 0
    places = [m.start() + i for m in re.finditer(rb"TREE|SNOD|HEAP|deep|DIMENSION_LIST", content) for i in range(4)]
    for count, at in enumerate(places):
        on_disk(comm, lambda at=at, bit=count % 8: flip(path, at, bit))
        error = None
        try:
            assert_same(open_source(comm, str(path)).read(comm, (Range(0, 9), Range(0, 8)), "float64"), whole)
        except InputError as caught:
            error = caught
        assert error is None or (error.agreed and str(path) in str(error))
        told += error is not None
        on_disk(comm, lambda: path.write_bytes(content))
    assert told > len(places) // 8


def test_a_damaged_target_is_replaced_by_force(comm, folder):
    path = folder / "x.h5"
    save(comm, path, new(comm))
    content = path.read_bytes()
    for at in [match.start() for match in re.finditer(rb"TREE|SNOD|HEAP", content)]:
        on_disk(comm, lambda at=at: path.write_bytes(content[:at] + b"?" + content[at + 1 :]))
        assert "exists; --force replaces it" in refused(comm, path)
    save(comm, path, new(comm), force=True)
    assert_same(read_back(path, "x"), numbers((3, 3)))


def test_a_damaged_chunk_is_told_with_its_rows(comm, folder):
    path = folder / "x.h5"

    def make():
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("x", data=numbers((8, 8)), chunks=(4, 8), fletcher32=True)
            at = dataset.id.get_chunk_info(1).byte_offset
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"\xff")

    on_disk(comm, make)
    source = open_source(comm, str(path))
    assert_same(source.read(comm, (Range(0, 4), Range(0, 8)), "float64"), numbers((8, 8))[:4])
    rows = (Range(4, 8) if comm.rank == comm.size - 1 else Range(0, 4), Range(0, 8))
    with pytest.raises(InputError, match=r"x\.h5:/x: cannot read rows 4 to 8") as caught:
        source.read(comm, rows, "float64")
    assert caught.value.agreed


def test_what_is_no_file(comm, folder):
    for where in (folder, folder / "missing.npy", f"{folder}/missing.h5:/x", folder / "missing" / "x.npy", "", "/x"):
        message = unreadable(comm, where)
        assert "no such file" in message or "is a folder, not a file" in message


def test_an_npy_has_no_datasets(comm, folder):
    on_disk(comm, lambda: np.save(folder / "x.npy", numbers((3, 3))))
    assert "holds one array and no dataset '/x'" in unreadable(comm, f"{folder}/x.npy:/x")


def test_a_name_may_hold_colons(comm, folder):
    on_disk(comm, lambda: np.save(folder / "12:30.npy", numbers((3, 3))))
    assert_reads(comm, f"{folder}/12:30.npy", numbers((3, 3)))


def test_a_file_that_a_run_left_incomplete_is_refused(comm, folder):
    output = Output(comm, folder / "x.h5", "result", Writer("1", 0), durable=False)
    rows = (comm.size, 1)
    output.write({"x": deal(comm, numbers((5, 5)), rows), "deep/down/y": deal(comm, numbers((5, 5)), rows)})
    for dataset in ("/result/x", "/result/deep/down/y"):
        assert "was left incomplete by the run that wrote it" in unreadable(comm, f"{output.partial}:{dataset}")


def test_a_file_that_is_gone_or_shorter_when_it_is_read(comm, folder):
    def make():
        np.save(folder / "x.npy", numbers((50, 40)))
        with h5py.File(folder / "x.h5", "w") as file:
            file["x"] = numbers((50, 40))

    on_disk(comm, make)
    for path in (folder / "x.npy", folder / "x.h5"):
        source = open_source(comm, str(path))
        for spoil in (lambda path=path: os.truncate(path, path.stat().st_size - 100), path.unlink):
            on_disk(comm, spoil)
            with pytest.raises(InputError, match=path.name) as caught:
                source.read(comm, (Range(0, 50), Range(0, 40)), "float64")
            assert caught.value.agreed


def test_results_of_files_that_are_none_of_ours(several, folder):
    for path, reason in (
        (several, "holds no result of hpcmpi"),
        (folder / "missing.h5", "no such file"),
        (folder, "is a folder, not a file"),
    ):
        with pytest.raises(InputError, match=reason), results(path):
            pass


def test_the_same_attempt_may_not_replace_itself_without_force(comm, folder):
    publish(comm, folder / "x.h5", Writer("77", 0), 1)
    with pytest.raises(OutputError, match="exists; --force"):
        publish(comm, folder / "x.h5", Writer("77", 0), 2)
    assert read_back(folder / "x.h5", "x")[0, 0] == 1
