"""Compare ``hpcmpi bfs`` with python-graphblas (SuiteSparse): parents by products with the any-secondi semiring.

As LAGraph does it: SuiteSparse takes a sparse vector times the matrix as a push, and the matrix times a bitmap as a
pull that stops at the first neighbour found. So the program chooses the direction, by the edges of the frontier, and
keeps the parents, which mask the product, as a bitmap. Always pushing takes more than five times as long.
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
ALPHA, BETA = 8, 512
any_secondi = gb.semiring.ss.any_secondi

def build():
    rows, columns = np.concatenate([u, v]), np.concatenate([v, u])
    A = gb.Matrix.from_coo(rows, columns, True, nrows=n, ncols=n)
    return A, A.apply(gb.unary.one[np.int64]).reduce_rowwise("plus").new().to_dense(0)

def search(graph, root):
    A, degree = graph
    parent, frontier = gb.Vector(np.int64, n), gb.Vector(np.int64, n)
    parent.ss.config["sparsity_control"] = {"bitmap"}
    parent[root] = frontier[root] = root
    push, size, before, left, edges = True, 1, 0, A.nvals, int(degree[root])
    while size:
        if push:
            left -= edges
            push = size <= before or edges * ALPHA <= left
        else:
            push = size < before and size <= n / BETA
        before = size
        frontier.ss.config["sparsity_control"] = {"sparse" if push else "bitmap"}
        frontier(~parent.S, replace=True) << any_secondi(frontier @ A if push else A @ frontier)
        parent(frontier.S) << frontier
        size = frontier.nvals
        if push:
            edges = int(degree[frontier.to_coo(values=False)[0]].sum())
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
