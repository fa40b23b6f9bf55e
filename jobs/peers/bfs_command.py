"""What the comparisons of ``hpcmpi bfs`` share: the graph and the roots for all, and how times are read.

The time of a contender is that of 10^9 edges: the mean over the roots of seconds by edges traversed, the reciprocal of
the harmonic mean of GTEPS. The edges are counted as Graph500 does, for all contenders alike.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alternate import ROUNDS, ComparisonError, Contender, alternate, beside, print_ratio, print_times, require

_SAVE = """
import sys
import h5py
import numpy as np
from hpcmpi.algorithms.bfs.kronecker import kronecker
from hpcmpi.partition import Range

folder, scale, edge_factor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
u, v = kronecker(scale, Range(0, edge_factor << scale), 1)
with h5py.File(folder + "/roots.h5") as file:
    np.savez(folder + "/graph.npz", u=u, v=v, roots=file["bfs/root"], edges=file["bfs/edges"])
"""
PROGRAM = """
import json, sys, time
import numpy as np

with np.load(sys.argv[1]) as data:
    u, v, roots, edges = (data[name] for name in ("u", "v", "roots", "edges"))
n = int(max(u.max(), v.max())) + 1

def finish(build, search, roots=roots):
    start = time.perf_counter()
    graph = build()
    construction = time.perf_counter() - start
    search(graph, int(roots[0]))
    seconds = []
    for root in roots:
        start = time.perf_counter()
        search(graph, int(root))
        seconds.append(time.perf_counter() - start)
    mean = float(np.mean(np.array(seconds) / edges[: len(roots)]))
    print(json.dumps({"seconds": mean * 1e9, "construction": construction}))
"""
"""Beginning of a peer's program; it ends with ``finish(build, search)``."""


def searching(output: str) -> float:
    """Seconds for 10^9 edges, of a peer or of hpcmpi."""
    said = json.loads(output)
    return float(said["seconds"]) if "seconds" in said else 1e9 / float(said["harmonic_mean_TEPS"])


def building(output: str) -> float:
    """Seconds of the construction, of a peer or of hpcmpi."""
    said = json.loads(output)
    return float(said["construction"] if "construction" in said else said["construction_seconds"])


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every comparison has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--scale", type=int, default=20)
    options.add_argument("--edge-factor", type=int, default=16)
    options.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds; fewer than 5 say little")
    options.add_argument("--hpcmpi", default="hpcmpi", help="path, or name beside this Python or on PATH")
    options.add_argument("--peer-python", default=sys.executable, help="Python that has the peer, if it has its own")
    options.add_argument("--layouts", nargs="+", default=["2x1", "1x2"], help="ranks x threads of hpcmpi")
    return options


def hpcmpi(options: argparse.Namespace, layout: str, extra: Sequence[str] = ("--no-output", "--json")) -> Contender:
    """``hpcmpi bfs --graph500``, ranks x threads as ``layout`` says."""
    ranks, threads = layout.split("x")
    sizes = ["--scale", str(options.scale), "--edge-factor", str(options.edge_factor), "--threads", threads]
    launcher = [beside("mpirun"), "-n", ranks] if ranks != "1" else []
    command = [*launcher, beside(options.hpcmpi), "bfs", "--graph500", *sizes, *extra]
    return Contender(f"hpcmpi, {ranks} x {threads}", command, threads=int(threads), read=searching)


def save_graph(options: argparse.Namespace, folder: Path) -> Path:
    """The edges and roots of the benchmark in a file for the peers."""
    require(sys.executable, ["hpcmpi", "h5py", "numpy"], "pip install 'hpcmpi[mpich]'")
    command = hpcmpi(options, "1x1", ["-o", str(folder / "roots.h5"), "--quiet"]).command
    subprocess.run(command, check=True)
    arguments = [str(folder), str(options.scale), str(options.edge_factor)]
    saved = subprocess.run([sys.executable, "-c", _SAVE, *arguments], check=False)
    if saved.returncode:
        raise ComparisonError("the graph could not be saved for the peers")
    return folder / "graph.npz"


def compare(options: argparse.Namespace, peers: Sequence[Contender], goals: Sequence[float | None]) -> None:
    """Search in turn, and compare each of ``peers`` with each layout of hpcmpi."""
    mine = [hpcmpi(options, layout) for layout in options.layouts]
    times = alternate([*mine, *peers], options.rounds)
    print(f"scale {options.scale}, edge factor {options.edge_factor}: seconds for 10^9 edges, and GTEPS")
    print_times([*mine, *peers], times, 1.0, "GTEPS")
    for contender, own in zip(mine, times[: len(mine)], strict=True):
        for peer, theirs, goal in zip(peers, times[len(mine) :], goals, strict=True):
            print_ratio(f"speed of {contender.name} over {peer.name}", theirs, own, at_least=goal)
