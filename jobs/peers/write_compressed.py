"""Compare ``--compress`` of hpcmpi's store with h5py's own filters, which compress on one rank what it has gathered.

Two ranks hold the row blocks of one matrix of rounded numbers, which compress to about a third. Timed from barrier to
barrier, without syncing; on hpcmpi's side without the checksums, a phase of their own.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from alternate import ROUNDS, TIMED, Contender, alternate, beside, print_ratio, print_times, require

_BEGINNING = (
    TIMED
    + """
import pathlib
import h5py
import numpy as np

n, kind, target = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3], "matrix.h5")
first, last = n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size
waves = np.sin(np.arange(first, last)[:, None] / n * 6) * np.cos(np.linspace(0, 6, n))
C = np.round(waves, 4)
del waves
"""
)
_HPCMPI = """
from hpcmpi.record import Block, Phases
from hpcmpi.store.writer import save

block, phases = Block(C, start=(first, 0), shape=(n, n)), Phases()

def write():
    save(comm, target, {"C": block}, durable=False, compress=kind, phases=phases)
"""
_H5PY = """
from hpcmpi.store.compression import chunk_shape

rows = 256

def write():
    if comm.rank:
        for at in range(0, len(C), rows):
            comm.Send(C[at:at + rows], 0)
        return
    if kind == "zstd":
        import hdf5plugin
        how = hdf5plugin.Zstd(clevel=1)
    else:
        how = {"compression": "gzip", "compression_opts": 1}
    with h5py.File(target, "w") as file:
        data = file.create_dataset("C", (n, n), "f8", chunks=chunk_shape((n, n), 8), shuffle=True, **how)
        data[:last] = C
        strip = np.empty((rows, n))
        for rank in range(1, comm.size):
            end = n * (rank + 1) // comm.size
            for at in range(n * rank // comm.size, end, rows):
                part = strip[:min(rows, end - at)]
                comm.Recv(part, rank)
                data[at:at + len(part)] = part
"""
_END = """
comm.Barrier()
start = time.perf_counter()
write()
comm.Barrier()
seconds = time.perf_counter() - start
if "phases" in globals():
    seconds -= phases.by_name["checksum"].seconds
seconds = comm.allreduce(seconds, MPI.MAX)
if comm.rank == 0:
    print(json.dumps({"seconds_min": seconds}))
    print(f"{target.stat().st_size / (n * n * 8):.3f} of its size", file=sys.stderr)
    target.unlink()
"""


def main() -> None:
    """Write in turn, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--n", type=int, default=6144, help="order of the matrix of float64")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--compress", nargs="+", choices=["gzip", "zstd"], default=["gzip", "zstd"])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write: choose the file system here")
    options = parser.parse_args()
    require(sys.executable, ["hpcmpi", "hdf5plugin", "zstandard"], "pip install 'hpcmpi[mpich,zstd]'")
    for kind in options.compress:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            contenders = [
                Contender(
                    name,
                    [
                        *(beside("mpirun"), "-n", str(options.ranks), sys.executable, "-c"),
                        *(_BEGINNING + program + _END, str(options.n), kind, folder),
                    ],
                    threads=1,
                )
                for name, program in (("hpcmpi", _HPCMPI), ("h5py, one rank", _H5PY))
            ]
            times = alternate(contenders, options.rounds)
        mebibytes = options.n**2 * 8 / 2**20
        print(f"{kind}, float64, n = {options.n}, {mebibytes:.0f} MiB from {options.ranks} ranks")
        print_times(contenders, times, mebibytes, "MiB/s")
        print_ratio(f"speed over h5py's serial {kind}", times[1], times[0], at_least=1.5)


if __name__ == "__main__":
    main()
