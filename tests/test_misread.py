"""A reader that is wrong makes the answer WRONG, whichever command reads, by whichever path: files are read twice."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from runs import RUN, strict_json

N = 120


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(3)
    a, x = rng.random((N, N)), rng.random(N * N)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["d"] = a
        file["pad"] = np.zeros(100)  # behind it, so that a shifted read does not meet the end of the file
        file.create_dataset("chunked", data=a, chunks=(50, 50), compression="gzip")
        file["keys"], file["values"] = x, x * 2
        file["records"] = rng.integers(0, 256, (500, 20), np.uint8)
        file["v"] = rng.random(N)
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", x=x, a=a)


COMMANDS = {
    "matmul": "matmul --a a.h5:/d --b a.h5:/chunked",
    "matmul out of core": "matmul --a a.h5:/d --b a.h5:/d --memory 1MiB",
    "matmul out of core, chunks": "matmul --a a.h5:/chunked --transpose-a --k 120 --n 120 --memory 1MiB",
    "matvec": "matvec --a a.h5:/d --x a.h5:/v",
    "matvec, power": "matvec --a a.h5:/d --iterate power --transpose",
    "sort": "sort --input x.npy",
    "sort out of core": "sort --input a.h5:/keys --memory 16MiB",
    "sort, values": "sort --by a.h5:/keys --values a.h5:/values",
    "sort, records": "sort --input a.h5:/records --records 20",
    "reduce streamed": "reduce --input a.h5:/d --method stream --block 8KiB --axis 0",
    "reduce npz": "reduce --input x.npz:/x --op min,histogram",
}


@pytest.mark.sample(6)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_misread_file_is_found(hpcmpi, files, command):  # noqa: ARG001 - files are in the folder
    argv = (*command.split(), "--no-output", "--json", "--threads", 1)
    wrong = hpcmpi(0, *argv, program=(RUN,), FAULTS="misread=1")
    assert wrong.returncode == 3, wrong.stderr
    found = strict_json(wrong.stdout)
    assert not found["verified"]
    assert ": element (" in found["verdict"]
    assert found["verdict"].startswith(("a.h5:/", "x.np"))


def test_one_rank_that_misreads_is_enough(hpcmpi, files):  # noqa: ARG001
    argv = ("matmul", "--a", "a.h5:/d", "--b", "a.h5:/d", "--memory", "1MiB", "--no-output", "--threads", 1)
    right = hpcmpi(2, *argv, "--json", program=(RUN,))
    assert right.returncode == 0, right.stderr
    assert strict_json(right.stdout)["verified"]
    assert strict_json(right.stdout)["elements_compared"] > 0
    run = hpcmpi(2, *argv, program=(RUN,), FAULTS="misread=1 rank=1")
    assert run.returncode == 3, run.stderr
    assert "WRONG: a.h5:/d: element (" in run.stdout
