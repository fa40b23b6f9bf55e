#!/usr/bin/env bash
# Parts of an HDF5 dataset that are missing read as numbers, without an error.
#
# Versions: h5py 3.16.0 (its wheel brings HDF5 2.0.0), NumPy 2.4.6.
#
# Most expect: reading an array of which a part is missing fails, as reading a truncated file does.
# What happens:
#   1. A virtual dataset whose source file has been moved away reads as its fill value there.
#   2. A virtual dataset of numbered sources (part%b.h5) ends before the first gap: of parts 0, 1, 3 it shows two, and
#      the shape alone tells.
#   3. A dataset in an external raw file that is too short reads as zeros behind its end. (A raw file that does not
#      exist raises OSError.)
# Why it matters: a run of a detector is often one virtual dataset over many files. Copy all files but one, and its sum
# and mean are finite, plausible and wrong. Whoever reads such data must look up the sources.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check h5py==3.16.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import os

import h5py
import numpy as np

print(f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}, NumPy {np.__version__}")
for number in range(4):
    with h5py.File(f"part{number}.h5", "w") as file:
        file["data"] = np.full(10, number + 1.0)

layout = h5py.VirtualLayout((4, 10), "f8")
for number in range(4):
    layout[number] = h5py.VirtualSource(f"part{number}.h5", "data", (10,))
with h5py.File("named.h5", "w") as file:
    file.create_virtual_dataset("run", layout)

unlimited = h5py.h5s.UNLIMITED
with h5py.File("numbered.h5", "w") as file:
    places = h5py.h5s.create_simple((40,), (unlimited,))
    places.select_hyperslab((0,), (unlimited,), (10,), (10,))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_virtual(places, b"part%b.h5", b"data", h5py.h5s.create_simple((10,)))
    space = h5py.h5s.create_simple((40,), (unlimited,))
    h5py.h5d.create(file.id, b"run", h5py.h5t.IEEE_F64LE, space, dcpl=properties)

np.ones(40).tofile("raw.bin")
with h5py.File("external.h5", "w") as file:
    file.create_dataset("run", (40,), "f8", external=[("raw.bin", 0, 320)])


def look(name):
    with h5py.File(name) as file:
        run = file["run"][...]
    return run.shape, float(run.sum())


def expect(found, expected, text):
    print(f"{text}: shape {found[0]}, sum {found[1]}")
    if found != expected:
        raise SystemExit(f"the behaviour has changed: {expected} was seen before")


expect(look("named.h5"), ((4, 10), 100.0), "virtual dataset, whole")
expect(look("numbered.h5"), ((40,), 100.0), "virtual dataset of numbered sources, whole")
expect(look("external.h5"), ((40,), 40.0), "external raw file, whole")
os.rename("part2.h5", "moved.h5")
expect(look("named.h5"), ((4, 10), 70.0), "virtual dataset, part2.h5 missing")
expect(look("numbered.h5"), ((20,), 30.0), "virtual dataset of numbered sources, part2.h5 missing")
os.truncate("raw.bin", 160)
expect(look("external.h5"), ((40,), 20.0), "external raw file, half as long")
os.remove("raw.bin")
try:
    look("external.h5")
except OSError as error:
    print(f"external raw file, missing: OSError: {error}")
else:
    raise SystemExit("the behaviour has changed: a missing raw file raised OSError before")
PYTHON
