"""Compare ``hpcmpi bfs`` with ``scipy.sparse.csgraph.breadth_first_order``, on a Kronecker graph, a path and a grid.

On the path and the grid, whose levels are many and small, the whole search counts; hpcmpi's includes its levels.
"""

import json
import tempfile
from pathlib import Path

import bfs_command
from alternate import Contender, alternate, beside, print_ratio, print_times, require

_BEGINNING = """
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order

def build():
    rows, columns = np.concatenate([u, v]), np.concatenate([v, u])
    return coo_matrix((np.ones(rows.size), (rows, columns)), (n, n)).tocsr()  # float64, which is not converted

def search(A, root):
    return breadth_first_order(A, root, directed=True, return_predecessors=True)
"""
PROGRAM = bfs_command.PROGRAM + _BEGINNING + "\nfinish(build, search, roots[:8])\n"
DEEP = (
    bfs_command.PROGRAM.partition("def finish")[0]
    + _BEGINNING
    + """
A, root = build(), int(roots[0])
seconds = []
for _ in range(3):
    start = time.perf_counter()
    search(A, root)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds_min": min(seconds)}))
"""
)
_SAVE_DEEP = """
import sys
import numpy as np

folder = sys.argv[1]
path = np.arange(1_000_000)
ids = np.arange(4_000_000).reshape(2000, 2000)
ends = [(ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])]
u, v = (np.concatenate([pair[end].ravel() for pair in ends]) for end in (0, 1))
for name, (a, b) in {"path": (path[:-1], path[1:]), "grid": (u, v)}.items():
    np.save(f"{folder}/{name}.npy", np.stack([a, b], axis=1))
    for root in (0, int(max(a.max(), b.max())) // 2):
        np.savez(f"{folder}/{name}{root}.npz", u=a, v=b, roots=[root], edges=[a.size])
"""


def compare_deep(options: object, folder: Path) -> None:
    """The path and the grid, from an end and from the middle."""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", _SAVE_DEEP, str(folder)], check=True)
    for name, root in (("path", 0), ("path", 499_999), ("grid", 0), ("grid", 1_999_999)):
        searches = ["--root", str(root), "--repeat", "3", "--threads", "1", "--no-output", "--json"]
        command = [beside("mpirun"), "-n", "2", beside(options.hpcmpi), "bfs", "--graph", str(folder / f"{name}.npy")]
        mine = Contender("hpcmpi, 2 x 1", [*command, *searches], threads=1)
        peer = Contender(
            "SciPy", [options.peer_python, "-c", DEEP, str(folder / f"{name}{root}.npz")],
            read=lambda output: float(json.loads(output)["seconds_min"]),
        )  # fmt: skip
        times = alternate([mine, peer], options.rounds)
        print(f"{name} from {root}")
        print_times([mine, peer], times)
        print_ratio("time of hpcmpi over SciPy", times[0], times[1], at_most=3)


def main() -> None:
    """Search in turn, and compare."""
    parser = bfs_command.parser(__doc__)
    parser.add_argument("--deep-only", action="store_true", help="the path and the grid only")
    options = parser.parse_args()
    require(options.peer_python, ["scipy", "numpy"], "pip install scipy (see --peer-python)")
    with tempfile.TemporaryDirectory() as folder:
        if not options.deep_only:
            graph = bfs_command.save_graph(options, Path(folder))
            command = [options.peer_python, "-c", PROGRAM, str(graph)]
            peer = Contender("SciPy, 8 roots", command, read=bfs_command.searching)
            bfs_command.compare(options, [peer], [40])
        compare_deep(options, Path(folder))


if __name__ == "__main__":
    main()
