"""Compare the construction of ``hpcmpi bfs --graph500`` (kernel 1) with networkit's, from edges in memory."""

import tempfile
from dataclasses import replace
from pathlib import Path

import bfs_command
from alternate import Contender, alternate, print_ratio, print_times, require

PROGRAM = (
    bfs_command.PROGRAM
    + """
import networkit as nk
nk.setNumberOfThreads(2)
u, v = u.astype(np.uint64), v.astype(np.uint64)  # as addEdges takes them, so that it converts nothing

def build():
    graph = nk.Graph(n)
    graph.addEdges((u, v))
    return graph

finish(build, lambda graph, root: nk.distance.BFS(graph, root).run(), roots[:1])
"""
)


def main() -> None:
    """Build in turn, and compare."""
    options = bfs_command.parser(__doc__).parse_args()
    require(options.peer_python, ["networkit", "numpy"], "pip install networkit (see --peer-python)")
    with tempfile.TemporaryDirectory() as folder:
        graph = bfs_command.save_graph(options, Path(folder))
        mine = [replace(bfs_command.hpcmpi(options, layout), read=bfs_command.building) for layout in options.layouts]
        command = [options.peer_python, "-c", PROGRAM, str(graph)]
        peer = Contender("networkit, 2 threads", command, read=bfs_command.building)
        times = alternate([*mine, peer], options.rounds)
    print(f"scale {options.scale}, edge factor {options.edge_factor}: construction")
    print_times([*mine, peer], times, options.edge_factor * 2**options.scale / 1e6, "Medge/s")
    for contender, own in zip(mine, times, strict=False):
        print_ratio(f"speed of {contender.name} over {peer.name}", times[-1], own, at_least=25)


if __name__ == "__main__":
    main()
