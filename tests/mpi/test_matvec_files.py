"""Sparse matrices in files, read by all ranks at once, against what the files say."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from hpcmpi.algorithms.matvec import Params, driver
from hpcmpi.algorithms.matvec.compressed import read_rows
from hpcmpi.algorithms.matvec.cost import plans
from hpcmpi.errors import InputError, UsageError
from hpcmpi.machine import Machine
from hpcmpi.partition import Range, block
from hpcmpi.store.matrix_market import open_matrix_market
from hpcmpi.store.reader import open_source
from hpcmpi.store.sparse import open_sparse


def sparse(m, n, dtype, density, seed=0):
    """A matrix of mostly zeros, the same on every rank; a few rows are full and a few are empty."""
    rng = np.random.default_rng(seed)
    a = np.where(rng.random((m, n)) < density, rng.uniform(-1, 1, (m, n)), 0).astype(dtype)
    if np.dtype(dtype).kind == "c":
        a = a * (1 + 0.5j)
    if m > 4:
        a[m // 2] = 1
        a[m // 3] = 0
    return a.astype(dtype)


def compressed(a, part):
    """Rows ``part`` of a dense array as SciPy's csr_array holds them."""
    rows, columns = np.nonzero(a[part])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(a[part])))]).astype(np.int32)
    shape = a[part].shape
    return SimpleNamespace(indptr=indptr, indices=columns.astype(np.int32), data=a[part][rows, columns], shape=shape)


def whole(comm, y):
    return np.concatenate(comm.allgather(y))


# Files, read by all ranks at once


@pytest.fixture
def shared(comm, tmp_path_factory):
    """A folder that the ranks of ``comm`` share."""
    return comm.bcast(tmp_path_factory.mktemp("files") if comm.rank == 0 else None)


def put(comm, path, write):
    if comm.rank == 0:
        write(path)
    comm.Barrier()


BANNER = "%%MatrixMarket matrix coordinate"
HARD = "1 2 1.7976931348623157e308\n1 3 4.9e-324\n1 4 1.25D+02\n1 5 -inf\n1 6 123456789012345678\n"
MTX = {
    "general": (
        f"{BANNER} real general\n% c\n\n3 4 4\n1 1 1.5\n3 4 -2e-3\n\n2 2 .5\n1 4 7\n",
        [[1.5, 0, 0, 7], [0, 0.5, 0, 0], [0, 0, 0, -2e-3]],
    ),
    "integer": (
        "%%matrixmarket MATRIX Coordinate Integer Symmetric\r\n2 2 2\r\n1 1 3\r\n2 1 -4\r\n",
        [[3, -4], [-4, 0]],
    ),
    "pattern": (f"{BANNER} pattern symmetric\n3 3 2\n2 1\n3 3", [[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "skew": (f"{BANNER} real skew-symmetric\n2 2 1\n2 1 5.0\n", [[0, -5], [5, 0]]),
    "hermitian": (f"{BANNER} complex hermitian\n2 2 2\n1 1 2 0\n2 1 1 -3\n", [[2, 1 + 3j], [1 - 3j, 0]]),
    "hard": (
        f"{BANNER} real general\n1 6 6\n1 1 0.1000000000000000055511151231257827\n{HARD}",
        [[0.1, 1.7976931348623157e308, 4.9e-324, 125.0, -np.inf, 123456789012345678.0]],
    ),
    "whole": (f"{BANNER} integer general\n1 3 3\n1 1 +{2**53}\n1 2 -{2**60}\n1 3 -7\n", [[2.0**53, -(2.0**60), -7.0]]),
    "twice": (f"{BANNER} real general\n1 1 2\n1 1 2\n1 1 0.5\n", [[2.5]]),
    "empty": (f"{BANNER} real general\n2 3 0\n", [[0, 0, 0], [0, 0, 0]]),
}


@pytest.mark.parametrize("name", MTX)
@pytest.mark.parametrize("packed", [False, True])
def test_matrix_market_files(comm, shared, name, packed):
    import gzip

    text, expected = MTX[name]
    path = shared / "a.mtx"
    put(comm, path, lambda p: p.write_bytes(gzip.compress(text.encode()) if packed else text.encode()))
    matrix = open_matrix_market(comm, str(path))
    expected = np.array(expected)
    assert matrix.shape == expected.shape
    entries = matrix.read(comm)
    found = np.zeros(expected.shape, matrix.dtype)
    np.add.at(found, (entries.rows, entries.columns), entries.values)
    np.testing.assert_array_equal(comm.allreduce(found), expected)


def test_numbers_are_read_as_python_reads_them(comm, shared):
    rng = np.random.default_rng(1)
    numbers = [*rng.standard_normal(200) * 10.0 ** rng.integers(-300, 300, 200), *rng.integers(0, 10**6, 50) / 1000]
    texts = [
        form % float(x)
        for x in numbers
        for form in ("%r", "%.3f", "%.17g", "%.6e", "+%d")
        if abs(x) < 1e15 or "f" not in form
    ]
    texts = [text.replace("+-", "-") for text in texts if len(text) < 60]
    head = f"%%MatrixMarket matrix coordinate real general\n{len(texts)} 1 {len(texts)}\n"
    lines = [f"{i + 1} 1 {text}" for i, text in enumerate(texts)]
    put(comm, shared / "n.mtx", lambda p: p.write_text(head + "\n".join(lines)))
    entries = open_matrix_market(comm, str(shared / "n.mtx")).read(comm)
    found = dict(zip(entries.rows.tolist(), entries.values.tolist(), strict=True))
    assert all(value == float(texts[row]) for row, value in found.items())
    assert comm.allreduce(len(found)) == len(texts)


DAMAGED = [
    ("%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n", "3 entries found, 4"),
    ("%%MatrixMarket matrix array pattern general\n2 2\n", "is pattern general; one of integer"),
    ("%%MatrixMarket matrix array real skew-symmetric\n2 2\n1\n2\n", "2 entries found, 1"),
    ("%%MatrixMarket matrix array complex hermitian\n1 1\n1 2\n", "element .1, 1.: a real number on the diagonal"),
    ("%%MatrixMarket matrix coordinate quaternion general\n1 1 0\n", "quaternion"),
    ("%%MatrixMarket matrix coordinate real general\n1 1\n", "size line"),
    ("%%MatrixMarket matrix coordinate real symmetric\n2 3 0\n", "symmetric, but 2 x 3"),
    ("%%MatrixMarket matrix coordinate real skew-symmetric\n2 2 1\n1 1 1\n", "diagonal"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1\n", "1 entries found, 2"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 1\n2 2 1\n", "expected"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n", "line 3: '3 1 1'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n0 1 1\n", "'0 1 1'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1\n", "'1 1'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 1 1\n", "'1 1 1 1'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 x\n", "'1 1 x'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 1_0\n", "line 3: '1 1 1_0'"),
    ("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 1\n1 1 1.5\n", "line 4: '1 1 1.5': a whole"),
    ("%%MatrixMarket matrix coordinate integer general\n2 2 1\n1 1 1_0\n", "line 3: '1 1 1_0': a whole"),
    (f"%%MatrixMarket matrix coordinate integer general\n2 2 1\n1 1 -{2**53 + 1}\n", "float64 does not hold"),
    (f"%%MatrixMarket matrix coordinate integer general\n2 2 1\n1 1 {'9' * 9999}\n", "float64 does not hold"),
    ("%%MatrixMarket matrix coordinate complex hermitian\n2 2 2\n2 1 1 1\n2 2 2 5\n", "line 4: '2 2 2 5': a real"),
    ("\ufeff%%MatrixMarket matrix coordinate real general\n2 2 0\n", "byte-order mark"),
    ("%%MatrixMarket matrix coordinate pattern general\n2 2 1\n1 1 1\n", "'1 1 1'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n1.0 1 1\n", "'1.0 1 1'"),
    ("%%MatrixMarket matrix coordinate real general\n2 2 1\n99999999999999999999999 1 1\n", "99999"),
]


def test_damaged_matrix_market_files_are_refused_on_all_ranks(comm, shared):
    for number, (text, said) in enumerate(DAMAGED):
        path = shared / f"{number}.mtx"
        put(comm, path, lambda p, text=text: p.write_text(text))
        with pytest.raises(InputError, match=said) as error:
            open_matrix_market(comm, str(path)).read(comm)
        assert error.value.agreed


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
@pytest.mark.parametrize("transpose", [False, True])
def test_sparse_arrays_in_npz_and_hdf5(comm, shared, layout, transpose):
    import h5py
    from scipy import sparse as scipy_sparse

    a = sparse(41, 29, np.float64, 0.2)

    def write(path):
        held = getattr(scipy_sparse, f"{layout}_array")(a)
        scipy_sparse.save_npz(path / "a.npz", held)
        if layout != "coo":
            with h5py.File(path / "a.h5", "w") as file:
                group = file.create_group("deep/X")
                group.attrs["encoding-type"], group.attrs["shape"] = f"{layout}_matrix", a.shape
                for name in ("indptr", "indices", "data"):
                    group.create_dataset(name, data=getattr(held, name), chunks=(7,), compression="gzip")

    put(comm, shared, write)
    expected = a.T if transpose else a
    for where in ["a.npz"] + ["a.h5", "a.h5:/deep/X"] * (layout != "coo"):
        source = open_sparse(comm, f"{shared}/{where}")
        assert (source.layout, source.shape, source.nonzeros) == (layout, a.shape, np.count_nonzero(a))
        own = read_rows(
            comm, layout, source.arrays, m=expected.shape[0], n=expected.shape[1], transpose=transpose, dtype=np.float64
        )
        found = np.zeros((len(own.indptr) - 1, own.n))
        found[np.repeat(np.arange(len(found)), np.diff(own.indptr)), own.indices] = own.data
        np.testing.assert_array_equal(whole(comm, found), expected)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("indptr", lambda x: x[::-1].copy(), "does not rise"),
        ("indptr", lambda x: x + 1, "does not rise"),
        ("indptr", lambda x: x[:-1], "elements; 42 are expected"),
        ("indices", lambda x: x + 29, r"in \[0, 29\)"),
        ("indices", lambda x: x - 5.0, "whole numbers"),
        ("data", lambda x: x[:-1], "are expected"),
    ],
)
def test_damaged_sparse_arrays_are_refused_on_all_ranks(comm, shared, name, spoil, said):
    a = compressed(sparse(41, 29, np.float64, 0.2), slice(None))
    arrays = {key: getattr(a, key) for key in ("indptr", "indices", "data")}
    arrays[name] = spoil(arrays[name])
    put(comm, shared / "a.npz", lambda p: np.savez(p, format=b"csr", shape=(41, 29), **arrays))
    with pytest.raises(InputError, match=said) as error:
        read_rows(
            comm, "csr", open_sparse(comm, f"{shared}/a.npz").arrays, m=41, n=29, transpose=False, dtype=np.float64
        )
    assert len(set(comm.allgather(str(error.value)))) == 1


GENERAL = f"{BANNER} real general\n"
REFUSED = {
    "no such file": ({"a": "no.mtx"}, "no such file"),
    "sizes": ({"a": "a.mtx", "n": 5}, "but --n says n = 5"),
    "vector": ({"a": "a.mtx", "x": "x.npy"}, "x.npy: op.A. has n = 4, but .*a.mtx says n = 3"),
    "empty": ({"laplacian": (3, 0), "iterate": "power"}, "0 x 0: an empty matrix"),
    "not square": ({"a": "wide.mtx", "iterate": "power"}, "only a square matrix"),
    "method": ({"a": "a.mtx", "method": "grid"}, "dealt in rows"),
    "text": ({"a": "text"}, "neither HDF5 nor .npy.* nor MatrixMarket"),
    "complex": ({"a": "complex.mtx", "dtype": "float64"}, "would cut off"),
    "block sparse": ({"a": "bsr.npz"}, "use .tocsr"),
    "integers": ({"a": "whole.npy"}, "--dtype float64 converts it"),
    "no shape": ({"a": "shapeless.h5"}, "attribute 'shape'"),
    "two groups": ({"a": "two.h5"}, "name one sparse matrix"),
    "no numbers": ({"a": "strings.npy"}, "not numbers"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that do not fit, the same for each rank."""
    import h5py

    path = tmp_path_factory.mktemp("refused")
    (path / "a.mtx").write_text(GENERAL + "3 3 1\n1 1 1\n")
    (path / "wide.mtx").write_text(GENERAL + "3 4 1\n1 1 1\n")
    (path / "complex.mtx").write_text(GENERAL.replace("real", "complex") + "3 3 1\n1 1 1 2\n")
    (path / "text").write_text("1 2 3")
    np.save(path / "x.npy", np.ones(4))
    np.save(path / "whole.npy", np.ones((4, 4), int))
    np.save(path / "strings.npy", np.full((4, 4), "x"))
    np.savez(path / "bsr.npz", format=b"bsr", shape=(4, 4), data=np.ones((1, 1, 1)))
    for name, groups in (("shapeless", "a"), ("two", "ab")):
        with h5py.File(path / f"{name}.h5", "w") as file:
            for group, array in product(groups, ("indptr", "indices", "data")):
                file[f"{group}/{array}"] = np.zeros(1, int)
    return path


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_do_not_fit_are_refused_on_all_ranks(comm, folder, case):
    options, said = REFUSED[case]
    paths = {name: f"{folder}/{value}" if name in ("a", "x") else value for name, value in options.items()}
    with pytest.raises((InputError, UsageError), match=said) as error:
        driver.resolve(comm, Params(**paths))
    assert error.value.agreed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "what to multiply"),
        ({"laplacian": (3,), "power_law": 5}, "choose one"),
        ({"n": 5, "transpose": True}, "--transpose needs"),
        ({"n": 5, "iterate": "power", "method": "columns"}, "dealt alike"),
        ({"n": 5, "iterate": "power", "iterations": 0}, "at least 1"),
        ({"power_law": 2**32}, "below"),
        ({"power_law": 5, "degree": 0}, "at least 1"),
        ({"laplacian": (5,), "degree": 16}, "--degree is of --power-law"),
        ({"n": 5, "iterations": 1000}, "--iterations is of --iterate power"),
        ({"n": 5, "tolerance": 1e-3}, "--tolerance is of --iterate power"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        Params(**options)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_in_npz_are_read_in_part(comm, shared, order, packed):
    a, b = np.arange(35.0).reshape(7, 5), np.arange(12, dtype=">i4")
    save = np.savez_compressed if packed else np.savez
    put(comm, shared / "a.npz", lambda p: save(p, a=np.asarray(a, order=order), b=b, text=np.array("x")))
    source = open_source(comm, f"{shared}/a.npz", ndim=2)
    assert (source.dataset, source.shape) == ("/a", (7, 5))
    rows, columns = block(7, comm.size, comm.rank), Range(1, 4)
    np.testing.assert_array_equal(source.read(comm, (rows, columns), np.float32), a[rows.slice, 1:4])
    np.testing.assert_array_equal(open_source(comm, f"{shared}/a.npz:/b").read(comm, (Range(2, 9),), int), b[2:9])


def test_damaged_npz_archives_are_refused_on_all_ranks(comm, shared):
    rng = np.random.default_rng(0)
    put(comm, shared / "a.npz", lambda p: np.savez_compressed(p, a=rng.random(50_000), b=rng.random(3)))
    content = (shared / "a.npz").read_bytes()
    broken = bytearray(content)
    broken[200_000:200_100] = bytes(100)
    put(comm, shared / "short.npz", lambda p: p.write_bytes(content[:1000]))
    put(comm, shared / "broken.npz", lambda p: p.write_bytes(broken))
    with pytest.raises(InputError, match="name one array"):
        open_source(comm, f"{shared}/a.npz")
    with pytest.raises(InputError, match="no array /c"):
        open_source(comm, f"{shared}/a.npz:/c")
    with pytest.raises(InputError, match="damaged"):
        open_source(comm, f"{shared}/short.npz")
    with pytest.raises(InputError, match="damaged"):
        open_source(comm, f"{shared}/broken.npz:/a").read(comm, (Range(0, 50_000),), float)


def test_an_iteration_refuses_a_first_vector_without_direction(comm, shared):
    for name, value, said in (
        ("zero", 0, "x.npy: is zero"),
        ("infinite", np.inf, "not finite"),
        ("nan", np.nan, "finite"),
    ):
        path = shared / name
        put(comm, path, lambda p, value=value: (p.mkdir(), np.save(p / "x.npy", [0.0] * 8 + [value])))
        params = driver.resolve(comm, Params(laplacian=(9,), x=str(path / "x.npy"), iterate="power"))
        plan = plans(params, comm.size, Machine())[0]
        with pytest.raises(InputError, match=said) as error:
            driver.prepare(comm, params, plan)
        assert error.value.agreed
        assert "np." not in str(error.value)
