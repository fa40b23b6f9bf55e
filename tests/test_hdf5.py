"""What hpcmpi makes of HDF5 files that others wrote: whose attributes count, links, types, missing pieces."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from runs import RUN, messages

from hpcmpi.errors import InputError
from hpcmpi.partition import Range
from hpcmpi.store.hdf5 import written_by_hpcmpi
from hpcmpi.store.reader import inspect, split_dataset

FOREIGN = (0, False, np.False_, "", "no", np.array([1, 0]), h5py.Empty("f8"), None)
OLD = {"complete": False, "job": "77", "attempt": 0}  # what hpcmpi wrote before it left a mark


def file_with(path: Path, group: str, attributes: dict[str, object], name: str = "d") -> str:
    with h5py.File(path, "w") as file:
        file[f"{group}/{name}"] = np.ones(4)
        for key, value in attributes.items():
            if value is None:  # of a type that h5py cannot read
                space = h5py.h5s.create(h5py.h5s.SCALAR)
                h5py.h5a.create(file[group].id, key.encode(), h5py.h5t.UNIX_D32LE, space)
            else:
                file[group].attrs[key] = value
    return f"{path}:/{group}/{name}"


@pytest.mark.parametrize("value", FOREIGN, ids=str)
def test_complete_of_others_says_nothing(tmp_path, value):
    source = inspect(file_with(tmp_path / "scan.h5", "run", {"complete": value}), 1)
    assert source.shape == (4,)
    with h5py.File(tmp_path / "scan.h5") as file:
        assert not written_by_hpcmpi(file["run"])


@pytest.mark.parametrize("attributes", [OLD, {"complete": False, "written_by": "hpcmpi"}], ids=["old", "marked"])
def test_what_hpcmpi_left_incomplete_is_refused(tmp_path, attributes):
    where = file_with(tmp_path / "x.h5", "matmul", attributes)
    with pytest.raises(InputError, match=r"x\.h5:/matmul/d: was left incomplete"):
        inspect(where, 1)
    whole = file_with(tmp_path / "y.h5", "matmul", attributes | {"complete": True})
    assert inspect(whole, 1).shape == (4,)


def test_a_mark_of_others_is_not_ours(tmp_path):
    where = file_with(tmp_path / "x.h5", "run", OLD | {"written_by": "acquire 3.1"})
    assert inspect(where, 1).shape == (4,)


# Whose bytes they are


def matrix_elsewhere(folder: Path) -> NDArray:
    """A file with a matrix, and others that lead to it: by a link to it, to its group, and through two files."""
    x = np.random.default_rng(0).random((30, 20))
    with h5py.File(folder / "data.h5", "w", userblock_size=512) as file:
        file["entry/x"] = x
    with h5py.File(folder / "small.h5", "w") as file:
        file["d"] = h5py.ExternalLink("data.h5", "/entry/x")
    with h5py.File(folder / "large.h5", "w") as file:
        file["pad"] = np.full(10_000, 7.0)
        file["d"] = h5py.ExternalLink("data.h5", "/entry/x")
        file["group"] = h5py.ExternalLink("data.h5", "/entry")
        file["twice"] = h5py.ExternalLink("small.h5", "/d")
        file["soft"] = h5py.SoftLink("/group/x")
    return x


@pytest.mark.parametrize(
    "name", ["small.h5:/d", "small.h5", "large.h5:/d", "large.h5:/group/x", "large.h5:/twice", "large.h5:/soft"]
)
def test_arrays_behind_links_are_read_from_the_file_that_holds_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    x = matrix_elsewhere(tmp_path)
    source = inspect(name, 2)
    assert source.offset is not None
    assert source.stored_in.samefile("data.h5")
    rows, columns = Range(3, 17), Range(5, 20)
    np.testing.assert_array_equal(source.read_alone((rows, columns), "f8"), x[3:17, 5:])
    np.testing.assert_array_equal(source.read_alone((Range(0, 30), Range(0, 20)), "f4"), x.astype("f4"))


def test_a_link_into_a_truncated_file_names_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matrix_elsewhere(tmp_path)
    os.truncate("data.h5", 4000)
    with pytest.raises(InputError, match=r"^large\.h5:/twice: links to small\.h5:/d: .*links to data\.h5.*truncated"):
        inspect("large.h5:/twice", 2)


def broken(name: str, **contents: object) -> str:
    """What is said of the dataset ``d`` of a file of these links and arrays."""
    with h5py.File(name, "w") as file:
        for key, value in contents.items():
            file[key.replace("__", "/")] = value
    with pytest.raises(InputError) as caught:
        inspect(f"{name}:/d", None)
    return str(caught.value)


def test_dangling_links_are_told_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("there.h5", "w") as file:
        file["a"] = np.ones(3)
        file["gone"] = h5py.ExternalLink("not_here.h5", "/x")
    external, soft = h5py.ExternalLink, h5py.SoftLink
    assert broken("x.h5", d=external("not_here.h5", "/x")) == (
        "x.h5:/d: links to not_here.h5:/x: there is no HDF5 file not_here.h5"
    )
    assert broken("x.h5", d=external("there.h5", "/b")) == (
        "x.h5:/d: links to there.h5:/b: there.h5:/b: no such dataset; there are: /a (3,)"
    )
    assert "there is no HDF5 file not_here.h5" in broken("x.h5", d=external("there.h5", "/gone"))
    assert broken("x.h5", d=soft("/e"), e=soft("nowhere")) == (
        "x.h5:/d: links to /e: links to nowhere: there is no such object"
    )
    assert broken("x.h5", d=soft("/d")) == "x.h5:/d: links to /d: a link that leads back to itself"
    assert broken("x.h5", d=soft("/e"), e=soft("d")) == (
        "x.h5:/d: links to /e: links to d: a link that leads back to itself"
    )
    assert broken("x.h5", d=soft("g/y"), g=external("not_here.h5", "/")).endswith("there is no HDF5 file not_here.h5")


# Missing pieces


def virtual(name: str, source: str, *, rows: int = 4, dataset: str = "data") -> str:
    """A virtual dataset of ``rows`` rows, each from the file ``source`` with its number filled in."""
    layout = h5py.VirtualLayout((rows, 10), "f8")
    for row in range(rows):
        layout[row] = h5py.VirtualSource(source.format(row), dataset.format(row), (10,))
    with h5py.File(name, "w") as file:
        file.create_virtual_dataset("d", layout, fillvalue=0)
    return f"{name}:/d"


def parts(pattern: str = "part{}.h5", dataset: str = "data") -> None:
    for row in range(4):
        with h5py.File(pattern.format(row), "w") as file:
            file[dataset] = np.full(10, row + 1.0)


def refusal(where: str) -> str:
    with pytest.raises(InputError) as caught:
        inspect(where, None)
    return str(caught.value)


def total(where: str) -> float:
    source = inspect(where, None)
    return float(source.read_alone(tuple(Range(0, extent) for extent in source.shape), "f8").sum())


def test_virtual_datasets_whose_sources_exist_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts()
    assert total(virtual("run.h5", "part{}.h5")) == 100
    Path("deep").mkdir()
    Path("run.h5").rename("deep/run.h5")
    assert total("deep/run.h5:/d") == 100  # sources in the working folder
    for row in range(4):
        Path(f"part{row}.h5").rename(f"deep/part{row}.h5")
    assert total("deep/run.h5:/d") == 100  # beside the file
    Path("link.h5").symlink_to("deep/run.h5")
    assert total("link.h5:/d") == 100  # beside the file that the link means
    with h5py.File("master.h5", "w") as file:
        file["d"] = h5py.ExternalLink("deep/run.h5", "/d")
    assert total("master.h5:/d") == 100
    assert total(virtual("absolute.h5", f"{tmp_path}/deep/part{{}}.h5")) == 100


def test_sources_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts()
    where = virtual("run.h5", "part{}.h5")
    nested = virtual("nested.h5", "run.h5", rows=1, dataset="d")
    Path("part2.h5").rename("moved.h5")
    assert refusal(where) == "run.h5:/d: is a virtual dataset whose source part2.h5 is missing or no HDF5 file"
    assert "source part2.h5 is missing" in refusal(nested)
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "elsewhere"))
    assert "source part2.h5 is missing" in refusal(where)
    (tmp_path / "elsewhere").mkdir()
    Path("moved.h5").rename("elsewhere/part2.h5")
    assert total(where) == 100
    with h5py.File("elsewhere/part2.h5", "w") as file:
        file["other"] = np.ones(10)
    assert "part2.h5:/data: no such dataset; there are: /other (10,)" in refusal(where)
    with h5py.File("elsewhere/part2.h5", "w") as file:
        file["data"] = h5py.ExternalLink("lost.h5", "/x")
    assert "there is no HDF5 file lost.h5" in refusal(where)
    Path("elsewhere/part2.h5").write_bytes(b"not HDF5")
    assert "source part2.h5 is missing or no HDF5 file" in refusal(where)


def test_sources_in_the_same_file_and_circles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource(".", "data", (10,))
    with h5py.File("x.h5", "w") as file:
        file["data"] = np.ones(10)
        file.create_virtual_dataset("d", layout)
    assert total("x.h5:/d") == 10
    with h5py.File("x.h5", "r+") as file:
        del file["data"]
    assert "x.h5:/data: no such dataset" in refusal("x.h5:/d")
    with h5py.File("x.h5", "r+") as file:
        file["data"] = h5py.SoftLink("/d")
    assert "more than 16 deep" in refusal("x.h5:/d")


def numbered(name: str, file_name: bytes, dataset: bytes) -> str:
    """A virtual dataset of blocks of 10 elements from sources of numbered names."""
    with h5py.File(name, "w") as file:
        space = h5py.h5s.create_simple((40,), (h5py.h5s.UNLIMITED,))
        space.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (10,), (10,))
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_virtual(space, file_name, dataset, h5py.h5s.create_simple((10,)))
        whole = h5py.h5s.create_simple((40,), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(file.id, b"d", h5py.h5t.NATIVE_DOUBLE, whole, dcpl=properties)
    return f"{name}:/d"


def test_gaps_among_numbered_sources_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts()
    where = numbered("run.h5", b"part%b.h5", b"data")
    assert total(where) == 100
    Path("part2.h5").rename("moved.h5")  # HDF5 would end after part1.h5
    assert "source part2.h5:data is missing, though number 3 exists" in refusal(where)
    Path("part3.h5").unlink()
    assert total(where) == 30  # a run that has written two parts so far
    Path("part0.h5").unlink()
    Path("part1.h5").unlink()
    assert "source part0.h5:data is missing" in refusal(where)
    with h5py.File("one.h5", "w") as file:
        for block in (0, 1, 3):
            file[f"block{block}"] = np.ones(10)
    assert "source one.h5:block2 is missing, though number 3 exists" in refusal(numbered("r.h5", b"one.h5", b"block%b"))
    for folder in range(4):
        Path(f"f{folder}").mkdir()
    parts("f{}/x.h5")
    assert total(numbered("r.h5", b"f%b/x.h5", b"data")) == 100


def test_raw_files_that_are_short_or_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.arange(50.0).tofile("a.bin")
    np.arange(50.0).tofile("b.bin")
    with h5py.File("x.h5", "w") as file:
        file.create_dataset("d", (90,), "f8", external=[("a.bin", 80, 320), ("b.bin", 0, h5py.h5f.UNLIMITED)])
    assert total("x.h5:/d") == np.arange(10.0, 50).sum() + np.arange(50.0).sum()
    os.truncate("b.bin", 399)
    assert refusal("x.h5:/d").endswith("truncated: its raw file b.bin has 399 bytes; 400 bytes are expected")
    Path("b.bin").unlink()
    assert "its raw file b.bin cannot be read: No such file" in refusal("x.h5:/d")
    np.arange(50.0).tofile("b.bin")
    os.truncate("a.bin", 399)
    assert "its raw file a.bin has 399 bytes; 400 bytes are expected" in refusal("x.h5:/d")
    (tmp_path / "raw").mkdir()
    np.arange(50.0).tofile("raw/a.bin")
    np.arange(50.0).tofile("raw/b.bin")
    monkeypatch.setenv("HDF5_EXTFILE_PREFIX", "${ORIGIN}/raw")
    assert inspect("x.h5:/d", 1).shape == (90,)


# Files that another program writes

WRITER = """
import sys, h5py
file = h5py.File(sys.argv[1], "r+" if sys.argv[2] == "old" else "w", libver=None if sys.argv[2] == "old" else "latest")
if sys.argv[2] != "old":
    file["d"] = [1.0, 2.0]
if sys.argv[2] == "swmr":
    file.swmr_mode = True
file.flush()
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def writing(path: Path, how: str) -> Iterator[None]:
    """Have another process hold ``path`` open for writing."""
    command = [sys.executable, "-c", WRITER, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"open\n"
        yield
        process.stdin.close()


@pytest.mark.parametrize(
    ("how", "reason"), [("old", "has locked it"), ("new", "has locked it"), ("swmr", "is writing it")]
)
def test_files_that_are_being_written_are_refused(tmp_path, how, reason):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["d"] = [1.0, 2.0]
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["d"] = h5py.ExternalLink("x.h5", "/d")
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource(str(path), "d", (2,))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("d", layout)
    with writing(path, how):
        for name in ("x.h5", "master.h5", "virtual.h5"):
            said = refusal(f"{tmp_path}/{name}:/d")
            assert f"{path}: another program {reason}" in said
    for name in ("x.h5", "master.h5", "virtual.h5"):
        assert total(f"{tmp_path}/{name}:/d") == 3


def test_the_user_can_have_locks_ignored(hpcmpi, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["d"] = [1.0, 2.0]
    with writing(tmp_path / "x.h5", "old"):
        run = hpcmpi(0, "reduce", "--input", "x.h5", "--no-output")
        assert run.returncode == 65
        assert "another program has locked it" in run.stderr
        run = hpcmpi(0, "reduce", "--input", "x.h5", "--no-output", HDF5_USE_FILE_LOCKING="FALSE")
        assert "sum = 3.0" in run.stdout


def test_a_file_system_without_locks_is_read_with_a_warning(hpcmpi, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["d"] = [1.0, 2.0]
    run = hpcmpi(2, "reduce", "--input", "x.h5", "--no-output", program=(RUN,), FAULTS="locks=none")
    assert "sum = 3.0" in run.stdout
    warnings = [line for line in messages(run.stderr) if "lock" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("hpcmpi: warning: x.h5: its file system cannot lock files: if another program")


# Types


def typed(path: Path, kind: h5py.h5t.TypeID, numbers: NDArray) -> str:
    """A dataset whose type in the file is ``kind``."""
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(numbers.shape)
        h5py.h5d.create(file.id, b"d", kind, space).write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(numbers))
        file["pad"] = np.full(1000, 77.0)
    return f"{path}:/d"


def integer(size: int, precision: int, offset: int, order: int = h5py.h5t.ORDER_LE) -> h5py.h5t.TypeID:
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_size(size)
    kind.set_order(order)
    kind.set_precision(precision)
    kind.set_offset(offset)
    return kind


def floating(size: int, fields: tuple[int, int, int, int, int], bias: int) -> h5py.h5t.TypeID:
    kind = h5py.h5t.IEEE_F32LE.copy()
    if size > 4:
        kind.set_size(size)
    kind.set_fields(*fields)
    kind.set_ebias(bias)
    kind.set_precision(fields[0] + 1)
    kind.set_size(size)
    return kind


def imaginary_first() -> h5py.h5t.TypeID:
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
    kind.insert(b"r", 8, h5py.h5t.IEEE_F64LE)
    kind.insert(b"i", 0, h5py.h5t.IEEE_F64LE)
    return kind


WHOLE = np.arange(-60, 60).reshape(12, 10) * 100
TYPES = {
    "24 bits in 32": (integer(4, 24, 0), WHOLE.astype("i4")),
    "24 bits at an offset": (integer(4, 24, 8), WHOLE.astype("i4")),
    "16 bits at an offset": (integer(4, 16, 12), WHOLE.astype("i4")),
    "24 bits, big-endian": (integer(4, 24, 4, h5py.h5t.ORDER_BE), WHOLE.astype("i4")),
    "20-bit floats": (floating(4, (19, 11, 8, 0, 11), 127), WHOLE.astype("f4") / 128),
    "bfloat16": (floating(2, (15, 7, 8, 0, 7), 127), np.arange(-60, 60).reshape(12, 10).astype("f4")),
    "FP8 E4M3": (floating(1, (7, 3, 4, 0, 3), 7), (np.arange(120).reshape(12, 10) % 15).astype("f4")),
    "another bias": (floating(4, (31, 23, 8, 0, 23), 100), WHOLE.astype("f4")),
    "imaginary first": (imaginary_first(), WHOLE + 1j),
    "as NumPy's": (h5py.h5t.IEEE_F64LE, WHOLE * 1.5),
    "big-endian": (h5py.h5t.IEEE_F64BE, WHOLE * 1.5),
}


@pytest.mark.parametrize(("kind", "numbers"), TYPES.values(), ids=TYPES)
def test_numbers_of_any_layout_in_the_file_are_read_right(tmp_path, kind, numbers):
    source = inspect(typed(tmp_path / "x.h5", kind, numbers), 2)
    part = Range(2, 11), Range(3, 10)
    for dtype in (source.dtype.newbyteorder("="), "c16" if numbers.dtype.kind == "c" else "f8"):
        found = source.read_alone(part, dtype)
        np.testing.assert_array_equal(found, numbers[2:11, 3:10].astype(dtype))


@pytest.mark.parametrize("name", ["as NumPy's", "big-endian"])
def test_numbers_of_numpys_layout_are_read_by_their_bytes(tmp_path, name):
    assert inspect(typed(tmp_path / "x.h5", *TYPES[name]), 2).offset is not None


def test_a_product_out_of_core_of_numbers_of_24_bits(hpcmpi, tmp_path):
    typed(tmp_path / "x.h5", *TYPES["24 bits at an offset"])
    argv = ("matmul", "--a", "x.h5:/d", "--transpose-a", "--b", "x.h5:/d", "--dtype", "float64", "--memory", "1MiB")
    run = hpcmpi(2, *argv, "-o", "C.h5")
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "C.h5") as file:
        np.testing.assert_array_equal(file["matmul/C"][...], (WHOLE.T @ WHOLE).astype("f8"))


def odd_types(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["words"] = ["a", "b"]
        file["fixed"] = np.array([b"ab", b"c"])
        file["opaque"] = np.array([b"abc", b"d"], "V3")
        file["reference"] = np.array([file.ref], h5py.ref_dtype)
        file.create_dataset("ragged", (2,), h5py.vlen_dtype("i4"))
        file.create_dataset("pairs", (2,), np.dtype(("f8", (3,))))
        file["table"] = np.zeros(3, [("x", "f8"), ("y", "i4")])
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, space)
        h5py.h5d.create(file.id, b"three", integer(3, 24, 0), space)


def test_types_that_are_no_numbers_are_called_what_they_are(tmp_path, hpcmpi):
    odd_types(tmp_path / "x.h5")
    for name, found in {
        "words": "variable-length strings",
        "reference": "references",
        "ragged": "variable-length lists of int32",
        "time": "elements of HDF5's class time of 4 bytes, for which NumPy has no type",
        "three": "elements of HDF5's class integer of 3 bytes, for which NumPy has no type",
    }.items():
        assert refusal(f"{tmp_path}/x.h5:/{name}").endswith(f"x.h5:/{name}: holds {found}; numbers are expected")
    assert inspect(f"{tmp_path}/x.h5:/opaque", 1).holds == "opaque elements of 3 bytes"
    assert inspect(f"{tmp_path}/x.h5:/table", 1).holds == "compound elements (x, y)"
    run = hpcmpi(0, "sort", "--input", "x.h5:/opaque", "--no-output")
    assert (run.returncode, "holds opaque elements of 3 bytes; keys are" in run.stderr) == (65, True)
    run = hpcmpi(0, "reduce", "--input", "x.h5:/table", "--no-output")
    assert (run.returncode, "x.h5:/table: holds compound elements (x, y)" in run.stderr) == (65, True)


# Names and listings


def test_names_with_colons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pv.h5", "run:1.h5"):
        with h5py.File(name, "w") as file:
            file["BL22:det1:counts"] = np.ones(4)
            file["BL22:/x"] = np.full(4, 2.0)
    Path("run:").mkdir()
    Path("run:1.h5").rename("run:/1.h5")
    for file in ("pv.h5", "run:/1.h5"):
        assert split_dataset(file) == (Path(file), "")
        assert total(f"{file}:/BL22:det1:counts") == 4
        assert total(f"{file}:/BL22:/x") == 8
    assert refusal("pv.h5:BL22:det1:counts").endswith("a dataset is named pv.h5:/BL22:det1:counts")
    assert split_dataset("gone.h5:/a:/b") == (Path("gone.h5"), "/a:/b")
    assert "gone.h5: no such file" in refusal("gone.h5:/a:/b")


def test_links_count_in_listings_once_for_each_array(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts()
    with h5py.File("x.h5", "w") as file:
        file["b"] = h5py.ExternalLink("part1.h5", "/data")
        file["a"] = h5py.SoftLink("/b")
        file["gone"] = h5py.ExternalLink("not_here.h5", "/x")
    assert total("x.h5") == 20
    with h5py.File("x.h5", "r+") as file:
        file["group"] = h5py.ExternalLink("part2.h5", "/")
        file["group2"] = h5py.SoftLink("/")  # in a circle
    assert refusal("x.h5") == (
        "x.h5: name one dataset as x.h5:/DATASET; there are: /a (10,), /group/data (10,); cannot be opened: /gone"
    )


def test_listings_are_cut_and_ask_for_a_name_only_where_it_helps(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(157):
            file[f"n{number:03}"] = np.ones(2)
    assert refusal(f"{tmp_path}/x.h5").endswith("/n018 (2,), /n019 (2,), ... and 137 more")
    assert refusal(f"{tmp_path}/x.h5:/m").endswith("/n018 (2,), /n019 (2,), ... and 137 more")
    odd_types(tmp_path / "y.h5")
    said = refusal(f"{tmp_path}/y.h5")
    assert "holds no dataset of numbers; there are: /fixed (2,)" in said
    assert "name one" not in said
    with h5py.File(tmp_path / "z.h5", "w"):
        pass
    assert refusal(f"{tmp_path}/z.h5").endswith("holds no dataset of numbers; there are: none")


def test_an_object_that_cannot_be_opened_spoils_no_other(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["bad"] = np.arange(3)
        place = h5py.h5o.get_info(file["bad"].id).addr
        file["good"] = np.arange(5.0)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 16)
    assert total(f"{path}:/good") == 10
    assert total(str(path)) == 10
    assert "x.h5:/bad: cannot be opened" in refusal(f"{path}:/bad")


def test_missing_filters_are_named_with_the_package_that_has_them(tmp_path, monkeypatch):
    def filtered(number: int) -> str:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((4,))
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        with h5py.File(tmp_path / "x.h5", "w") as file:
            h5py.h5d.create(file.id, b"d", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((8,)), dcpl=properties)
        return f"{tmp_path}/x.h5:/d"

    available = h5py.h5z.filter_avail
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number < 300 and available(number))
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    for number, name in ((32008, "bitshuffle"), (32001, "blosc"), (32004, "lz4"), (32015, "zstd"), (307, "bzip2")):
        assert refusal(filtered(number)).endswith(
            f"x.h5:/d: is compressed by {name} (HDF5 filter {number}), which the package hdf5plugin provides: "
            "pip install hdf5plugin"
        )
    assert "is compressed by HDF5 filter 32019, which is not available" in refusal(filtered(32019))


def test_filters_are_those_that_hdf5plugin_has():
    import hdf5plugin

    from hpcmpi.store.hdf5 import _PLUGINS

    assert {about.filter_id for about in hdf5plugin.get_filters()} <= set(_PLUGINS)


# .npz


@pytest.mark.parametrize("header", [b"{'descr': '<f8', 'fortran_order': ", b"\xff\xfe\xfd", b"{" * 200, b""])
def test_a_damaged_npy_header_in_npz(hpcmpi, tmp_path, header):
    array = BytesIO()
    np.save(array, np.ones(4))
    raw = array.getvalue()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("d.npy", raw[:10] + header.ljust(len(raw) - 42)[: len(raw) - 42] + raw[-32:])
        archive.writestr("whole.npy", raw)
    run = hpcmpi(0, "reduce", "--input", "x.npz:/d", "--no-output")
    assert (run.returncode, "x.npz:/d: damaged .npy header" in run.stderr) == (65, True), run.stderr
    assert "Traceback" not in run.stderr
    assert total(f"{tmp_path}/x.npz:/whole") == 4
    assert "damaged .npy header" in refusal(f"{tmp_path}/x.npz")


def test_no_message_suggests_an_option_that_does_not_exist(hpcmpi, tmp_path):
    np.save(tmp_path / "u8.npy", np.array([2**64 - 1, 1], "u8"))
    run = hpcmpi(0, "reduce", "--input", "u8.npy", "--no-output")
    assert run.returncode == 65
    assert "which uint64 cannot hold: convert the input to float64 first" in run.stderr
