"""Compare ``hpcmpi matmul --memory`` at a quarter of the memory with the same product in memory.

Both read A and B from HDF5, contiguous or, with --chunks, in compressed chunks. The time in memory is that of the
product alone; that of tiles has the reading of panels and the writing of C in it, so the goal of 1.3 counts nothing for
the disk. The peak of memory is judged too.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matmul_command
from alternate import alternate, beside, print_ratio, print_times, require

_OWN = 64 << 20  # bytes that the program, MPI and BLAS take themselves

_MAKE = """
import sys
import h5py
from hpcmpi import generator
from hpcmpi.partition import Range, pieces

n, dtype, folder, chunks = int(sys.argv[1]), sys.argv[2], sys.argv[3], [int(x) for x in sys.argv[4].split("x") if x]
packed = dict(chunks=tuple(chunks), compression="gzip", compression_opts=1) if chunks else {}
for stream, name in enumerate("AB"):
    with h5py.File(f"{folder}/{name}.h5", "w") as file:
        data = file.create_dataset("x", (n, n), dtype, **packed)
        for rows in pieces(Range(0, n), 1024):
            data[rows.slice] = generator.uniform(1, rows, Range(0, n), dtype, stream=stream)
"""


def compare(options: argparse.Namespace, dtype: str, folder: str) -> None:
    """Time both, and measure the memory of one run by tiles."""
    subprocess.run([sys.executable, "-c", _MAKE, str(options.n), dtype, folder, options.chunks], check=True)
    operands = ["--a", f"{folder}/A.h5", "--b", f"{folder}/B.h5"]
    size = options.n**2 * (8 if dtype == "float64" else 4)
    memory = 3 * size // options.ranks // 4
    plain = matmul_command.hpcmpi(options, dtype, ranks=options.ranks, threads=1)
    words = list(plain.command)
    at = words.index("--n")
    words[at : at + 2] = operands
    tiles = ["--memory", str(memory), "--scratch", folder]
    held = dataclasses.replace(plain, name=f"{plain.name}, in memory", command=words)
    streamed = dataclasses.replace(plain, name=f"{plain.name}, {memory >> 20} MiB a rank", command=[*words, *tiles])
    times = alternate([held, streamed], options.rounds)
    print_times([held, streamed], times, matmul_command.gigaflop(options.n), "Gflop/s")
    print_ratio("time by tiles over time in memory", times[1], times[0], at_most=1.3)
    how = [beside("mpirun"), "-n", str(options.ranks), beside(options.hpcmpi), "matmul", *operands, *tiles]
    how += ["--dtype", dtype, "--threads", "1", "--no-output", "--json"]
    facts = json.loads(subprocess.run(how, capture_output=True, text=True, check=True).stdout)
    peak = facts["memory_peak_bytes"] - facts["memory_baseline_bytes"]
    print(f"verified: {facts['verified']}; peak memory above the imports: {peak >> 20} MiB of {memory >> 20} MiB")
    print_ratio(f"peak over what was asked for and {_OWN >> 20} MiB", [peak], [memory + _OWN], at_most=1.0)


def main() -> None:
    """Compare for each dtype."""
    parser = matmul_command.parser(__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="with 1 thread each")
    parser.add_argument("--chunks", default="", metavar="ROWSxCOLUMNS", help="of compressed operands; none by default")
    parser.add_argument("--folder", type=Path, default=Path(), help="for A, B and tiles of C: 4 n^2 numbers")
    options = parser.parse_args()
    require(sys.executable, ["hpcmpi", "h5py"], "pip install 'hpcmpi[mpich]'")
    for dtype in options.dtype:
        print(f"\n{dtype}, n = {options.n}")
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            compare(options, dtype, folder)


if __name__ == "__main__":
    main()
