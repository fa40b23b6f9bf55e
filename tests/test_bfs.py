"""``hpcmpi bfs`` and ``hpcmpi graph convert`` end to end: every kind of file, a real graph, bad input."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
from conftest import Run
from numpy.typing import NDArray
from runs import messages, names, strict_json

# Zachary's karate club (1977), as networkx has it: who met whom outside the club, members numbered from 0.
KARATE = {
    0: [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31], 1: [2, 3, 7, 13, 17, 19, 21, 30],
    2: [3, 7, 8, 9, 13, 27, 28, 32], 3: [7, 12, 13], 4: [6, 10], 5: [6, 10, 16], 6: [16], 8: [30, 32, 33], 9: [33],
    13: [33], 14: [32, 33], 15: [32, 33], 18: [32, 33], 19: [33], 20: [32, 33], 22: [32, 33],
    23: [25, 27, 29, 32, 33], 24: [25, 27, 31], 25: [31], 26: [29, 33], 27: [33], 28: [31, 33], 29: [32, 33],
    30: [32, 33], 31: [32, 33], 32: [33],
}  # fmt: skip
EDGES = np.array([(a, b) for a, ends in KARATE.items() for b in ends])
DISTANCES_FROM_16 = "2 3 3 3 2 1 1 3 3 4 2 3 3 3 5 5 0 3 5 3 5 3 5 5 4 4 5 4 4 5 4 3 4 4"  # networkx 3.4


def write(path: Path, edges: NDArray, head: str = "", between: str = " ") -> Path:
    text = head + "".join(f"{a}{between}{b}\n" for a, b in edges.tolist())
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(text)
    else:
        path.write_text(text)
    return path


def market(path: Path, edges: NDArray, n: int) -> Path:
    head = f"%%MatrixMarket matrix coordinate pattern symmetric\n% members\n{n} {n} {len(edges)}\n"
    return write(path, edges[:, ::-1] + 1, head)


def rows(file: h5py.File, edges: NDArray, n: int) -> None:
    both = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
    file["club/indptr"] = np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=n))])
    file["club/indices"] = both[:, 1].astype(np.int32)


@pytest.fixture
def search(hpcmpi: Run, tmp_path: Path):
    """Parents and levels that ``hpcmpi bfs`` writes; they must have been verified."""

    def run(ranks: int, *argv: object, threads: int = 1) -> tuple[NDArray, NDArray]:
        ended = hpcmpi(ranks, "bfs", *argv, "--threads", threads, "-o", "t.h5", "--force", "--json")
        assert ended.returncode == 0, ended.stderr
        assert strict_json(ended.stdout)["verified"]
        assert messages(ended.stderr) == []
        with h5py.File(tmp_path / "t.h5") as file:
            return file["bfs/parent"][...], file["bfs/level"][...]

    return run


def test_every_kind_of_file_gives_the_same_tree(search, hpcmpi, tmp_path):
    with h5py.File(tmp_path / "arrays.h5", "w") as file:
        file["edges"], file["ends"] = EDGES.astype(np.uint16), EDGES.T
        rows(file, EDGES, 34)
    np.save(tmp_path / "edges.npy", EDGES)
    write(tmp_path / "plain.txt", EDGES)
    write(tmp_path / "snap.txt.gz", EDGES, "# Undirected graph\r\n# FromNodeId\tToNodeId\r\n", "\t")
    market(tmp_path / "club.mtx", EDGES, 34)
    converted = hpcmpi(3, "graph", "convert", "snap.txt.gz", "club.h5")
    assert converted.returncode == 0, converted.stderr
    assert hpcmpi(0, "verify", "club.h5").returncode == 0
    files = ["plain.txt", "snap.txt.gz", "club.mtx", "edges.npy", "arrays.h5:/edges", "arrays.h5:/ends"]
    scipy.sparse.save_npz(tmp_path / "club.npz", scipy.sparse.coo_array((np.ones(len(EDGES)), EDGES.T), (34, 34)))
    np.savez(tmp_path / "edges.npz", edges=EDGES)
    files += ["arrays.h5:/club", "club.h5", "club.npz", "edges.npz"]
    for index, file in enumerate(files):
        parent, level = search(1 + index % 3, "--graph", file, "--root", 16)
        assert (parent.dtype, level.dtype) == (np.int64, np.int32)
        assert level.tolist() == [[int(x) for x in DISTANCES_FROM_16.split()]]
        assert parent[0, [16, 5, 6, 0, 8, 33]].tolist() == [16, 16, 16, 5, 0, 31], file  # 5 and 6 have degree 4


def test_files_are_the_same_on_any_number_of_ranks_and_threads(search):
    argv = ("--scale", 9, "--root", 3, "--roots", 2)
    first = search(1, *argv)
    for ranks, threads in ((1, 2), (2, 1), (3, 2), (4, 1), (7, 1)):
        for mine, other in zip(search(ranks, *argv, threads=threads), first, strict=True):
            np.testing.assert_array_equal(mine, other)
    for mine, other in zip(search(4, *argv, "--partition", "2d"), first, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_sparse_ids_of_48_bits_are_named(search, hpcmpi, tmp_path):
    ids = np.sort(np.random.default_rng(1).choice(2**48, 34, replace=False))
    write(tmp_path / "big.txt", ids[EDGES])
    assert hpcmpi(2, "graph", "convert", "big.txt", "big.h5").returncode == 0
    for ranks, file in ((2, "big.txt"), (3, "big.h5")):
        parent, level = search(ranks, "--graph", file, "--root", ids[16])
        assert level.tolist() == [[int(x) for x in DISTANCES_FROM_16.split()]]
        with h5py.File(tmp_path / "t.h5") as result:
            np.testing.assert_array_equal(result["bfs/vertex"], ids)
            np.testing.assert_array_equal(result["bfs/root"], ids[[16]])
        assert parent[0, [0, 33]].tolist() == ids[[5, 31]].tolist()


def test_directed_sources_depth_and_ids_without_edges(search, tmp_path):
    write(tmp_path / "d.txt", np.array([(0, 1), (1, 2), (2, 3), (4, 3), (6, 6)]))
    parent, level = search(2, "--graph", "d.txt", "--directed", "--sources", "1,4")
    assert level.tolist() == [[-1, 0, 1, 1, 0, -1, -1]]
    assert parent.tolist() == [[-1, 1, 1, 4, 4, -1, -1]]
    with h5py.File(tmp_path / "t.h5") as file:
        assert file["bfs/edges"][...].tolist() == [3]  # of those that are given, not their ends
    parent, level = search(3, "--graph", "d.txt", "--root", 0, "--root", 5, "--max-depth", 2)
    assert level.tolist() == [[0, 1, 2, -1, -1, -1, -1], [-1, -1, -1, -1, -1, 0, -1]]


def test_a_converted_directed_graph_has_the_parents_of_its_text(search, hpcmpi, tmp_path):
    repeated = np.array(
        [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (2, 4), (1, 5)]
    )  # which 2's degree counts, not its row
    write(tmp_path / "r.txt", repeated)
    assert hpcmpi(2, "graph", "convert", "r.txt", "r.h5", "--directed").returncode == 0
    for ranks, file in ((1, "r.txt"), (2, "r.h5")):
        parent, _ = search(ranks, "--graph", file, "--directed", "--root", 0)
        assert parent.tolist() == [[0, 0, 0, 2, 2, 1]], file


def test_edges_are_counted_as_they_were_given(search, hpcmpi, tmp_path):
    edges = np.array([(0, 1), (1, 2), (1, 2), (2, 2), (3, 4)])
    write(tmp_path / "e.txt", edges)
    assert hpcmpi(2, "graph", "convert", "e.txt", "e.h5").returncode == 0
    deep = ("--root", 0, "--max-depth", 1)
    for graph, argv, expected in (("e.txt", ("--root", 1), 4), ("e.txt", deep, 1), ("e.h5", ("--root", 1), 2)):
        search(2, "--graph", graph, *argv)
        with h5py.File(tmp_path / "t.h5") as file:
            assert file["bfs/edges"][...].tolist() == [expected]  # a converted graph has no loops and repeats
    shown = hpcmpi(0, "show", "e.h5").stdout
    assert shown.startswith("e.h5: graph: data\n  /graph/")


def test_the_benchmark_prints_its_block(hpcmpi):
    ended = hpcmpi(2, "bfs", "--graph500", "--scale", 8, "--threads", 1, "--no-output", "--no-verify")
    assert ended.returncode == 0, ended.stderr
    assert "verified: 64 searches passed" in ended.stdout  # they are, as the specification has it
    values = dict(line.strip().split(":", 1) for line in ended.stdout.splitlines() if ":" in line)
    assert values["NBFS"].strip() == "64"
    assert values["validation"].strip() == "passed"
    for name in ("min_time", "max_TEPS", "harmonic_mean_TEPS", "harmonic_stddev_TEPS"):
        assert float(values[f"bfs  {name}"]) >= 0
    assert float(values["min_nedge"]) <= float(values["max_nedge"]) == 16 << 8
    assert float(values["graph_generation"]) > 0
    assert float(values["bfs  min_TEPS"]) <= float(values["bfs  harmonic_mean_TEPS"]) <= float(values["bfs  max_TEPS"])


def test_metis_and_bipartite_graphs_are_searched_and_converted(search, hpcmpi, tmp_path):
    (tmp_path / "cycle.graph").write_text("6 6\n" + "".join(f"{1 + (i + 1) % 6} {1 + (i - 1) % 6}\n" for i in range(6)))
    assert hpcmpi(2, "graph", "convert", "cycle.graph", "cycle.h5", "--format", "metis").returncode == 0
    for argv in (("cycle.graph", "--format", "metis"), ("cycle.h5",)):
        assert search(2, "--graph", *argv, "--root", 0)[1].tolist() == [[0, 1, 2, 3, 2, 1]]
    (tmp_path / "wide.mtx").write_text(
        "%%MatrixMarket matrix coordinate unsigned-integer general\n2 4 3\n1 2 7\n2 3 7\n2 4 7\n"
    )
    refused = hpcmpi(2, "bfs", "--graph", "wide.mtx", "--root", 1, "--no-output")
    assert (refused.returncode, refused.stderr.count("is 2 x 4: as a graph")) == (65, 1)
    assert hpcmpi(2, "graph", "convert", "wide.mtx", "wide.h5", "--bipartite").returncode == 0
    for argv in (("wide.mtx", "--bipartite"), ("wide.h5",)):
        assert search(2, "--graph", *argv, "--root", 1)[1].tolist() == [[-1, 0, -1, -1, 1, 1]]


def test_a_list_that_counts_from_1_says_that_vertex_0_is_isolated(hpcmpi, tmp_path):
    (tmp_path / "one.txt").write_text("1 2\n2 3\n")
    ended = hpcmpi(2, "bfs", "--graph", "one.txt", "--root", 1, "--threads", 1, "--no-output")
    assert (ended.returncode, ended.stdout.count("ids begin at 1: vertex 0 is isolated")) == (0, 1), ended.stderr


def text(content: str | bytes) -> object:
    data = content.encode() if isinstance(content, str) else content
    return lambda: Path("g.txt").write_bytes(data)


def bad_rows() -> None:
    with h5py.File("g.h5", "w") as file:
        file["club/indptr"], file["club/indices"] = np.arange(4), np.array([2**32 + 1, 0, 1])


def array(values: object) -> object:
    return lambda: np.save("g.npy", np.array(values))


ROOT = ("--root", 0)
BAD = {
    "missing": (lambda: None, "g.txt", ROOT, 65, "g.txt: no such file"),
    "empty": (text(""), "g.txt", ROOT, 65, "g.txt: holds no edges"),
    "comments only": (text("# nothing\n\n"), "g.txt", ROOT, 65, "g.txt: holds no edges"),
    "negative": (text("0 1\n# x\n2 -3\n"), "g.txt", ROOT, 65, "g.txt: line 3: '2 -3': two whole numbers"),
    "fractional": (text("0 1\n1.5 2\n"), "g.txt", ROOT, 65, "g.txt: line 2: '1.5 2'"),
    "one end": (text("0 1\n5\n"), "g.txt", ROOT, 65, "g.txt: line 2: '5'"),
    "words": (text("0 1\n1 2 much\n"), "g.txt", ROOT, 65, "g.txt: line 2: '1 2 much'"),
    "too large": (text("0 1\n1 9223372036854775808\n"), "g.txt", ROOT, 65, "line 2"),
    "truncated gzip": (
        text(gzip.compress(b"".join(b"%d %d\n" % (i * i, i) for i in range(9999)))[:-9000]), "g.txt", ROOT, 65, "gzip",
    ),
    "no such root": (text("0 1\n"), "g.txt", ("--root", 2), 65, "root 2 is not a vertex: there are 2"),
    "no such name": (text("0 900\n"), "g.txt", ("--root", 2), 65, "root 2 is not a vertex: 2 vertices occur"),
    "market": (text("%%MatrixMarket matrix array real general\n"), "g.txt", ROOT, 65, "its size line is"),
    "market size": (
        text("%%MatrixMarket matrix coordinate pattern general\n2 2 3\n1 2\n"), "g.txt", ROOT, 65, "1 entries found, 3",
    ),
    "market index": (
        text("%%MatrixMarket matrix coordinate pattern general\n2 2 1\n1 3\n"), "g.txt", ROOT, 65, "line 3: '1 3'",
    ),
    "too large in an array": (
        lambda: np.save("g.npy", np.array([[0, 2**63 + 5]], np.uint64)), "g.npy", ROOT, 65,
        "holds the id 9223372036854775813",
    ),
    "index of a row": (bad_rows, "g.h5", ROOT, 65, "g.h5:/club: holds the id 4294967297; there are 3 vertices"),
    "root of any size": (text("0 1\n"), "g.txt", ("--root", 10**24), 65, f"root {10**24} is not a vertex"),
    "no root to draw": (text("0 0\n1 1\n"), "g.txt", ("--roots", 2), 65, "no root can be drawn"),
    "negative array": (array([[0, -1]] * 3), "g.npy", ROOT, 65, "holds the id -1"),
    "fractional array": (array([[0, 1.5]] * 3), "g.npy", ROOT, 65, "holds float64"),
    "not pairs": (array([[0, 1, 2]] * 3), "g.npy", ROOT, 65, "has shape (3, 3)"),
    "zip": (lambda: np.savez("g.npz", x=[1]), "g.npz", ROOT, 65, "g.npz: name one array"),
    "folder": (lambda: Path("g.txt").mkdir(), "g.txt", ROOT, 65, "g.txt: is a folder, not a file"),
    "edge factor": (text("0 1\n"), "g.txt", (*ROOT, "--edge-factor", 8), 2, "--edge-factor is of a generated graph"),
    "which graph": (lambda: None, "g.txt", (*ROOT, "--scale", 3), 2, "either --scale or --graph"),
    "where to begin": (text("0 1\n"), "g.txt", (), 2, "where to begin"),
}  # fmt: skip


@pytest.mark.sample(6)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_once_with_the_right_status(hpcmpi, tmp_path, monkeypatch, case):
    make, file, argv, code, said = BAD[case]
    monkeypatch.chdir(tmp_path)
    make()
    before = names(tmp_path)
    ended = hpcmpi(2, "bfs", "--graph", file, *argv, "--threads", 1, "-o", "t.h5", timeout=60)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert said in ended.stderr
    assert ended.stderr.count(said) == 1
    assert "t.h5" not in names(tmp_path) - before


def test_conversion_refuses_what_it_cannot_read_or_replace(hpcmpi, tmp_path):
    (tmp_path / "g.txt").write_text("0 1\nx y\n")
    ended = hpcmpi(2, "graph", "convert", "g.txt", "g.h5")
    assert (ended.returncode, ended.stdout) == (65, "")
    assert "g.txt: line 2: 'x y'" in ended.stderr
    (tmp_path / "g.txt").write_text("0 1\n")
    assert hpcmpi(2, "graph", "convert", "g.txt", "g.h5", "--directed").returncode == 0
    assert hpcmpi(2, "graph", "convert", "g.txt", "g.h5").returncode == 73
    assert hpcmpi(2, "graph", "convert", "g.txt", "g.h5", "--force").returncode == 0
    assert hpcmpi(1, "bfs", "--graph", "g.h5", "--root", 0, "--directed").returncode == 2
