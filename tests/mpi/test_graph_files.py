"""Graphs and sparse matrices that other programs write: edges and entries are those of the file, or refused."""

from __future__ import annotations

import gzip
import warnings

import h5py
import numpy as np
import pytest

from hpcmpi import Graph
from hpcmpi.algorithms.bfs import Params, driver, layout
from hpcmpi.algorithms.bfs.edges import Edges
from hpcmpi.algorithms.bfs.files import read_edges, sample_edges
from hpcmpi.algorithms.matvec import Params as MatvecParams
from hpcmpi.algorithms.matvec import driver as matvec
from hpcmpi.algorithms.matvec.compressed import read_rows
from hpcmpi.algorithms.matvec.cost import plans
from hpcmpi.errors import HpcmpiWarning, InputError, WrongError
from hpcmpi.machine import Machine
from hpcmpi.store.matrix_market import open_matrix_market
from hpcmpi.store.sparse import open_sparse

ONE_WAY = np.zeros((5, 5))
ONE_WAY[0, 1], ONE_WAY[1, 2], ONE_WAY[3, 0], ONE_WAY[3, 4] = 2, 3, 5, 7
WIDE = np.array([[0, 1, 0, 4.0], [0, 0, 2, 0], [3, 0, 0, 0]])
BANNER = "%%MatrixMarket matrix"


@pytest.fixture
def folder(comm, tmp_path_factory):
    """A folder that the ranks of ``comm`` share."""
    return comm.bcast(tmp_path_factory.mktemp("graphs") if comm.rank == 0 else None)


def put(comm, path, content):
    """Write ``content``, text, bytes, or what a function does with the path, on rank 0."""
    if comm.rank == 0:
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    comm.Barrier()
    return str(path)


def arcs(comm, edges: Edges):
    """The edges of all ranks, by their ids, in order."""
    u, v = (np.concatenate(comm.allgather(ends.astype(np.int64))) for ends in (edges.u, edges.v))
    if edges.names is not None:
        ids = np.concatenate(comm.allgather(edges.names.ids))
        u, v = ids[u], ids[v]
    return sorted(zip(u.tolist(), v.tolist(), strict=True))


def nonzeros(a, below=0):
    return sorted((int(i), int(j) + below) for i, j in np.argwhere(a))


def hdf5(write, userblock=0):
    def make(path):
        with h5py.File(path, "w", userblock_size=userblock) as file:
            write(file)

    return make


def compressed(a, layout, names=("indptr", "indices", "data"), **attributes):
    """What writes group X; an attribute whose name ends in _dataset is stored as a dataset."""
    from scipy import sparse

    held = getattr(sparse, f"{layout}_array")(a)
    arrays = (held.row, held.col, held.data) if layout == "coo" else (held.indptr, held.indices, held.data)

    def write(file):
        for name, array in zip(names, arrays, strict=True):
            file[f"X/{name}"] = array
        for name, value in attributes.items():
            if name.endswith("_dataset"):
                file[f"X/{name.removesuffix('_dataset')}"] = value
            else:
                file["X"].attrs[name.replace("__", "-")] = value

    return write


def npz(a, layout):
    from scipy import sparse

    return lambda path: sparse.save_npz(path, getattr(sparse, f"{layout}_array")(a))


def market(a, field="integer"):
    lines = "".join(f"{i + 1} {j + 1} {int(a[i, j])}\n" for i, j in np.argwhere(a))
    return f"{BANNER} coordinate {field} general\n{a.shape[0]} {a.shape[1]} {np.count_nonzero(a)}\n{lines}"


def matrices(a):
    """``a`` as each program stores it: file name and content."""
    barcodes = np.array([b"AAAC-1"] * a.shape[1])
    coo = ("row", "col", "data")
    return {
        "anndata csr": ("a.h5", hdf5(compressed(a, "csr", shape=a.shape, encoding__type="csr_matrix"))),
        "anndata csc": ("a.h5", hdf5(compressed(a, "csc", shape=a.shape, encoding__type="csc_matrix"))),
        "h5sparse csc": ("a.h5", hdf5(compressed(a, "csc", h5sparse_shape=a.shape, h5sparse_format=b"csc"))),
        "scipy csr": ("a.h5", hdf5(compressed(a, "csr", shape=a.shape, format="csr"))),
        "scipy csc as datasets": ("a.h5", hdf5(compressed(a, "csc", shape_dataset=a.shape, format_dataset=b"csc"))),
        "scipy coo": ("a.h5", hdf5(compressed(a, "coo", coo, shape=a.shape, format="coo"))),
        "10x": ("a.h5", hdf5(compressed(a, "csc", shape_dataset=a.shape, barcodes_dataset=barcodes))),
        "matlab": (
            "a.mat", hdf5(compressed(a, "csc", ("jc", "ir", "data"), MATLAB_sparse=np.uint64(len(a))), userblock=512),
        ),
        "npz csr": ("a.npz", npz(a, "csr")),
        "npz csc": ("a.npz", npz(a, "csc")),
        "npz coo": ("a.npz", npz(a, "coo")),
        "market": ("a.mtx", market(a)),
        "market unsigned": ("a.mtx", market(a, "unsigned-integer")),
        "market dense": (
            "a.mtx",
            f"{BANNER} array real general\n% by columns\n{a.shape[0]} {a.shape[1]}\n"
            + "".join(f"{value!r}\n" for value in a.T.ravel().tolist()),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", matrices(ONE_WAY))
def test_the_direction_of_edges_is_that_of_the_matrix(comm, folder, kind):
    name, content = matrices(ONE_WAY)[kind]
    where = put(comm, folder / name, content)
    edges = read_edges(comm, where, directed=True)
    assert (arcs(comm, edges), edges.n) == (nonzeros(ONE_WAY), 5)


@pytest.mark.parametrize("kind", matrices(WIDE))
def test_a_rectangular_matrix_is_a_graph_of_two_kinds_of_vertices(comm, folder, kind):
    name, content = matrices(WIDE)[kind]
    where = put(comm, folder / name, content)
    with pytest.raises(InputError, match=r"is 3 x 4: as a graph, a square matrix is expected.*--bipartite") as error:
        read_edges(comm, where, directed=False)
    assert error.value.agreed
    edges = read_edges(comm, where, directed=False, bipartite=True)
    assert (arcs(comm, edges), edges.n, edges.columns_from) == (nonzeros(WIDE, below=3), 7, 3)


@pytest.mark.parametrize("a", [ONE_WAY, WIDE], ids=["square", "rectangular"])
@pytest.mark.parametrize("kind", matrices(WIDE))
def test_products_go_by_the_same_layout(comm, folder, kind, a):
    name, content = matrices(a)[kind]
    where = put(comm, folder / name, content)
    x = np.arange(1.0, a.shape[1] + 1)
    vector = put(comm, folder / "x.npy", lambda path: np.save(path, x))
    problem, result, verdict = product(comm, a=where, x=vector)
    assert verdict.right, verdict.reason
    assert verdict.facts["elements_compared"] > 0
    np.testing.assert_array_equal(np.concatenate(comm.allgather(result.arrays["y"].local)), a @ x)
    problem.product.free()


def product(comm, **options):
    params = matvec.resolve(comm, MatvecParams(**options))
    [plan] = plans(params, comm.size, Machine())
    problem = matvec.prepare(comm, params, plan)
    result = matvec.run(comm, problem, lambda _fraction: None)
    return problem, result, matvec.verify(comm, problem, result)


def test_a_square_group_without_a_mark_is_refused_where_rows_and_columns_differ(comm, folder):
    where = put(comm, folder / "a.h5", hdf5(compressed(ONE_WAY, "csr", shape=ONE_WAY.shape)))
    for refused in (
        lambda: open_sparse(comm, where),
        lambda: read_edges(comm, where, directed=True),
        lambda: read_edges(comm, where, directed=False, bipartite=True),
    ):
        with pytest.raises(InputError, match=r"nothing tells.*attrs\['format'\] = 'csr'") as error:
            refused()
        assert error.value.agreed
    assert arcs(comm, read_edges(comm, where, directed=False)) == nonzeros(ONE_WAY)


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_the_length_of_indptr_decides_where_nothing_else_does(comm, folder, layout):
    where = put(comm, folder / "a.h5", hdf5(compressed(WIDE, layout, shape=WIDE.shape)))
    source = open_sparse(comm, where)
    own = read_rows(comm, source.layout, source.arrays, m=3, n=4, transpose=False, dtype=np.float64)
    found = np.zeros((len(own.indptr) - 1, 4))
    found[np.repeat(np.arange(len(found)), np.diff(own.indptr)), own.indices] = own.data
    np.testing.assert_array_equal(np.concatenate(comm.allgather(found)), WIDE)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"encoding__type": "csr_matrix", "format": "csc"}, "contradict each other"),
        ({"format": "bsr"}, "format 'bsr'; csr, csc or coo"),
        ({"format": "coo"}, "marked as coo, but holds indptr"),
    ],
)
def test_marks_that_cannot_be_are_refused(comm, folder, marks, said):
    where = put(comm, folder / "a.h5", hdf5(compressed(ONE_WAY, "csr", shape=ONE_WAY.shape, **marks)))
    with pytest.raises(InputError, match=said):
        open_sparse(comm, where)


def test_names_of_ours_in_files_of_others_mean_nothing(comm, folder):
    """``degree``, ``vertex`` and ``directed`` count only in what hpcmpi wrote."""
    write = compressed(
        ONE_WAY, "csr", shape=ONE_WAY.shape, encoding__type="csr_matrix", directed=True,
        degree_dataset=np.full(5, 99), vertex_dataset=np.arange(7),
    )  # fmt: skip
    where = put(comm, folder / "a.h5", hdf5(write))
    edges = read_edges(comm, where, directed=False)
    assert edges.degree is None
    assert edges.names is None
    assert arcs(comm, edges) == nonzeros(ONE_WAY)
    assert driver.resolve(comm, Params(graph=where, root=(0,))).directed is False


@pytest.mark.parametrize("data", ["missing", "nan", "complex", "strings", "short", "loop"])
def test_weights_that_a_search_never_uses_are_not_judged(comm, folder, data):
    values = {
        "nan": np.full(4, np.nan), "complex": np.full(4, 1j), "strings": np.array([b"x"] * 4), "short": np.ones(1),
        "loop": h5py.SoftLink("/X/data"),
    }  # fmt: skip

    def write(file):
        compressed(ONE_WAY, "csr", shape=ONE_WAY.shape, format="csr")(file)
        del file["X/data"]
        if data in values:
            file["X/data"] = values[data]

    where = put(comm, folder / "a.h5", hdf5(write))
    assert arcs(comm, read_edges(comm, where, directed=True)) == nonzeros(ONE_WAY)


def test_a_link_that_leads_back_to_itself_is_named(comm, folder):
    where = put(comm, folder / "a.h5", hdf5(lambda file: file.__setitem__("d", h5py.SoftLink("/d"))))
    with pytest.raises(InputError, match=r"a\.h5:/d: links to /d: a link that leads back to itself"):
        read_edges(comm, f"{where}:/d", directed=False)


@pytest.mark.parametrize(
    "text",
    [
        f"{BANNER} coordinate integer general\n3 3 2\n1 2 {2**60 + 1}\n2 3 x1\n",
        f"{BANNER} coordinate real skew-symmetric\n3 3 3\n2 1 1\n3 2 1\n3 3 nan\n",
        "0 1 nan\n1 2 1+2j\n",
    ],
)
def test_weights_of_text_are_not_judged(comm, folder, text):
    edges = read_edges(comm, put(comm, folder / "a.txt", text), directed=False)
    pairs = {tuple(sorted(arc)) for arc in arcs(comm, edges) if arc[0] != arc[1]}
    assert pairs == {(0, 1), (1, 2)}


SYMMETRIC = {
    "general": ("1 2\n1\n2\n", [[1, 2]]),
    "symmetric": ("2 2\n1\n2\n3\n", [[1, 2], [2, 3]]),
    "skew-symmetric": ("3 3\n1\n2\n3\n", [[0, -1, -2], [1, 0, -3], [2, 3, 0]]),
}


@pytest.mark.parametrize("symmetry", SYMMETRIC)
@pytest.mark.parametrize("packed", [False, True])
def test_dense_matrix_market_files(comm, folder, symmetry, packed, monkeypatch):
    from hpcmpi.store import text as store_text

    monkeypatch.setattr(store_text, "_PIECE_BYTES", 3)  # so that places follow from many pieces
    body, expected = SYMMETRIC[symmetry]
    text = f"{BANNER} array integer {symmetry}\n{body}".encode()
    matrix = open_matrix_market(comm, put(comm, folder / "a.mtx", gzip.compress(text) if packed else text))
    entries = matrix.read(comm)
    found = np.zeros(matrix.shape)
    np.add.at(found, (entries.rows, entries.columns), entries.values)
    np.testing.assert_array_equal(comm.allreduce(found), expected)


def test_a_stored_zero_on_the_diagonal_of_a_skew_symmetric_matrix_is_read(comm, folder):
    head = f"{BANNER} coordinate real skew-symmetric\n2 2 2\n2 1 5\n"
    entries = open_matrix_market(comm, put(comm, folder / "a.mtx", f"{head}1 1 0\n")).read(comm)
    assert comm.allreduce(entries.values.sum()) == 0
    with pytest.raises(InputError, match=r"line 4: '1 1 1': 0 or no entry on the diagonal"):
        open_matrix_market(comm, put(comm, folder / "b.mtx", f"{head}1 1 1\n")).read(comm)


TORUS = {(r * 3 + c, s) for r in range(3) for c in range(3) for s in (r * 3 + (c + 1) % 3, (r + 1) % 3 * 3 + c)}
NEIGHBOURS = [sorted({b for a, b in TORUS if a == v} | {a for a, b in TORUS if b == v}) for v in range(9)]
LISTS = {
    "networkx": ("auto", "0 1 {}\n1 2 {'weight': 3, 'kind': 'a b'}\n", [(0, 1), (1, 2)], 3),
    "networkx with commas": ("auto", "0,1,{'weight': 3}\n", [(0, 1)], 2),
    "weights": ("auto", "0 1 2.5\r\n1 2 -3e-2\r\n", [(0, 1), (1, 2)], 3),
    "weight and time": ("auto", "# x\n0\t1\t-1\t1082040961.5\n1\t2\t1\t1082155839.5", [(0, 1), (1, 2)], 3),
    "any lines": ("edges", "5 4\n0 1 7\n1 2 8 9 10 11\n", [(0, 1), (1, 2), (5, 4)], 6),
    "path downwards": ("edges", "2 1\n1 0\n", [(1, 0), (2, 1)], 3),
    "adjacency": ("adjacency", "#nx\n0 1 2 3\n1 2\n\n2 3\n3\n", [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)], 4),
    "metis": (
        "metis",
        "% 3 x 3 torus\n9 18\n" + "".join(f"{' '.join(str(b + 1) for b in ends)}\n" for ends in NEIGHBOURS),
        sorted((a, b) for a, ends in enumerate(NEIGHBOURS) for b in ends if a < b), 9,
    ),
    "metis with weights": ("metis", "4 2 011 2\n1 1 2 9\n1 1 1 9 3 8\n1 1 2 8\n1 1\n", [(0, 1), (1, 2)], 4),
    "metis with isolated vertices": ("metis", "4 1\n\n4\n\n2\n", [(1, 3)], 4),
    "konect": ("auto", "% sym unweighted\n% 2 3 3\n1 2\n2 3\n", [(1, 2), (2, 3)], 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("packed", [False, True])
def test_lists_of_edges_and_neighbours(comm, folder, kind, packed, monkeypatch):
    from hpcmpi.store import text as store_text

    monkeypatch.setattr(store_text, "_PIECE_BYTES", 16)
    form, text, expected, n = LISTS[kind]
    where = put(comm, folder / "g.txt", gzip.compress(text.encode()) if packed else text)
    edges = read_edges(comm, where, directed=False, form=form)
    assert (arcs(comm, edges), edges.n) == (sorted(expected), n)
    assert edges.notes == ((f"{where}: ids begin at 1: vertex 0 is isolated",) if kind == "konect" else ())
    with driver.build(comm, Params(graph=where, format=form, root=(0,)), edges, "1d") as graph:
        verdict = driver.check_against_file(comm, Params(graph=where, format=form, root=(0,)), edges, graph)
    assert verdict.right, verdict.reason
    assert verdict.facts["elements_compared"] > 0


@pytest.mark.parametrize("sizes", ["% 3 2 3\n", ""])
def test_bipartite_lists_of_konect(comm, folder, sizes):
    where = put(comm, folder / "out.x", f"% bip unweighted\n{sizes}1 1\n1 2\n2 3\n")
    with pytest.raises(InputError, match=r"'% bip'.*--bipartite"):
        read_edges(comm, where, directed=False)
    edges = read_edges(comm, where, directed=False, bipartite=True)
    assert (arcs(comm, edges), edges.n) == ([(0, 2), (0, 3), (1, 4)], 5)
    wrong = put(comm, folder / "out.y", "% bip unweighted\n% 3 2 2\n1 1\n1 2\n2 3\n")
    with pytest.raises(InputError, match="not 1 to 2 in the first, 1 to 2 in the second column"):
        read_edges(comm, wrong, directed=False, bipartite=True)
    with pytest.raises(InputError, match="is 2 x 3"):
        read_edges(comm, put(comm, folder / "out.z", "% asym\n% 3 2 3\n1 1\n"), directed=False)


CYCLE = "".join(f"{1 + (i + 1) % 6} {1 + (i - 1) % 6}\n" for i in range(6))
REFUSED = {
    "metis": (LISTS["metis"][1], "line 3: .* 2 numbers are expected.*this looks like METIS.*--format metis"),
    "metis of a cycle": (f"6 6\n{CYCLE}", "line 1: '6 6': this looks like a header of counts.*--format metis"),
    "adjacency": ("0 1 2 3\n1 0 2\n2 0 1\n", "line 2: '1 0 2': 4 numbers.*--format adjacency"),
    "adjacency with one id": ("0 1\n1\n", "line 2: '1': two whole numbers.*--format adjacency"),
    "adjacency of equal lines": ("0 1 2 3 4\n1 0 2 3 4\n", "each line has 5 numbers.*--format adjacency"),
    "late odd line": ("0 1\n" * 50 + "1 2 3\n", "line 51: '1 2 3': 2 numbers are expected"),
    "counts": ("4 3\n0 1\n1 2\n2 3\n", "line 1: '4 3': this looks like a header of counts"),
    "counts of both ways": ("3 2\n0 1\n1 0\n1 2\n2 1\n", "line 1: '3 2': this looks like a header of counts"),
    "rows columns entries": ("3 3 2\n1 2 5\n3 1 5\n", "line 1: '3 3 2': this looks like a header of counts"),
    "banner is gone": (
        "4 4 3\n2 1\n3 1\n4 3\n",
        "line 2: '2 1': 3 numbers.*its first numbers look like a header of counts",
    ),
    "counts and a flag": ("3 3 0\n0 1 5\n1 2 5\n2 0 5\n", "line 1: '3 3 0': this looks like a header of counts"),
    "vertices": ("4\n0 1\n1 2\n2 3\n", r"line 1: '4': .*its first number looks like a count \(4\): remove it"),
    "one per cent": (f"{BANNER[1:]} coordinate pattern general\n4 4 1\n2 1\n", "first line is '%MatrixMarket matrix"),
    "damaged banner": ("%%MatrixMarkt matrix coordinate pattern general\n4 4 1\n2 1\n", "'%%MatrixMarket matrix coord"),
    "old Macintosh": ("0 1\r1 2\r2 3\r", r"lines end in CR alone.*tr"),
    "old Macintosh, MatrixMarket": (f"{BANNER} coordinate pattern general\r4 4 1\r2 1\r", "lines end in CR alone"),
    "six edges on one line": ("0 1 1 2 2 3\n", "each line has 6 numbers; one edge a line"),
    "column names": ("source,target\n0,1\n", "line 1: 'source,target'.*column names should be removed"),
    "a negative id": ("-1 2\n0 1\n", "line 1: '-1 2': (?!.*column names)"),
    "an id beyond 2^62": (f"{2**62 + 1} 2\n0 1\n", f"line 1: '{2**62 + 1} 2': (?!.*column names)"),
    "bzip2": (b"BZh91AY&SY\0", "is bzip2, which is not read: unpack it"),
    "MATLAB before 7.3": (b"MATLAB 5.0 MAT-file, Platform", "is a MATLAB file before v7.3"),
    "PETSc": (b"\x00\x12\x7b\x50\0\0\0\1", "is a PETSc matrix"),
    "a dump of numbers": (np.arange(9).tobytes(), "is a binary file of unknown format.*list of edges"),
    "GraphML": ("<?xml version='1.0'?>\n<graphml/>\n", "is XML such as GraphML or GEXF"),
    "GML": ('Creator "x"\ngraph [\n node [ id 0 ]\n]\n', "is GML, which is not read"),
    "Pajek": ('*Vertices 2\n1 "a"\n', "is Pajek"),
    "DIMACS": ("c hello\np sp 3 2\na 1 2 5\n", "is DIMACS"),
    "byte-order mark": ("\ufeff0 1\n", "byte-order mark"),
    "UTF-16": ("0 1\n".encode("utf-16"), "UTF-16"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_text_that_may_be_no_list_of_edges_is_refused_with_advice(comm, folder, kind):
    content, said = REFUSED[kind]
    with pytest.raises(InputError, match=said) as error:
        read_edges(comm, put(comm, folder / "g.txt", content), directed=False)
    assert error.value.agreed


BAD_METIS = {
    "too few lines": ("3 1\n2\n1\n", "has 2 lines of neighbours; 3"),
    "too many lines": ("1 0\n\n1\n", "2 lines of neighbours; 1"),
    "wrong count": ("2 2\n2\n1\n", "holds 2 neighbours of vertices; 4"),
    "one way": ("3 2\n2 3\n3\n2\n", "each edge in the lines of both its ends"),
    "outside": ("2 1\n3\n1\n", "not 1 to 2"),
    "no header": ("x\n", "METIS begins with"),
    "half a pair": ("2 1 1\n2 5\n1\n", "line 3: '1': whole numbers"),
}


@pytest.mark.parametrize("kind", BAD_METIS)
def test_damaged_metis_files_are_refused(comm, folder, kind):
    text, said = BAD_METIS[kind]
    with pytest.raises(InputError, match=said):
        read_edges(comm, put(comm, folder / "g.txt", text), directed=False, form="metis")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0,5,7\n1,2,3\n2,7,5\n", "counts 0, 1, 2, .*index=False"),
        ("0 5 5 7\n3 1 1 2\n", "each line has 4 whole numbers"),
    ],
)
def test_columns_that_may_be_no_ends_of_edges_are_warned_about(comm, folder, text, said):
    where = put(comm, folder / "g.csv", text)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        read_edges(comm, where, directed=False)
    texts = [str(warning.message) for warning in seen if warning.category is HpcmpiWarning]
    assert len(texts) == (comm.rank == 0)
    if texts:
        import re

        assert re.search(said, texts[0])


def pairs(edges):
    return lambda path: np.save(path, edges)


BROKEN = {
    **{kind: (*matrices(ONE_WAY)[kind], {}) for kind in matrices(ONE_WAY)},
    "list": ("g.txt", "0 1\n1 2\n3 0\n3 4\n", {}),
    "list packed": ("g.gz", gzip.compress(b"0 1\n1 2\n3 0\n3 4\n"), {}),
    "adjacency": ("g.txt", "0 1\n1 2\n3 0 4\n", {"format": "adjacency"}),
    "ids with gaps": ("g.txt", "0 1000\n1000 2000\n3000 0\n3000 4000\n", {}),
    "pairs": ("g.npy", pairs(np.argwhere(ONE_WAY)), {}),
    "pairs by columns": ("g.npy", pairs(np.argwhere(ONE_WAY).T.copy()), {}),
    "pairs in HDF5": ("g.h5", hdf5(lambda file: file.create_dataset("e", data=np.argwhere(ONE_WAY))), {}),
}


@pytest.mark.parametrize("partition", ["1d", "2d"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_reader_that_errs_is_found_by_the_check(comm, folder, kind, partition, monkeypatch):
    name, content, options = BROKEN[kind]
    where = put(comm, folder / name, content)
    params = Params(graph=where, directed=True, root=(0,), **options)

    def verdict():
        edges = driver.load(comm, params)
        with driver.build(comm, params, edges, partition) as graph:
            return driver.check_against_file(comm, params, edges, graph)

    assert verdict().right, verdict().reason
    right = driver.read_edges

    def reversed_edges(*args, **kwargs):
        edges = right(*args, **kwargs)
        return Edges(edges.v, edges.u, edges.n, edges.names)

    monkeypatch.setattr(driver, "read_edges", reversed_edges)
    found = verdict()
    assert not found.right
    assert where in found.reason
    assert "is not in the graph that was read" in found.reason
    if partition == "1d":
        with pytest.raises(WrongError, match="is not in the graph") as error:
            driver.convert(comm, params, folder / "converted.h5")
        assert error.value.status == 3
        assert not (folder / "converted.h5").exists()


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("partition", ["1d", "2d"])
def test_a_graph_tells_which_edges_it_holds(comm, partition, directed, monkeypatch):
    monkeypatch.setattr(layout, "HUB_SHARE", 40)  # so that rows of hubs are dealt to all ranks
    u, v = np.random.default_rng(1).integers(0, 30, (2, 80))
    u[:40] = 7
    held = np.zeros((32, 32), bool)
    held[u, v] = True
    held |= held.T & (not directed)
    np.fill_diagonal(held, False)  # loops are left out
    mine = slice(comm.rank, None, comm.size)
    with Graph.from_edges(comm, u[mine], v[mine], n=32, directed=directed, partition=partition) as graph:
        ends = np.indices((32, 32)).reshape(2, -1)
        np.testing.assert_array_equal(graph.holds(*ends).reshape(32, 32), held)


def test_the_few_edges_of_a_dense_matrix_are_compared(comm, folder):
    values = np.zeros(40 * 40, int)
    values[[77, 1234]] = 1  # column by column
    where = put(comm, folder / "a.mtx", f"{BANNER} array integer general\n40 40\n" + "".join(f"{x}\n" for x in values))
    sample = sample_edges(comm, where, "auto", 0)
    assert set(zip(sample.u.tolist(), sample.v.tolist(), strict=True)) == {(77 % 40, 77 // 40), (1234 % 40, 1234 // 40)}


def test_a_converted_graph_is_compared_as_well(comm, folder):
    target = folder / "converted.h5"
    for text in ("0 1\n1 2\n3 0\n3 4\n", "0 1000\n1000 2000\n3000 0\n3000 4000\n"):
        source = put(comm, folder / "g.txt", text)
        driver.convert(comm, Params(graph=source, directed=True, root=(0,)), target, force=True)
        params = driver.resolve(comm, Params(graph=str(target), root=(0,)))
        assert params.directed
        edges = driver.load(comm, params)
        with driver.build(comm, params, edges, "1d") as graph:
            verdict = driver.check_against_file(comm, params, edges, graph)
        assert (verdict.right, verdict.facts["elements_compared"] > 0) == (True, True), verdict.reason
        turned = Edges(edges.v, edges.u, edges.n, edges.names, degree=edges.degree)
        with driver.build(comm, params, turned, "1d") as graph:
            assert not driver.check_against_file(comm, params, turned, graph).right


@pytest.mark.parametrize("kind", matrices(WIDE))
def test_a_reader_of_matrices_that_errs_is_found_by_the_check(comm, folder, kind, monkeypatch):
    name, content = matrices(WIDE)[kind]
    where = put(comm, folder / name, content)
    right = matvec._sparse_rows

    def changed(*args):
        rows = right(*args)
        return rows._replace(data=rows.data + 1)

    monkeypatch.setattr(matvec, "_sparse_rows", changed)
    problem, _, verdict = product(comm, a=where)
    assert not verdict.right
    assert f"{where}: " in verdict.reason
    assert "is 1.0 in the file" in verdict.reason or "in the file, but not in the matrix" in verdict.reason
    problem.product.free()


def test_transposed_and_symmetric_matrices_are_compared_where_they_are_used(comm, folder):
    for text in (
        f"{BANNER} coordinate complex hermitian\n2 2 2\n1 1 2 0\n2 1 1 -3\n",
        f"{BANNER} coordinate pattern symmetric\n3 3 2\n2 1\n3 3\n",
        f"{BANNER} coordinate real general\n2 3 3\n1 1 1.25D+02\n2 3 nan\n2 1 4\n",
    ):
        where = put(comm, folder / "a.mtx", text)
        problem, _, verdict = product(comm, a=where, transpose=True)
        assert verdict.right, verdict.reason
        assert verdict.facts["elements_compared"] > 0
        problem.product.free()
