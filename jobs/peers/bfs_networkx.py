"""Compare the answers of ``hpcmpi bfs`` on the real graphs that networkx bundles with those of networkx itself.

Every vertex of every graph is a root: levels must be networkx's distances, and parents networkx's best predecessor by
the rule (the highest degree, the lowest id among equals). Ends with status 1 where they are not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from alternate import beside, require

_ANSWERS = """
import json, sys
from pathlib import Path
import networkx as nx

folder = Path(sys.argv[1])
names = ("karate_club", "les_miserables", "davis_southern_women", "florentine_families")
for name in names:
    graph = nx.convert_node_labels_to_integers(getattr(nx, f"{name}_graph")())
    (folder / f"{name}.txt").write_text("".join(f"{u} {v}\\n" for u, v in graph.edges))
    levels, parents = [], []
    for root in graph:
        level = nx.single_source_shortest_path_length(graph, root)
        levels.append([level.get(v, -1) for v in graph])
        parents.append([])
        for v in graph:
            above = [u for u in graph[v] if level.get(u, -2) == level.get(v, -2) - 1 >= 0]
            best = min(above, key=lambda u: (-graph.degree[u], u)) if above else -1
            parents[-1].append(root if v == root else best)
    (folder / f"{name}.json").write_text(json.dumps([levels, parents]))
print(json.dumps(names))
"""


def main() -> None:
    """Ask networkx, search, compare."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    options.add_argument("--peer-python", default=sys.executable, help="Python that has networkx")
    options.add_argument("--ranks", type=int, default=2)
    chosen = options.parse_args()
    require(chosen.peer_python, ["networkx"], "pip install networkx (see --peer-python)")
    require(sys.executable, ["hpcmpi", "h5py"], "pip install 'hpcmpi[mpich]'")
    import h5py

    alike = True
    with tempfile.TemporaryDirectory() as folder:
        asked = subprocess.run([chosen.peer_python, "-c", _ANSWERS, folder], check=True, capture_output=True, text=True)
        for name in json.loads(asked.stdout):
            levels, parents = json.loads(Path(folder, f"{name}.json").read_text())
            roots = [word for root in range(len(levels)) for word in ("--root", str(root))]
            command = [beside("mpirun"), "-n", str(chosen.ranks), beside(chosen.hpcmpi), "bfs", "--quiet", *roots]
            subprocess.run([*command, "--graph", f"{folder}/{name}.txt", "-o", f"{folder}/{name}.h5"], check=True)
            with h5py.File(f"{folder}/{name}.h5") as file:
                same = file["bfs/level"][...].tolist() == levels and file["bfs/parent"][...].tolist() == parents
            print(f"{name}: {len(levels)} vertices, each a root: {'as networkx has it' if same else 'DIFFERENT'}")
            alike = alike and same
    sys.exit(0 if alike else 1)


if __name__ == "__main__":
    main()
