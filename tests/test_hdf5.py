"""What hpcmpi makes of HDF5 files that others wrote: whose attributes count, links, types, missing pieces."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcmpi.errors import InputError
from hpcmpi.store.hdf5 import written_by_hpcmpi
from hpcmpi.store.reader import inspect

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
