"""Breadth-first search: parents and levels from a root, in parallel.

The graph is generated (Kronecker, --scale) or read from --graph: a list of edges as text (plain or of SNAP, networkx,
KONECT, also gzip), METIS or adjacency lists (--format), an HDF5, .npy or .npz array of edges, a sparse matrix
(MatrixMarket, .npz, HDF5 groups of AnnData, h5sparse, 10x Genomics, MATLAB v7.3), whose entries are edges from rows to
columns, or what `hpcmpi graph convert` has made. Each root is a search of its
own; --sources is one search from many. Of the neighbours one level up, the parent is the one of the highest degree,
and among equals of the lowest id: answers do not depend on ranks and threads. Repeated edges count in degrees, loops do
not. Vertices are numbered from 0; those of MatrixMarket, which counts from 1, are one less than in the file. With
--graph500 the run is the benchmark; it keeps the times of its searches, not their trees, and always checks these.

\b
Examples:
  mpirun -n 2 hpcmpi bfs --scale 20 --root 1 -o tree.h5
  mpirun -n 4 hpcmpi bfs --graph roads.txt.gz --root 7 --root 9 -o trees.h5
  mpirun -n 2 hpcmpi bfs --graph500 --scale 22
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcmpi.record import Example, count, option, seed

PUBLIC = {"bfs": "graph", "Graph": "graph"}
PARTITIONS = ("auto", "1d", "2d")
FORMATS = ("auto", "edges", "adjacency", "metis")
FORMAT_HELP = "What a text file holds; auto refuses what may be no list of edges, edges reads two ids from any line."
BIPARTITE_HELP = "Columns of the m x n matrix are vertices of their own, m to m + n - 1; rows are 0 to m - 1."
LARGEST_SCALE = 48
ROOTS_OF_GRAPH500 = 64
EDGE_FACTOR = 16


def vertex(text: str) -> int:
    """An id: a whole number, 0 or more."""
    try:
        return count(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an id: a whole number, 0 or more, such as 7 or 2^30") from None


def vertices(text: str) -> tuple[int, ...]:
    """Ids separated by commas."""
    return tuple(vertex(part) for part in text.split(","))


EXAMPLES = (
    Example("--scale 8 --root 1", same=("parent", "level")),
    Example("--scale 7 --roots 4 --partition 2d", same=("parent", "level"), stops=True),
    Example("--scale 7 --sources 1,2,3 --directed --max-depth 2", same=("parent", "level")),
)


@dataclass(frozen=True)
class Params:
    """Options of ``hpcmpi bfs``; n and edges are filled in from the files."""

    scale: int | None = option(
        None, f"Generate a Kronecker graph of 2^SCALE vertices, up to {LARGEST_SCALE}.", parse=count, metavar="SCALE"
    )
    edge_factor: int | None = option(
        None, f"Edges a vertex of a generated graph, by default {EDGE_FACTOR}.", parse=count
    )
    seed: int = option(1, "Seed of a generated graph, and of the choice of --roots.", parse=seed)
    graph: str | None = option(None, "Read the graph instead.", metavar="FILE[:/DATASET]")
    format: str = option("auto", FORMAT_HELP, choices=FORMATS)
    bipartite: bool = option(False, BIPARTITE_HELP)
    directed: bool = option(False, "Edges lead one way, from the first to the second end; a converted graph knows.")
    root: tuple[int, ...] = option((), "Vertex to search from; give it again for another search.", parse=vertex)
    roots: int = option(
        0, "So many searches, or as many as vertices have an edge, from such chosen at random.", parse=count
    )
    sources: tuple[int, ...] | None = option(
        None, "One search, from all these vertices at once.", parse=vertices, metavar="V,V,..."
    )
    max_depth: int | None = option(None, "Last level to search.", parse=count)
    partition: str = option(
        "auto", "1d: rows of vertices; 2d: blocks of a grid; auto: the cheapest by its cost.", choices=PARTITIONS
    )
    graph500: bool = option(False, "Run the benchmark Graph500: construction and 64 timed, checked searches.")

    def __post_init__(self) -> None:
        """Refuse what is incomplete or contradicts itself, with ValueError."""
        if (self.scale is None) == (self.graph is None):
            raise ValueError("which graph? Give either --scale or --graph")
        if self.scale is not None and self.scale > LARGEST_SCALE:
            raise ValueError(f"--scale is {self.scale}; up to {LARGEST_SCALE} is possible")
        if self.graph is None and (self.bipartite or self.format != "auto"):
            raise ValueError("--bipartite and --format are about --graph")
        if self.graph is not None and self.edge_factor is not None:
            raise ValueError("--edge-factor is of a generated graph; it does not go with --graph")
        if self.graph500:
            if self.scale is None or self.directed or self.root or self.sources or self.max_depth is not None:
                raise ValueError("--graph500 takes --scale, and no --directed, --root, --sources or --max-depth")
        elif not (self.root or self.roots or self.sources):
            raise ValueError("where to begin? Give --root, --roots or --sources")
        if self.sources and (self.root or self.roots):
            raise ValueError("--sources is one search; it does not go with --root or --roots")

    @property
    def generated_edges(self) -> int:
        """Edges of the generated graph."""
        return (EDGE_FACTOR if self.edge_factor is None else self.edge_factor) << (self.scale or 0)
