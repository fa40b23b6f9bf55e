"""``hpcmpi matmul`` from files: the right product of whatever the files hold, or a clear word on why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - reads what --compress zstd has written
import numpy as np
import pytest
from conftest import Run
from numpy.typing import NDArray
from runs import messages, names, status, strict_json

EPS = {"float32": 2**-23, "float64": 2**-52, "complex64": 2**-23, "complex128": 2**-52}


def matrix(rows: int, columns: int, dtype: str = "float64", seed: int = 0) -> NDArray:
    rng = np.random.default_rng(seed)
    real = rng.uniform(-1, 1, (rows, columns))
    return (real + 1j * rng.uniform(-1, 1, (rows, columns)) if dtype.startswith("complex") else real).astype(dtype)


def read(path: Path) -> NDArray:
    with h5py.File(path) as file:
        return file["matmul/C"][...]


@pytest.fixture
def product(hpcmpi: Run, tmp_path: Path) -> Callable[..., NDArray]:
    """C as ``hpcmpi matmul`` of these options writes it; it must have been verified."""

    def multiply(ranks: int, *argv: object) -> NDArray:
        run = hpcmpi(ranks, "matmul", *argv, "--threads", 1, "-o", "C.h5", "--force", "--json")
        assert run.returncode == 0, run.stderr
        assert strict_json(run.stdout)["verified"]
        assert messages(run.stderr) == []
        return read(tmp_path / "C.h5")

    return multiply


def assert_close(found: NDArray, a: NDArray, b: NDArray, dtype: str) -> None:
    expected = a @ b
    assert (found.shape, found.dtype) == (expected.shape, np.dtype(dtype))
    slack = 4 * EPS[dtype] * np.sqrt(a.shape[1]) * np.abs(a).max() * np.abs(b).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=slack)


# Right products


def test_operands_in_hdf5_and_npy_and_of_different_dtypes(product, tmp_path):
    a, b = matrix(23, 31, "float32"), matrix(31, 17, "float64", seed=1)
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["deep/inside/a"] = a
        file["other"] = np.arange(3)
    np.save(tmp_path / "B.npy", b)
    assert_close(product(3, "--a", "A.h5:/deep/inside/a", "--b", "B.npy"), a.astype(float), b, "float64")
    # The only dataset of two dimensions needs no name; both are converted to what is asked for.
    converted = product(2, "--a", "A.h5", "--b", "B.npy", "--dtype", "complex64")
    assert_close(converted, a.astype("complex64"), b.astype("complex64"), "complex64")


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(True, False), (False, True), (True, True)])
def test_transposed_operands_of_any_storage(product, tmp_path, dtype, transpose_a, transpose_b):
    """HDF5 in compressed chunks and .npy in the order of Fortran; transposed means not conjugated."""
    a, b = matrix(19, 26, dtype), matrix(26, 14, dtype, seed=1)
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file.create_dataset("a", data=a.T if transpose_a else a, chunks=(5, 4), compression="gzip")
    np.save(tmp_path / "B.npy", np.asfortranarray(b.T if transpose_b else b))
    flags = ["--transpose-a"] * transpose_a + ["--transpose-b"] * transpose_b
    assert_close(product(3, "--a", "A.h5", "--b", "B.npy", *flags), a, b, dtype)


def test_integers_of_any_byte_order_are_converted_on_request(product, hpcmpi, tmp_path):
    a, b = np.arange(12, dtype=">i2").reshape(3, 4), np.arange(20, dtype="u1").reshape(4, 5)
    np.save(tmp_path / "A.npy", a)
    np.save(tmp_path / "B.npy", b)
    found = product(2, "--a", "A.npy", "--b", "B.npy", "--dtype", "float64")
    np.testing.assert_array_equal(found, a.astype(int) @ b)
    run = hpcmpi(2, "matmul", "--a", "A.npy", "--b", "B.npy")
    assert run.returncode == 65
    (told,) = messages(run.stderr)
    assert "A.npy and B.npy" in told
    assert "--dtype float64 converts it" in told


def test_one_operand_from_a_file_and_one_generated(product, tmp_path):
    """The identity brings the generated operand to light: the same numbers on any number of ranks, and for any n."""
    np.save(tmp_path / "I.npy", np.eye(13))
    b = [product(ranks, "--a", "I.npy", "--n", 21, "--seed", 5) for ranks in (1, 3, 4)]
    a = [product(ranks, "--b", "I.npy", "--m", 21, "--seed", 5) for ranks in (1, 2)]
    for same in (a, b):
        for other in same[1:]:
            np.testing.assert_array_equal(same[0], other)
        assert np.abs(same[0]).max() <= 0.5
        assert len(np.unique(same[0])) == same[0].size
    np.testing.assert_array_equal(product(2, "--a", "I.npy", "--n", 11, "--seed", 5), b[0][:, :11])
    assert not np.isin(product(2, "--a", "I.npy", "--n", 21, "--seed", 6), b[0]).any()
    assert not np.isin(a[0], b[0]).any()


def test_generated_products_agree_within_rounding_on_any_number_of_ranks(product):
    first, *others = (product(ranks, "--m", 37, "--k", 53, "--n", 29, "--seed", 3) for ranks in (1, 2, 3, 4, 7))
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=4 * EPS["float64"] * np.sqrt(53) / 4)


@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 1, 1), (2, 5, 1)])
def test_zero_sizes_and_fewer_rows_than_ranks(product, tmp_path, m, k, n):
    a, b = matrix(m, k), matrix(k, n, seed=1)
    np.save(tmp_path / "A.npy", a)
    with h5py.File(tmp_path / "B.h5", "w") as file:
        file["b"] = b
    found = product(3, "--a", "A.npy", "--b", "B.h5")
    assert found.shape == (m, n)
    np.testing.assert_allclose(found, a @ b, atol=1e-14)


def test_generated_operands_without_any_element(product):
    assert product(3, "--n", 0).shape == (0, 0)
    np.testing.assert_array_equal(product(3, "--m", 2, "--k", 0, "--n", 3), np.zeros((2, 3)))


def test_nan_and_infinities_are_computed_and_reported(hpcmpi, tmp_path):
    a, b = matrix(9, 8), matrix(8, 7, seed=1)
    a[3, 2], b[1, 5], b[2, 6] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "A.npy", a)
    np.save(tmp_path / "B.npy", b)
    run = hpcmpi(3, "matmul", "--a", "A.npy", "--b", "B.npy", "--json", "-o", "C.h5")
    assert run.returncode == 0, run.stderr
    facts = strict_json(run.stdout)
    assert facts["verified"]
    assert facts["elements_not_finite"] == 7 + 2 * 9 - 2
    assert "1 rows of A and 2 columns of B" in facts["verdict"]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(read(tmp_path / "C.h5"), a @ b, atol=1e-14)
    assert strict_json(hpcmpi(0, "show", "--json", "C.h5").stdout)["matmul"]["attributes"]["verified"]


def test_result_may_replace_its_own_operand(product, hpcmpi, tmp_path):
    first = product(2, "--n", 20)
    second = product(3, "--a", "C.h5:/matmul/C", "--b", "C.h5:/matmul/C")
    assert_close(second, first, first, "float64")
    assert hpcmpi(0, "verify", "C.h5").returncode == 0
    assert names(tmp_path) == {"C.h5", "C.h5.status.json"}


def test_gram_matrix_of_the_digits_is_that_of_numpy(product, hpcmpi, tmp_path):
    """1,797 handwritten digits of 8 x 8 pixels, whole numbers from 0 to 16: the products are exact."""
    from sklearn.datasets import load_digits

    digits = load_digits().data
    assert digits.shape == (1797, 64)
    with h5py.File(tmp_path / "digits.h5", "w") as file:
        file["pixels"] = digits
    for ranks in (1, 2, 4):
        found = product(ranks, "--a", "digits.h5:/pixels", "--b", "digits.h5:/pixels", "--transpose-a")
        np.testing.assert_array_equal(found, digits.T @ digits)
    similarity = product(2, "--a", "digits.h5:/pixels", "--b", "digits.h5:/pixels", "--transpose-b")
    np.testing.assert_array_equal(similarity, digits @ digits.T)
    assert hpcmpi(0, "verify", "C.h5").returncode == 0


def test_compressed_results_are_the_same_numbers_and_are_read_as_operands(product, hpcmpi, tmp_path):
    plain = product(3, "--n", 200)
    for kind in ("gzip", "zstd"):
        np.testing.assert_array_equal(product(3, "--n", 200, "--compress", kind), plain)
        assert hpcmpi(0, "verify", "C.h5").returncode == 0
    with h5py.File(tmp_path / "C.h5") as file:
        assert file["matmul/C"].chunks is not None
        assert file["matmul/C"].id.get_storage_size() < plain.nbytes
    assert "200 x 200 float64" in hpcmpi(0, "show", "C.h5").stdout
    squared = product(2, "--a", "C.h5:/matmul/C", "--b", "C.h5:/matmul/C", "--compress", "gzip")
    assert_close(squared, plain, plain, "float64")


def test_out_of_core_from_files_into_compressed_files_in_the_memory_that_was_given(product, hpcmpi, tmp_path):
    a, b = matrix(700, 900), matrix(900, 500, seed=1)
    np.save(tmp_path / "A.npy", a)
    with h5py.File(tmp_path / "B.h5", "w") as file:
        file.create_dataset("b", data=b.T, chunks=(50, 60), compression="gzip")
    flags = ["--a", "A.npy", "--b", "B.h5", "--transpose-b", "--memory", "1MiB", "--scratch", tmp_path]
    np.testing.assert_allclose(product(3, *flags, "--compress", "gzip"), a @ b, rtol=0, atol=1e-12)
    shown = strict_json(hpcmpi(0, "show", "--json", "C.h5").stdout)["matmul"]["attributes"]
    assert shown["method_used"] == "stream"
    assert shown["share_bytes"] <= 1 << 20
    assert shown["memory_peak_bytes"] - shown["memory_baseline_bytes"] < 32 << 20
    assert shown["seconds_expected"] > 0
    assert shown["idle_ranks"] == 0
    assert shown["scratch_bytes"] >= 8 * (700 * 500 + 900 * 500)
    assert names(tmp_path) == {"A.npy", "B.h5", "C.h5", "C.h5.status.json"}
    before = (tmp_path / "C.h5.status.json").read_bytes()
    for folder, word in (("nowhere", "no such folder"), ("A.npy", "is a file")):
        run = hpcmpi(2, "matmul", "--n", 600, "--memory", "2MiB", "--scratch", folder, "-o", "C.h5", "--force")
        assert run.returncode == 2
        assert messages(run.stderr) == [f"hpcmpi: error: --scratch {folder}: {word}"]
    assert (tmp_path / "C.h5.status.json").read_bytes() == before, "a job that was refused told of itself"


# Bad input


def npy(name: str = "A.npy", rows: int = 6, columns: int = 5, dtype: str = "float64") -> Callable[[], None]:
    return lambda: np.save(name, np.ones((rows, columns), dtype))


def npy_cut() -> None:
    np.save("A.npy", np.ones((6, 5)))
    os.truncate("A.npy", 200)


def npy_header_cut() -> None:
    np.save("A.npy", np.ones((6, 5)))
    os.truncate("A.npy", 20)


def npy_objects() -> None:
    np.save("A.npy", np.array([[print]]), allow_pickle=True)


def npy_text() -> None:
    np.save("A.npy", np.array([["one"]]))


def npy_cube() -> None:
    np.save("A.npy", np.ones((2, 3, 4)))


def hdf5(**datasets: object) -> Callable[[], None]:
    def write() -> None:
        with h5py.File("A.h5", "w") as file:
            for name, data in datasets.items():
                file[name] = data

    return write


def hdf5_cut() -> None:
    hdf5(a=np.ones((60, 50)))()
    os.truncate("A.h5", Path("A.h5").stat().st_size - 8)


def hdf5_chunk_damaged() -> None:
    with h5py.File("A.h5", "w") as file:
        data = file.create_dataset("a", data=matrix(60, 50), chunks=(10, 50), compression="gzip", fletcher32=True)
        at = data.id.get_chunk_info(3).byte_offset
    with Path("A.h5").open("r+b") as file:
        file.seek(at)
        file.write(bytes(64))


def incomplete() -> None:
    hdf5(**{"matmul/C": np.ones((6, 5))})()
    with h5py.File("A.h5", "r+") as file:
        file["matmul"].attrs.update({"complete": False, "written_by": "hpcmpi"})


def text() -> None:
    Path("A.npy").write_text("1 2\n3 4\n")


def nothing() -> None:
    pass


A, B = ("--a", "A.npy"), ("--a", "A.h5")
TWO = hdf5(a=np.ones((6, 5)), b=np.ones((5, 6)), c=np.arange(3))
BAD = {
    "missing": (nothing, A, 65, ["A.npy: no such file"]),
    "a folder": (lambda: Path("A.npy").mkdir(), A, 65, ["A.npy: is a folder, not a file"]),
    "empty": (lambda: Path("A.npy").touch(), A, 65, ["A.npy: is empty"]),
    "text": (text, A, 65, ["A.npy: neither HDF5 nor .npy: it begins with the bytes b'1 2"]),
    "truncated .npy": (npy_cut, A, 65, ["A.npy: truncated: 200 bytes found, 368 bytes expected"]),
    "truncated header": (npy_header_cut, A, 65, ["A.npy: damaged .npy header"]),
    "truncated HDF5": (hdf5_cut, B, 65, ["A.h5: truncated: ", " bytes found, ", " bytes expected"]),
    "damaged chunk": (hdf5_chunk_damaged, B, 65, ["A.h5:/a: cannot read rows"]),
    "incomplete result": (incomplete, B, 65, ["A.h5:/matmul/C: was left incomplete by the run that wrote it"]),
    "no slash": (TWO, ("--a", "A.h5:a"), 65, ["A.h5:a: no such file; a dataset is named A.h5:/a"]),
    "no such dataset": (
        TWO,
        ("--a", "A.h5:/d"),
        65,
        ["A.h5:/d: no such dataset; there are: /a (6, 5), /b (5, 6), /c (3,)"],
    ),
    "a group": (
        hdf5(**{"g/a": np.ones((2, 2))}),
        ("--a", "A.h5:/g"),
        65,
        ["A.h5:/g: is no dataset, but a group with: /g/a"],
    ),
    "which dataset": (TWO, B, 65, ["A.h5: name one dataset as A.h5:/DATASET; there are: /a (6, 5), /b (5, 6)"]),
    "no dataset at all": (hdf5(), B, 65, ["A.h5: holds no dataset of numbers; there are: none"]),
    "dataset of .npy": (npy(), ("--a", "A.npy:/a"), 65, ["A.npy: a .npy file holds one array and no dataset '/a'"]),
    "vector": (TWO, ("--a", "A.h5:/c"), 65, ["A.h5:/c: has 1 dimensions, shape (3,); 2 are expected"]),
    "cube": (npy_cube, A, 65, ["A.npy: has 3 dimensions, shape (2, 3, 4); 2 are expected"]),
    "objects": (npy_objects, A, 65, ["A.npy: holds Python objects; numbers are expected"]),
    "strings": (npy_text, A, 65, ["A.npy: holds <U3, not numbers"]),
    "half precision": (npy(dtype="float16"), A, 65, ["A.npy", "float16 is none of float32, float64"]),
    "complex to real": (
        npy(dtype="complex64"),
        (*A, "--dtype", "float64"),
        65,
        ["A.npy: holds complex64, which --dtype float64 would cut off"],
    ),
    "contradicting --k": (npy(), (*A, "--k", 7), 2, ["A.npy: op(A) is 6 x 5, so k = 5, but --k says k = 7"]),
    "contradicting --m": (npy(), (*A, "--m", 5), 2, ["A.npy: op(A) is 6 x 5, so m = 6, but --m says m = 5"]),
    "no --n": (npy(), A[:2], 2, ["the generated operand needs --n beside A.npy"]),
}


@pytest.mark.sample(6)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_once_with_the_right_status(hpcmpi, tmp_path, monkeypatch, case):
    make, argv, code, told = BAD[case]
    monkeypatch.chdir(tmp_path)
    make()
    before = {path: path.stat() for path in tmp_path.iterdir()}
    others = () if case == "no --n" else ("--n", 4)
    run = hpcmpi(2, "matmul", *argv, *others, "--threads", 1, "-o", "C.h5", timeout=60)
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    (line,) = messages(run.stderr)
    for part in told:
        assert part in line
    left = names(tmp_path) - {path.name for path in before}
    if case == "damaged chunk":  # found while reading: the job had begun
        assert left == {"C.h5.status.json"}
        assert status(tmp_path)["phase"] == "prepare"
    else:
        assert left == set()


@pytest.mark.parametrize(
    ("flags", "size"), [((), "5 x 4"), (("--transpose-a",), "6 x 5"), (("--transpose-a", "--transpose-b"), "4 x 5")]
)
def test_mismatched_shapes_name_both_files(hpcmpi, tmp_path, flags, size):
    m, k = (5, 6) if "--transpose-a" in flags else (6, 5)
    np.save(tmp_path / "A.npy", np.ones((6, 5)))
    shape = {"5 x 4": (7, 4), "6 x 5": (7, 5), "4 x 5": (5, 4)}[size]
    np.save(tmp_path / "B.npy", np.ones(shape))
    run = hpcmpi(2, "matmul", "--a", "A.npy", "--b", "B.npy", *flags, "--threads", 1, "-o", "C.h5")
    assert run.returncode == 65
    (line,) = messages(run.stderr)
    rows, columns = shape[::-1] if "--transpose-b" in flags else shape
    assert f"B.npy: op(B) is {rows} x {columns}, so k = {rows}, but --a A.npy says k = {k}" in line
    assert m != k
    assert names(tmp_path) == {"A.npy", "B.npy"}
