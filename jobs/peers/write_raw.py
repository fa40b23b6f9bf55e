"""Compare hpcmpi's store with raw ``os.pwrite`` for two ranks that write the row blocks of one matrix to one file.

Both with and without forcing the bytes to the disk. Timed from barrier to barrier: create the file, write, sync,
rename, and on hpcmpi's side also what makes it an HDF5 file. The checksums, a phase of their own, are left out.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from alternate import ROUNDS, TIMED, Contender, alternate, beside, print_ratio, print_times, require

_BEGINNING = (
    TIMED
    + """
import os, pathlib
import numpy as np

n, durable, folder = int(sys.argv[1]), sys.argv[2] == "durable", pathlib.Path(sys.argv[3])
first, last = n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size
C = np.random.default_rng(comm.rank).random((last - first, n))
target = folder / "matrix.h5"
"""
)
_RAW = """
partial = folder / "matrix.partial"

def write():
    if comm.rank == 0:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    comm.Barrier()
    file, data, at = os.open(partial, os.O_WRONLY), memoryview(C).cast("B"), first * n * C.itemsize
    while data:
        written = os.pwrite(file, data[:2**30], at)
        data, at = data[written:], at + written
    if durable:
        os.fsync(file)
    os.close(file)
    comm.Barrier()
    if comm.rank == 0:
        partial.rename(target)
        if durable:
            directory = os.open(folder, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
    comm.Barrier()
"""
_STORE = """
import h5py  # a job has long loaded it when it comes to writing
from hpcmpi.record import Block, Phases
from hpcmpi.store.writer import save

block, phases = Block(C, start=(first, 0), shape=(n, n)), Phases()

def write():
    save(comm, target, {"C": block}, durable=durable, phases=phases)
    comm.Barrier()
"""
# Bytes that an earlier run left for the kernel to write would be paid for by whoever comes next.
_END = """
if comm.rank == 0:
    os.sync()
comm.Barrier()
start = time.perf_counter()
write()
seconds = time.perf_counter() - start
if "phases" in globals():  # the checksum, which the raw side has none of, is timed apart
    seconds -= phases.by_name["checksum"].seconds
seconds = comm.allreduce(seconds, MPI.MAX)
if comm.rank == 0:
    print(json.dumps({"seconds_min": seconds}))
    if target.stat().st_size < n * n * C.itemsize:
        sys.exit("the file is too short")
    target.unlink()
"""


def raw_program() -> str:
    """Text of the program that writes with nothing but ``os.pwrite``."""
    return _BEGINNING + _RAW + _END


def hpcmpi_program() -> str:
    """Text of the program that writes the same blocks through hpcmpi's store."""
    return _BEGINNING + _STORE + _END


def writer(options: argparse.Namespace, name: str, program: str, durable: str, folder: str) -> Contender:
    """One side, durable or not."""
    arguments = [str(options.n), durable, folder]
    return Contender(
        f"{name}, {durable}",
        [beside("mpirun"), "-n", str(options.ranks), sys.executable, "-c", program, *arguments],
        threads=1,
    )


def main() -> None:
    """Write in turn, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--n", type=int, default=8192, help="order of the matrix of float64")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write: choose the file system here")
    options = parser.parse_args()
    require(sys.executable, ["hpcmpi", "h5py", "mpi4py", "numpy"], "pip install 'hpcmpi[mpich]'")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        contenders = [
            writer(options, name, program, durable, folder)
            for durable in ("cached", "durable")
            for name, program in (("hpcmpi", hpcmpi_program()), ("raw", raw_program()))
        ]
        times = alternate(contenders, options.rounds)
    mebibytes = options.n**2 * 8 / 2**20
    print(f"float64, n = {options.n}, {mebibytes:.0f} MiB from {options.ranks} ranks")
    print_times(contenders, times, mebibytes, "MiB/s")
    print_ratio("speed of hpcmpi over raw, left to the system's cache", times[1], times[0], at_least=0.95)
    print_ratio("speed of hpcmpi over raw, forced to the disk", times[3], times[2], at_least=0.95)


if __name__ == "__main__":
    main()
