"""``hpcmpi matvec`` as a job: from files of every kind to a checked result, and a clear word where that cannot be."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import scipy.sparse.linalg
from conftest import Run
from numpy.typing import NDArray
from runs import messages, strict_json

from hpcmpi.algorithms.matvec import METHODS, Resolved
from hpcmpi.algorithms.matvec.cost import plans
from hpcmpi.machine import Machine
from hpcmpi.runner.report import summary


def real_matrix(name: str) -> scipy.sparse.csr_matrix:
    """Of the Matrix Market, as SciPy ships them: illc1850 (A_real), of a survey; mhd1280b (A_complex), of a plasma."""
    path = Path(scipy.__file__).parent / "sparse/linalg/tests/propack_test_data.npz"
    with np.load(path, allow_pickle=True) as file:
        return file[name].item().tocsr()


@pytest.fixture
def job(hpcmpi: Run, tmp_path: Path) -> Callable[..., tuple[dict, dict[str, NDArray]]]:
    """Facts and arrays of ``hpcmpi matvec`` with these options; it must have been verified."""

    def run(ranks: int, *argv: object) -> tuple[dict, dict[str, NDArray]]:
        done = hpcmpi(ranks, "matvec", *argv, "--threads", 1, "-o", "y.h5", "--force", "--json")
        assert done.returncode == 0, done.stderr
        assert messages(done.stderr) == []
        facts = strict_json(done.stdout)
        assert facts["verified"]
        with h5py.File(tmp_path / "y.h5") as file:
            return facts, {name: file[f"matvec/{name}"][...] for name in ("x", "y") if name in file["matvec"]}

    return run


def write_all(folder: Path, a: scipy.sparse.csr_matrix) -> None:
    """The matrix as text, plain and compressed, in SciPy's format, and as a group of arrays."""
    scipy.io.mmwrite(folder / "a.mtx", a, precision=17)
    (folder / "a.mtx.gz").write_bytes(gzip.compress((folder / "a.mtx").read_bytes()))
    scipy.sparse.save_npz(folder / "csr.npz", a)
    with h5py.File(folder / "a.h5", "w") as file:
        group = file.create_group("matrix")
        group.attrs["shape"] = a.shape
        for name in ("indptr", "indices", "data"):
            group[name] = getattr(a, name)


def test_a_real_matrix_gives_the_same_bits_from_any_file_on_any_number_of_ranks(job, tmp_path):
    a = real_matrix("A_real")
    assert (a.shape, a.nnz) == ((1850, 712), 8636)
    x = np.random.default_rng(1).uniform(-1, 1, 712)
    np.save(tmp_path / "x.npy", x)
    write_all(tmp_path, a)
    first = None
    for ranks, where in (1, "a.mtx"), (3, "a.mtx.gz"), (2, "csr.npz"), (4, "a.h5"):
        facts, arrays = job(ranks, "--a", where, "--x", "x.npy")
        assert facts["nonzeros"] == 8636
        np.testing.assert_allclose(arrays["y"], a @ x, rtol=0, atol=1e-13 * np.abs(a).sum(axis=1).max())
        first = arrays["y"] if first is None else first
        assert arrays["y"].tobytes() == first.tobytes(), where
    np.save(tmp_path / "x.npy", a @ x)
    _, arrays = job(2, "--a", "csr.npz", "--x", "x.npy", "--transpose")
    np.testing.assert_allclose(arrays["y"], a.T @ (a @ x), rtol=0, atol=1e-11)


def test_complex_hermitian_matrix_and_its_dominant_eigenpair(job, tmp_path):
    a = real_matrix("A_complex")
    assert a.shape == (1280, 1280)
    scipy.io.mmwrite(tmp_path / "a.mtx", a, symmetry="hermitian", precision=17)
    (dominant,), vectors = scipy.sparse.linalg.eigsh(a, k=1, which="LM", rng=np.random.default_rng(1))
    noise = np.random.default_rng(1).standard_normal((2, 1280))
    np.save(tmp_path / "x.npy", vectors[:, -1] + 1e-3 * (noise[0] + 1j * noise[1]))  # the next one is 0.5% smaller
    facts, arrays = job(3, "--a", "a.mtx", "--x", "x.npy", "--iterate", "power", "--tolerance", "1e-4")
    assert complex(facts["eigenvalue"], facts["eigenvalue_imag"]) == pytest.approx(dominant, rel=1e-6)
    assert facts["residual"] <= 1e-4
    np.testing.assert_allclose(a @ arrays["x"], arrays["y"], rtol=0, atol=1e-14 * np.abs(dominant) * 30)
    assert np.linalg.norm(arrays["x"]) == pytest.approx(1)


def test_power_iteration_is_the_same_bits_on_any_number_of_ranks(job):
    outcomes = [job(ranks, "--power-law", 3000, "--iterate", "power", "--seed", 3) for ranks in (1, 3)]
    facts, arrays = outcomes[0]
    assert facts["converged"]
    for others, same in outcomes[1:]:
        assert (others["eigenvalue"], others["residual"]) == (facts["eigenvalue"], facts["residual"])
        assert same["x"].tobytes() == arrays["x"].tobytes()
    assert np.all(arrays["x"] * np.sign(arrays["x"][np.argmax(np.abs(arrays["x"]))]) > -1e-12)  # Perron's vector


def test_dominant_eigenvalue_of_a_dense_matrix(job, tmp_path):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    a = q @ np.diag([-9, *np.linspace(5, 0, 39)]) @ q.T
    np.save(tmp_path / "a.npy", a)
    facts, _ = job(3, "--a", "a.npy", "--iterate", "power", "--repeat", 2, "--transpose")
    assert facts["eigenvalue"] == pytest.approx(-9, rel=1e-12)


def test_no_convergence_is_told(hpcmpi):
    run = hpcmpi(2, "matvec", "--laplacian", "9,9", "--iterate", "power", "--iterations", 5, "--no-output")
    assert run.returncode == 3
    assert "no convergence: the residual is" in run.stdout
    assert "WRONG" in run.stdout


def test_dense_files_of_any_layout(job, tmp_path):
    rng = np.random.default_rng(2)
    a, x = rng.uniform(-1, 1, (37, 53)), rng.uniform(-1, 1, 53).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=a, chunks=(5, 9), compression="gzip")
        file["x"] = x
    np.savez_compressed(tmp_path / "a.npz", a=a.T)
    for ranks, argv in (
        (3, ["--a", "a.npz:/a", "--transpose"]),
        (4, ["--a", "a.h5:/a", "--method", "grid"]),
    ):
        facts, arrays = job(ranks, *argv, "--x", "a.h5:/x")
        np.testing.assert_allclose(arrays["y"], a @ x.astype(float), rtol=0, atol=1e-14 * 53)
        assert facts["method_used"] == (argv[-1] if "--method" in argv else "rows")


def test_words_of_the_laplacian_are_counted(job):
    facts, arrays = job(4, "--laplacian", "24,10,9", "--repeat", 3)
    assert facts["words_exchanged"] == 2 * 3 * 90
    assert facts["words_over_surface"] == 1
    assert facts["nonzeros"] == 7 * 2160 - 2 * (90 + 24 * 9 + 24 * 10)
    assert facts["nonzeros_busiest_over_mean"] < 1.02
    assert arrays["y"].shape == (2160,)


def test_bad_input_is_refused_once(hpcmpi, tmp_path):
    np.save(tmp_path / "zero.npy", np.zeros(4))
    (tmp_path / "bad.mtx").write_text("%%MatrixMarket matrix coordinate real general\n3 3 1\n1 4 1\n")
    for argv, status, said in (
        (["--laplacian", "3", "--power-law", "5"], 2, "choose one"),
        (["--a", "bad.mtx", "--n", "5"], 2, "but --n says n = 5"),
        (["--a", "bad.mtx"], 65, "line 3: '1 4 1'"),
        (["--n", "5", "--tolerance", "0.1"], 2, "--tolerance is of --iterate power"),
        (["--laplacian", "4", "--iterate", "power", "--x", "zero.npy"], 65, "zero.npy: is zero"),
    ):
        run = hpcmpi(2, "matvec", *argv, "--no-output")
        assert run.returncode == status, run.stderr
        assert run.stderr.count(said) == 1
        assert "Traceback" not in run.stderr


def test_ranks_of_a_summary_are_counted_as_people_do():
    facts = {
        "method_used": "m",
        "threads": 1,
        "size": "s",
        "repeat": 1,
        "seconds_median": 1,
        "rate": 1,
        "rate_unit": "B",
    }
    for grid, said in (("1", "on 1 rank,"), ("2", "on 2 ranks,"), ("1 x 1", "on 1 x 1 ranks,")):
        assert said in summary("c", facts | {"grid": grid}, "verified", (), None)


def test_explain_prices_the_ways(hpcmpi):
    run = hpcmpi(0, "matvec", "--n", "1e5", "--ranks", 6, "--explain")
    assert run.returncode == 0, run.stderr
    assert next(line.split()[1] for line in run.stdout.splitlines() if line.startswith("│")) == "rows"
    assert run.stdout.count(" x ") >= 4
    huge = hpcmpi(0, "matvec", "--n", "1e7")
    assert huge.returncode == 75
    assert "short" in huge.stderr


def test_every_method_has_a_grid_on_any_number_of_ranks():
    for method in METHODS:
        for ranks in range(1, 8):
            params = Resolved(n=50, m=50, dtype="float64", method=method)
            assert plans(params, ranks, Machine())
