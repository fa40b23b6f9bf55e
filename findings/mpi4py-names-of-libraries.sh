#!/usr/bin/env bash
# Versions: mpich 5.0.2 and mpi4py 4.1.2 from PyPI, Python 3.11, Linux.
#
# Expected by most: MPI4PY_LIBMPI, which chooses the MPI library, takes the usual name of the library, libmpi.so; and since
# both packages speak of the standard ABI of MPI 5, mpi4py's wheel works with MPICH's libmpi_abi.so.1.
# What happens: libmpi.so of the package is 20 bytes of text for the linker, and mpi4py reports "file too short". With
# libmpi_abi.so.1 the import ends in "cannot import name 'MPI' from 'mpi4py'", since the wheel has extension modules for
# the ABIs of MPICH and of Open MPI only. Of the three only libmpi.so.12 works.
# Why it matters: neither message says what is wrong, and the first names a file that is just where it should be.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check mpich==5.0.2 mpi4py==4.1.2
try() {
  MPI4PY_LIBMPI="$work/venv/lib/$1" "$work/venv/bin/python" -W ignore -c \
    'from mpi4py import MPI; print("loaded, MPI", *MPI.Get_version())' 2>&1 | tail -n 1 || true
}
echo "libmpi.so holds: $(cat "$work/venv/lib/libmpi.so")"
linker=$(try libmpi.so) standard=$(try libmpi_abi.so.1) own=$(try libmpi.so.12)
printf 'libmpi.so:       %s\nlibmpi_abi.so.1: %s\nlibmpi.so.12:    %s\n' "$linker" "$standard" "$own"
[[ $linker == *"file too short"* && $standard == *"cannot import name 'MPI'"* && $own == "loaded, MPI 5 0" ]] ||
  { echo "the behaviour has changed" >&2; exit 1; }
