#!/usr/bin/env bash
# netCDF4 1.7.5.1 (netCDF-C of its wheel), xarray 2026.9.0, h5netcdf 1.8.2, h5py 3.16.0, numpy 2.4.6
#
# Expected by most: a table that h5py writes as a compound dataset, with a fixed-length string in each row, and boolean
# attributes beside it, is read by netCDF4, and so by xarray's engine "netcdf4", as it was written.
#
# Seen: netCDF4 gives one character of each string and no error, and leaves boolean attributes (an HDF5 enumeration) out
# of the listing. h5netcdf reads both. The same strings as a variable of their own, of variable length, come whole.
#
# Why it matters: names of hosts, stations or samples in tables become "n", "n", "n", in silence, with one of xarray's two
# engines. Tables for these tools should be groups of one-dimensional variables, and flags integers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet netCDF4==1.7.5.1 xarray==2026.9.0 h5netcdf==1.8.2 h5py==3.16.0 numpy==2.4.6
venv/bin/python - <<'PROGRAM'
import h5py
import numpy as np

with h5py.File("table.h5", "w") as file:
    rows = np.array([(b"node-17", 1), (b"node-18", 2)], [("host", "S7"), ("pid", "i8")])
    file["table"] = rows
    file["host"] = ["node-17", "node-18"]
    for name in ("table", "host"):
        file[name].make_scale(name)
    file.attrs["complete"] = True
    file.attrs["attempt"] = 3
PROGRAM
venv/bin/python - <<'PROGRAM'
import netCDF4

with netCDF4.Dataset("table.h5") as file:
    compound = [bytes(np_row).rstrip(b"\0") for np_row in file["table"][:]["host"]]
    whole, attributes = list(file["host"][:]), file.ncattrs()
print("netCDF4: compound", compound, "own variable", whole, "attributes", attributes)
assert all(len(host) < 7 for host in compound), "netCDF4 now reads the whole strings"
assert whole == ["node-17", "node-18"]
assert attributes == ["attempt"], "netCDF4 now lists boolean attributes"
PROGRAM
venv/bin/python - <<'PROGRAM'
import h5netcdf

with h5netcdf.File("table.h5") as file:
    compound, attributes = [bytes(row["host"]) for row in file["table"][...]], sorted(file.attrs)
print("h5netcdf: compound", compound, "attributes", attributes)
assert compound == [b"node-17", b"node-18"]
assert attributes == ["attempt", "complete"]
PROGRAM
