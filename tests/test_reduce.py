"""``hpcmpi reduce`` as users start it: from files or generated, whole or along an axis; and its words on bad input."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Run
from runs import messages, strict_json

NUMBERS = np.random.default_rng(2).standard_normal((60, 50, 7)) * 10.0 ** np.random.default_rng(3).integers(-9, 9, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "X.h5", "w") as file:
        file["deep/inside"] = NUMBERS
        file["whole"] = np.arange(24).reshape(4, 6)
    np.save(tmp_path / "X.npy", NUMBERS.reshape(-1))
    return tmp_path


def test_moments_of_columns_from_hdf5(hpcmpi: Run, folder: Path):
    run = hpcmpi(
        3, "reduce", "--input", "X.h5:/deep/inside", "--op", "sum,std", "--op", "argmax", "--axis", 1, "-o", "r.h5"
    )
    assert run.returncode == 0, run.stderr
    assert "verified" in run.stdout
    assert "along axis 1" in run.stdout
    with h5py.File(folder / "r.h5") as file:
        group = file["reduce"]
        expected = np.array([[math.fsum(line) for line in rows.T] for rows in NUMBERS])
        assert np.array_equal(group["sum"][...], expected)
        np.testing.assert_allclose(group["std"][...], NUMBERS.std(axis=1), rtol=1e-12)
        assert np.array_equal(group["argmax"][...], NUMBERS.argmax(axis=1))
        assert group.attrs["verified"]
        assert group["sum"].dims[0][0].shape == (60,)
    assert hpcmpi(0, "verify", "r.h5").returncode == 0


def test_the_same_bits_on_any_number_of_ranks(hpcmpi: Run, folder: Path):
    ops, values = "sum,mean,var,norm,prod,argmin,count-nonzero", []
    for ranks in (1, 2, 16):
        run = hpcmpi(ranks, "reduce", "--input", "X.npy", "--op", ops, "--json", "--threads", 1, "--no-output")
        assert run.returncode == 0, run.stderr
        found = strict_json(run.stdout)
        assert found["verified"]
        assert found["sum"] == math.fsum(NUMBERS.reshape(-1))
        values.append([found[op] for op in ops.split(",")])
    assert values[0] == values[1] == values[2]
    assert folder.exists()


def test_scalars_in_files_are_arrays_of_one_element(hpcmpi: Run, tmp_path: Path):
    np.save(tmp_path / "s.npy", np.float64(2.5))
    np.savez(tmp_path / "s.npz", s=np.float64(2.5))
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["s"] = 2.5
    for name, method in (("s.npy", "memory"), ("s.npz", "memory"), ("s.h5", "stream")):
        options = ("--op", "sum,max", "--axis", 0, "--method", method, "--json", "--no-output")
        run = hpcmpi(2, "reduce", "--input", name, *options)
        assert run.returncode == 0, run.stderr
        found = strict_json(run.stdout)
        assert (found["sum"], found["max"], found["verified"]) == (2.5, 2.5, True)


def test_streamed_blocks_and_plain_loops_change_nothing(hpcmpi: Run, folder: Path):
    whole = hpcmpi(2, "reduce", "--input", "X.npy", "--json", "--op", "sum,std,max", "--no-output")
    again = hpcmpi(
        2, "reduce", "--input", "X.npy", "--json", "--op", "sum,std,max", "--no-output",
        "--method", "stream", "--block", "10000", HPCMPI_SIMD="portable",
    )  # fmt: skip
    one, two = strict_json(whole.stdout), strict_json(again.stdout)
    assert two["method_used"] == "exact, from stream"
    assert [one[op] for op in ("sum", "std", "max")] == [two[op] for op in ("sum", "std", "max")]
    assert folder.exists()


def test_histogram_of_a_generated_array(hpcmpi: Run, tmp_path: Path):
    command = ("reduce", "--n", "300,40", "--op", "histogram,min,max", "--bins", 8, "--range", "-0.5,0.5", "-o", "h.h5")
    run = hpcmpi(2, *command)
    assert run.returncode == 0, run.stderr
    assert "12000 elements" in run.stdout
    with h5py.File(tmp_path / "h.h5") as file:
        assert file["reduce/histogram"][...].sum() == 12000
        assert np.array_equal(file["reduce/edges"][...], np.linspace(-0.5, 0.5, 9))


def test_fast_sums_are_verified_too(hpcmpi: Run):
    run = hpcmpi(2, "reduce", "--n", "1e5", "--fast", "--op", "sum,var", "--no-output")
    assert run.returncode == 0, run.stderr
    assert "verified: plain sums" in run.stdout
    exact = hpcmpi(2, "reduce", "--n", "100,9", "--fast", "--axis", 0, "--op", "sum,var", "--no-output")
    assert exact.returncode == 0, exact.stderr
    assert "exact, from" in exact.stdout  # variances along an axis are never plain
    assert "verified: sums" in exact.stdout


@pytest.mark.parametrize(("n", "axis"), [("5,0", 0), ("0,0", 1), ("0,5", 1)])
def test_arrays_without_elements_have_sums(hpcmpi: Run, n: str, axis: int):
    run = hpcmpi(2, "reduce", "--n", n, "--axis", axis, "--op", "sum,prod", "--no-output")
    assert run.returncode == 0, run.stderr
    assert "verified" in run.stdout


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("--op", "sum,median", "--n", 5), 2, "'median' is none of"),
        ((), 2, "what to reduce?"),
        (("--op", ",", "--n", 5), 2, "names no operation"),
        (("--n", "1e30"), 2, "2^63 elements"),
        (("--n", "2^32,2^32"), 2, "2^63 elements"),
        (("--n", 5, "--block", 0), 2, "at least one byte"),
        (("--n", "5,5", "--axis", 0, "--op", "histogram"), 2, "leave --axis out"),
        (("--n", "5,5", "--axis", 2), 2, "2 dimensions"),
        (("--n", 0, "--op", "max"), 65, "without elements"),
        (("--n", 5, "--dtype", "complex64", "--op", "min"), 65, "real numbers"),
        (("--input", "none.npy"), 65, "no such file"),
        (("--input", "X.npy", "--dtype", "float32"), 2, "generated array"),
        (("--input", "X.npy", "--n", 5), 2, "has the shape"),
        (("--input", "text.npy"), 65, "text.npy: holds <U1; numbers are expected"),
        (("--input", "large.npy"), 65, "cannot hold"),
        (("--input", "large2.npy", "--axis", 1), 65, "cannot hold"),
        (("--input", "threes.npy", "--op", "prod"), 65, "cannot hold"),
        (("--input", "nan.npy", "--op", "histogram"), 65, "give the range"),
        (("--n", 5, "--op", "histogram", "--range", "-1.7e308,1.7e308"), 65, "too many bins"),
    ],
)
def test_what_cannot_be_is_said_once(hpcmpi: Run, folder: Path, argv: tuple[object, ...], status: int, said: str):
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "large.npy", np.full(4, 2**62))
    np.save(folder / "large2.npy", np.full((3, 4), 2**62))
    np.save(folder / "threes.npy", np.full(700, 3))
    np.save(folder / "nan.npy", np.array([1.0, np.nan]))
    run = hpcmpi(2, "reduce", *argv, "--no-output")
    assert run.returncode == status, run.stderr
    assert said in run.stderr
    assert run.stderr.count(said) == 1
    assert len(messages(run.stderr)) <= 1


def test_what_does_not_fit_is_refused_or_streamed(hpcmpi: Run):
    run = hpcmpi(1, "reduce", "--n", "1e13", "--method", "memory")
    assert run.returncode == 75
    assert "not enough memory" in run.stderr
    plan = hpcmpi(1, "reduce", "--n", "1e13", "--explain")
    assert plan.returncode == 0
    assert "stream" in plan.stdout


def test_fill_values_and_nan_are_left_out(hpcmpi: Run, tmp_path: Path):
    packed = np.arange(60, dtype="i2").reshape(12, 5)
    packed[::3, 1:3] = -999
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["t"] = packed
        file["t"].attrs.update({"_FillValue": np.int16(-999), "scale_factor": 0.1})
        file["x"] = np.where(packed == -999, np.nan, packed)
        file["x"].attrs["_FillValue"] = np.nan  # as xarray writes it; it changes nothing
        file["v"] = packed.reshape(-1)
        file["v"].attrs.update(file["t"].attrs)
        file["m"] = packed
        file["m"].attrs["MATLAB_class"] = np.bytes_("int16")
    kept = np.ma.masked_equal(packed, -999)
    warning = "numbers are taken as they are stored, without regard to _FillValue = -999, scale_factor = 0.1"
    for method in ("memory", "stream"):
        options = ("--op", "sum,max,argmin", "--method", method, "--block", 64, "--json")
        run = hpcmpi(2, "reduce", "--input", "t.h5:/t", "--fill-value", "-999", *options, "--no-output")
        assert run.returncode == 0, run.stderr
        found = strict_json(run.stdout)
        assert (found["sum"], found["max"], found["argmin"], found["kept"]) == (kept.sum(), 59, 0, kept.count())
        assert run.stderr.count(warning) == 1
        run = hpcmpi(2, "reduce", "--input", "t.h5:/x", "--nan-policy", "omit", *options, "--no-output")
        found = strict_json(run.stdout)
        assert (found["sum"], found["max"], found["argmin"], found["kept"]) == (kept.sum(), 59, 0, kept.count())
        assert "warning" not in run.stderr
    run = hpcmpi(2, "reduce", "--input", "t.h5:/t", "--fill-value", -999, "--op", "mean,min", "--axis", 0, "-o", "r.h5")
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "r.h5") as file:
        np.testing.assert_allclose(file["reduce/mean"][...], kept.mean(axis=0))
        assert np.array_equal(file["reduce/min"][...], kept.min(axis=0))
        assert np.array_equal(file["reduce/kept"][...], kept.count(axis=0))
    run = hpcmpi(0, "reduce", "--input", "t.h5:/x", "--nan-policy", "raise", "--no-output")
    assert run.returncode == 65
    assert "NaN is among the elements" in run.stderr
    run = hpcmpi(0, "reduce", "--input", "t.h5:/t", "--fill-value", "0.5", "--no-output")
    assert run.returncode == 2
    assert "--fill-value: fill value '0.5': int16 has no such number" in run.stderr
    for command, dataset, told in (("reduce", "m", "MATLAB stores its dimensions in reverse"), ("sort", "v", warning)):
        run = hpcmpi(0, command, "--input", f"t.h5:/{dataset}", "--no-output")
        assert run.returncode == 0
        assert run.stderr.count(told) == 1


def test_several_axes_on_the_command_line(hpcmpi: Run, folder: Path):
    run = hpcmpi(2, "reduce", "--input", "X.h5:/deep/inside", "--op", "max", "--axis", "0,-1", "-o", "r.h5")
    assert run.returncode == 0, run.stderr
    assert "along axes 0, 2" in run.stdout
    with h5py.File(folder / "r.h5") as file:
        assert np.array_equal(file["reduce/max"][...], NUMBERS.max(axis=(0, 2)))
    for axis, told in (
        ("0,0", "names a dimension twice"),
        ("3", "of an array with 3 dimensions"),
        ("x", "no dimension"),
    ):
        run = hpcmpi(0, "reduce", "--input", "X.h5:/deep/inside", "--axis", axis)
        assert run.returncode == 2
        assert told in run.stderr
