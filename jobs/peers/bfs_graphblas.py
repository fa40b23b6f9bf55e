"""Compare ``hpcmpi bfs`` with python-graphblas (SuiteSparse): parents by products with the any-secondi semiring.

SuiteSparse chooses between push and pull by itself; the frontier carries its own indices, and the parents mask it.
"""

import tempfile
from pathlib import Path

import bfs_command
from alternate import Contender, require

PROGRAM = (
    bfs_command.PROGRAM
    + """
import graphblas as gb
gb.ss.config["nthreads"] = int(sys.argv[2])

def build():
    rows, columns = np.concatenate([u, v]), np.concatenate([v, u])
    return gb.Matrix.from_coo(rows, columns, True, nrows=n, ncols=n)

def search(A, root):
    parent, frontier = gb.Vector(gb.dtypes.INT64, n), gb.Vector(gb.dtypes.INT64, n)
    parent[root] = frontier[root] = root
    while frontier.nvals:
        frontier(~parent.S, replace=True) << gb.semiring.any_secondi(A.T @ frontier)
        parent(frontier.S) << frontier
    return parent

finish(build, search)
"""
)


def main() -> None:
    """Search in turn, and compare."""
    options = bfs_command.parser(__doc__).parse_args()
    require(options.peer_python, ["graphblas", "numpy"], "pip install python-graphblas (see --peer-python)")
    with tempfile.TemporaryDirectory() as folder:
        graph = bfs_command.save_graph(options, Path(folder))
        command = [options.peer_python, "-c", PROGRAM, str(graph), "2"]
        peer = Contender("python-graphblas, 2 threads", command, read=bfs_command.searching)
        bfs_command.compare(options, [peer], [10])


if __name__ == "__main__":
    main()
