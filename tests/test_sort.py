"""``hpcmpi sort`` from the command line to the file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Run
from runs import messages, names, strict_json


def read(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return file[f"sort/{name}"][...]


def test_keys_are_the_same_to_the_bit_on_any_number_of_ranks_and_by_any_method(hpcmpi: Run, tmp_path):
    found = []
    for ranks, method in ((1, "sample"), (2, "sample"), (3, "odd-even"), (4, "quicksort"), (7, "sample")):
        run = hpcmpi(
            ranks, "sort", "--n", "3e4", "--generate", "normal", "--method", method, "--threads", 1, "--json",
            "-o", f"{ranks}.h5",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert strict_json(run.stdout)["verified"]
        found.append(read(tmp_path / f"{ranks}.h5", "keys").tobytes())
    assert len(set(found)) == 1
    assert hpcmpi(0, "verify", "7.h5").returncode == 0


def test_keys_of_a_file_and_their_order(hpcmpi: Run, tmp_path):
    keys = np.random.default_rng(1).integers(0, 50, 1000).astype(">i4")
    np.save(tmp_path / "keys.npy", keys)
    for flags, order in (((), np.argsort(keys, kind="stable")), (("--descending",), np.argsort(-keys, kind="stable"))):
        run = hpcmpi(2, "sort", "--input", "keys.npy", "--argsort", *flags, "--threads", 1, "-o", "o.h5", "--force")
        assert run.returncode == 0, run.stderr
        found = read(tmp_path / "o.h5", "order")
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, order)


def test_columns_follow_their_keys(hpcmpi: Run, tmp_path):
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["time"], file["x"], file["y"] = rng.permutation(500), rng.random((500, 3)), np.arange(500)
        order = np.argsort(file["time"][...])
        x, y = file["x"][...][order], order
    run = hpcmpi(
        3, "sort", "--by", "t.h5:/time", "--values", "t.h5:/x", "--values", "t.h5:/y", "--threads", 1, "-o", "s.h5"
    )
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(read(tmp_path / "s.h5", "keys"), np.arange(500))
    np.testing.assert_array_equal(read(tmp_path / "s.h5", "values/x"), x)
    np.testing.assert_array_equal(read(tmp_path / "s.h5", "values/y"), y)
    with h5py.File(tmp_path / "s.h5") as file:
        assert "width" not in file["sort"].attrs


def test_records_are_validated_as_valsort_does(hpcmpi: Run, tmp_path):
    run = hpcmpi(2, "sort", "--n", 5000, "--records", 100, "--threads", 1, "-o", "r.h5")
    assert run.returncode == 0, run.stderr
    assert "  Records: 5000\n" in run.stdout
    assert run.stdout.endswith("  Duplicate keys: 0\n  SUCCESS - all records are in order\n")
    found = read(tmp_path / "r.h5", "records")
    keys = [bytes(record[:10]) for record in found]
    assert keys == sorted(keys)
    flags = ("--records", 100, "--validate", "--threads", 1, "--no-output")
    run = hpcmpi(2, "sort", "--input", "r.h5", *flags)
    assert (run.returncode, run.stdout.endswith("  SUCCESS - all records are in order\n")) == (0, True)
    found[[0, 1]] = found[[1, 0]]
    found[3] = found[2]
    np.save(tmp_path / "wrong.npy", found)
    run = hpcmpi(2, "sort", "--input", "wrong.npy", *flags)
    assert (run.returncode, run.stdout.endswith("  Duplicate keys: 1\n  there are 1 unordered records\n")) == (3, True)
    found = read(tmp_path / "r.h5", "records")
    again = hpcmpi(
        3, "sort", "--input", "r.h5:/sort/records", "--records", 100, "--descending", "--threads", 1, "-o", "d.h5"
    )
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(read(tmp_path / "d.h5", "records"), found[::-1])


def test_records_in_a_file_without_a_header(hpcmpi: Run, tmp_path):
    every = np.random.default_rng(2).integers(0, 256, (300, 12)).astype(np.uint8)
    every.tofile(tmp_path / "raw")
    flags = ("--input", "raw", "--records", 12, "--key-bytes", 4, "--threads", 1)
    run = hpcmpi(2, "sort", *flags, "-o", "r.h5")
    assert run.returncode == 0, run.stderr
    expected = sorted(map(bytes, every), key=lambda record: record[:4])
    assert list(map(bytes, read(tmp_path / "r.h5", "records"))) == expected
    with (tmp_path / "raw").open("ab") as file:
        file.write(b"x")
    (told,) = messages(hpcmpi(2, "sort", *flags, "-o", "s.h5").stderr)
    assert "raw: truncated: 3601 bytes found, a multiple of 12 expected of records" in told


def test_the_order_of_records(hpcmpi: Run, tmp_path):
    every = np.random.default_rng(2).integers(0, 256, (500, 130)).astype(np.uint8)
    every[:, :105] = 9  # what comes after decides
    every[::5] = every[0]
    np.save(tmp_path / "r.npy", every)
    flags = ("--input", "r.npy", "--records", 130, "--key-bytes", 106, "--threads", 1)
    for more, sign in (((), 1), (("--descending", "--method", "quicksort"), -1)):
        expected = sorted(range(500), key=lambda i: sign * int(every[i, 105]))
        run = hpcmpi(2, "sort", *flags, *more, "--argsort", "-o", "o.h5", "--force")
        assert run.returncode == 0, run.stderr
        np.testing.assert_array_equal(read(tmp_path / "o.h5", "order"), expected)
        with h5py.File(tmp_path / "o.h5") as file:
            assert "records" not in file["sort"]
            about = dict(file["sort"].attrs)
        assert (about["records"], about["key-bytes"], about["verified"]) == (130, 106, True)
        assert "width" not in about
        run = hpcmpi(2, "sort", *flags, *more, "-o", "s.h5", "--force")
        assert run.returncode == 0, run.stderr
        np.testing.assert_array_equal(read(tmp_path / "s.h5", "records"), every[expected])


def test_no_column_is_lost_and_none_is_called_wrong(hpcmpi: Run, tmp_path):
    keys = np.array([2.0, np.nan, 1.0])
    columns = {
        "a/x": np.array([complex(np.nan, 1), 2, 3]),
        "b/x": np.array([(np.nan, 1), (2, 2), (3, 3)], [("u", "f4"), ("v", "i8")]),
        "x_0": np.arange(3),
    }
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["k"] = keys
        for name, column in columns.items():
            file[name] = column
    values = [word for name in columns for word in ("--values", f"c.h5:/{name}")]
    run = hpcmpi(2, "sort", "--by", "c.h5:/k", *values, "--threads", 1, "-o", "s.h5")
    assert run.returncode == 0, run.stdout + run.stderr
    with h5py.File(tmp_path / "s.h5") as file:
        assert set(file["sort/values"]) == {"x_0", "x_1", "x_2"}
    found = [read(tmp_path / "s.h5", f"values/{name}") for name in ("x_1", "x_2", "x_0")]
    for array, column in zip(found, columns.values(), strict=True):
        assert array.tobytes() == column[[2, 0, 1]].tobytes()


@pytest.mark.parametrize(
    ("dtype", "more"), [("int32", ("--descending",)), ("uint64", ()), ("float16", ("--descending",))]
)
def test_any_keys_that_do_not_fit_in_memory(hpcmpi: Run, tmp_path, dtype, more):
    keys = np.random.default_rng(1).integers(0, 300, 60_000).astype(dtype)
    keys[::3] = 0
    np.save(tmp_path / "keys.npy", keys)
    run = hpcmpi(3, "sort", "--input", "keys.npy", "--memory", "64KiB", *more, "--threads", 1, "-o", "s.h5")
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(read(tmp_path / "s.h5", "keys"), np.sort(keys)[:: -1 if more else 1])


def test_records_that_do_not_fit_in_memory(hpcmpi: Run, tmp_path):
    every = np.random.default_rng(2).integers(0, 256, (3000, 60)).astype(np.uint8)
    every[:, :30] = 7
    every[::4, 30] = 0
    every.tofile(tmp_path / "raw")
    for flags in ((), ("--memory", "64KiB")):
        run = hpcmpi(
            2, "sort", "--input", "raw", "--records", 60, "--key-bytes", 31, "--descending", *flags, "--threads", 1,
            "-o", f"{len(flags)}.h5",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        assert "SUCCESS" in run.stdout
    expected = sorted(map(bytes, every), key=lambda record: -record[30])
    for name in ("0.h5", "2.h5"):
        assert list(map(bytes, read(tmp_path / name, "records"))) == expected


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_file_larger_than_the_memory_given(hpcmpi: Run, tmp_path, ranks):
    keys = np.random.default_rng(1).standard_normal(30_000)
    np.save(tmp_path / "keys.npy", keys)
    (tmp_path / "scratch").mkdir()
    run = hpcmpi(
        ranks, "sort", "--input", "keys.npy", "--memory", keys.nbytes // 3, "--scratch", "scratch", "--threads", 1,
        "-o", "s.h5", "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert strict_json(run.stdout)["method_used"] == "external"
    np.testing.assert_array_equal(read(tmp_path / "s.h5", "keys"), np.sort(keys))
    assert names(tmp_path / "scratch") == set()


def npy(array):
    return lambda folder: np.save(folder / "k.npy", array)


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("make", "argv", "code", "told"),
    [
        (None, (), 2, "what to sort?"),
        (None, ("--n", 5, "--input", "k.npy"), 2, "Give one of --n, --input and --by"),
        (None, ("--by", "k.npy"), 2, "--by and --values go together"),
        (None, ("--n", 5, "--records", 50), 2, "generated records have 100 bytes"),
        (None, ("--n", 5, "--memory", "1MB", "--argsort"), 2, "--memory sorts keys and records"),
        (None, ("--n", 5, "--memory", "1MB", "--generate", "one-rank"), 2, "goes without --generate one-rank"),
        (None, ("--n", 5, "--memory", "1kB"), 2, "--memory 1000 B is too little to sort 5 rows of 8 bytes on 2 ranks"),
        (None, ("--n", 5, "--records", 100, "--validate"), 2, "--validate goes with --records and --input"),
        (None, ("--n", 5, "--scratch", "."), 2, "--scratch goes with --memory"),
        (None, ("--n", 5, "--key-bytes", 3), 2, "--key-bytes goes with --records"),
        (None, ("--n", 5, "--seed", -1), 2, "is not a whole number"),
        (None, ("--input", "k.npy", "--generate", "zipf"), 2, "--generate goes with --n"),
        (None, ("--n", 5, "--memory", "1MB", "--scratch", "nowhere"), 2, "nowhere: no such folder"),
        (None, ("--input", "k.npy"), 65, "k.npy: no such file"),
        (npy(np.ones((2, 2))), ("--input", "k.npy"), 65, "has 2 dimensions"),
        (npy(np.ones(3, complex)), ("--input", "k.npy"), 65, "holds complex128; keys are"),
        (npy(np.ones(3, "S100")), ("--input", "k.npy"), 65, "strings are records"),
        (npy(np.ones(3, "S100")), ("--input", "k.npy", "--records", 100), 65, "uint8 of shape (3, 100)"),
        (npy(np.ones(3)), ("--input", "k.npy", "--dtype", "int8"), 2, "but --dtype says int8"),
        (npy(np.ones((3, 4), np.uint8)), ("--input", "k.npy", "--records", 5, "--key-bytes", 2), 65, "(n, 5) uint8"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_once(hpcmpi: Run, tmp_path, make, argv, code, told):
    if make:
        make(tmp_path)
    run = hpcmpi(2, "sort", *argv, "--threads", 1, "-o", "s.h5")
    assert run.returncode == code, run.stderr
    assert run.stderr.count(told) == 1
    assert len(messages(run.stderr)) == (code != 2 or told.startswith(("nowhere", "but --dtype", "--memory 1")))
    assert "Traceback" not in run.stderr


def test_booleans_of_a_file_are_sorted(hpcmpi: Run, tmp_path: Path):
    keys = np.random.default_rng(4).random(1001) < 0.4
    np.save(tmp_path / "b.npy", keys)
    for method in ("sample", "odd-even"):
        run = hpcmpi(2, "sort", "--input", "b.npy", "--method", method, "-o", "s.h5", "--force")
        assert run.returncode == 0, run.stderr
        with h5py.File(tmp_path / "s.h5") as file:
            assert file["sort/keys"].dtype == bool
            assert np.array_equal(file["sort/keys"][...], np.sort(keys))
