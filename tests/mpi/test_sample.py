"""The sample of the input that verification reads by other means: it finds what the readers got wrong, and no more."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcmpi.partition import Range, block
from hpcmpi.record import Verdict
from hpcmpi.store.reader import open_source
from hpcmpi.store.sample import Sample, compared

RIGHT = Verdict(True, "right")


@pytest.fixture
def folder(comm):
    """An empty folder, the same for all ranks of ``comm``."""
    made = comm.bcast(tempfile.mkdtemp(dir=os.environ["HPCMPI_TEST_REPORTS"]) if comm.rank == 0 else None)
    yield Path(made)
    comm.barrier()


def arrays():
    rng = np.random.default_rng(7)
    yield "matrix", rng.random((60, 50))
    yield "fortran", np.asfortranarray(rng.random((60, 50)))
    yield "vector", np.append(rng.random(500), [np.nan, np.inf, -0.0])
    yield "swapped", rng.integers(-9, 9, 100).astype(">i4")
    yield "complex", np.array([complex(np.nan, 1), 2, 3j] * 20)
    yield "cube", rng.random((9, 8, 7), np.float32)
    yield "column", rng.random((70, 1))
    yield "words", np.array([b"ab", b"c"] * 30)
    yield "records", np.array([(1, np.nan), (2, 3.0)] * 20, [("i", "i4"), ("x", "f8")])
    yield "scalar", np.array(4.5)
    yield "empty", np.empty((0, 5))


def write(folder):
    """Each array in every kind of file; the names by which they are opened."""
    names = []
    with h5py.File(folder / "x.h5", "w") as file:
        for name, array in arrays():
            np.save(folder / f"{name}.npy", array)
            file[name] = array
            names += [f"{folder}/{name}.npy", f"{folder}/x.h5:/{name}"]
            if array.ndim and array.size:
                chunks = tuple(-(-n // 3) for n in array.shape)
                file.create_dataset(f"chunked/{name}", data=array, chunks=chunks, compression="gzip")
                names.append(f"{folder}/x.h5:/chunked/{name}")
    np.savez_compressed(folder / "x.npz", **dict(arrays()))
    return names + [f"{folder}/x.npz:/{name}" for name, _ in arrays()]


def parts(comm, source):
    """This rank's rows, and the other dimensions whole."""
    if not source.shape:
        return ()
    rows = block(source.shape[0], comm.size, comm.rank)
    return (rows, *(Range(0, extent) for extent in source.shape[1:]))


def sources(comm, folder):
    names = comm.bcast(write(folder) if comm.rank == 0 else None)
    return [open_source(comm, name) for name in names]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_was_read_as_it_is_passes(comm, folder, streamed):
    for source in sources(comm, folder):
        part, sample = parts(comm, source), Sample(source, 1)
        array = source.read(comm, part, source.dtype)
        if streamed:
            sample.see(array, part)
        else:
            sample.hold(array, part)
        verdict = compared(comm, [sample], RIGHT)
        assert verdict.right, verdict.reason
        assert (int(verdict.facts["elements_compared"]) > 0) == (source.shape == () or 0 not in source.shape)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_was_read_from_a_wrong_place_fails(comm, folder, streamed):
    for source in sources(comm, folder):
        if source.shape == () or 0 in source.shape:
            continue
        part, sample = parts(comm, source), Sample(source, 1)
        array = source.read(comm, part, source.dtype)
        array = np.zeros_like(array)
        if streamed:
            for _ in range(9):
                sample.see(array, part)
        else:
            sample.hold(array, part)
        verdict = compared(comm, [sample], RIGHT)
        assert not verdict.right, str(source)
        assert f"{source}: element (" in verdict.reason
        assert comm.allgather(verdict.reason) == [verdict.reason] * comm.size


def test_a_message_names_the_element_and_both_values(comm, folder):
    if comm.rank == 0:
        np.save(folder / "x.npy", np.arange(12.0).reshape(3, 4))
    comm.barrier()
    source = open_source(comm, f"{folder}/x.npy")
    held = np.arange(12.0).reshape(3, 4)
    held[0, 2] = 77
    verdict = compared(comm, [Sample(source, 0).hold(held, (Range(0, 3), Range(0, 4)))], RIGHT)
    assert verdict.reason == (
        f"{folder}/x.npy: element (0, 2) was read as 77.0, but the file holds 2.0: it was misread, or has changed since"
    )
    assert not compared(comm, [Sample(source, 0).hold(held, (Range(0, 3), Range(0, 4)))], Verdict(False, "no")).right


def test_a_reader_with_another_offset_is_found_on_one_rank(comm, folder):
    if comm.rank == 0:
        with h5py.File(folder / "x.h5", "w") as file:
            file["x"] = np.arange(4000.0).reshape(40, 100)
            file["pad"] = np.zeros(9)
    comm.barrier()
    source = open_source(comm, f"{folder}/x.h5:/x")
    broken = dataclasses.replace(source, offset=source.offset + 8)
    part = parts(comm, source)
    reader = broken if comm.rank == comm.size - 1 else source
    sample = Sample(source, 3)
    for rows in (Range(row, row + 1) for row in range(part[0].start, part[0].stop)):
        sample.see(reader.read_alone((rows, part[1]), "float64"), (rows, part[1]))
    assert not compared(comm, [sample], RIGHT).right


def test_an_input_that_is_gone_is_not_verified(comm, folder):
    if comm.rank == 0:
        np.save(folder / "x.npy", np.arange(12.0))
    comm.barrier()
    source = open_source(comm, f"{folder}/x.npy")
    sample = Sample(source, 0).hold(source.read(comm, (Range(0, 12),), "float64"), (Range(0, 12),))
    comm.barrier()
    if comm.rank == 0:
        (folder / "x.npy").unlink()
    comm.barrier()
    assert "cannot be read again" in compared(comm, [sample], RIGHT).reason
