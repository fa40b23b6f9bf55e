#!/usr/bin/env bash
# mpich 5.0.2 and mpi4py 4.1.2 from PyPI, Linux.
#
# Expected by most: when an MPI job ends by MPI_Abort, which is the orderly way to end all ranks at once, its shared
# memory goes with it.
# What happens: MPICH keeps the name of its segment in /dev/shm until MPI_Finalize, so that every job that aborts leaves
# the segment behind, memory that nobody uses and nobody frees. If a rank removes the name as soon as all ranks are out
# of MPI_Init, the job works as before, MPI_Finalize does not complain, and nothing is left after an abort.
# Why it matters: /dev/shm is memory. A node on which jobs fail often enough runs out of it, and then MPI_Init fails.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q mpich==5.0.2 mpi4py==4.1.2

cat > job.py <<'END'
import os
import sys

from mpi4py import MPI

comm, (remove, how) = MPI.COMM_WORLD, sys.argv[1:]
with open("/proc/self/maps") as maps:
    segments = {line.split()[5] for line in maps if "/dev/shm/mpich_shm_" in line}
comm.Barrier()  # all ranks have mapped it
if comm.rank == 0:
    with open("segments", "w") as file:
        file.write("\n".join(sorted(segments)) + "\n")
    if remove == "yes":
        for path in segments:
            os.unlink(path)
comm.Barrier()
assert comm.allreduce(1) == comm.size
if how == "abort":
    comm.Abort(7)
END

left() { # how many of the job's segments are in /dev/shm after it
  local count=0
  while read -r path; do
    if [ -e "$path" ]; then
      count=$((count + 1))
      rm -f "$path"
    fi
  done < segments
  echo "$count"
}

run() { # REMOVE HOW: prints the exit status and the segments left
  local status=0
  rm -f segments
  venv/bin/mpirun -n 2 venv/bin/python job.py "$1" "$2" > log 2>&1 || status=$?
  [ -s segments ] || { echo "no segment was found in /dev/shm"; cat log; exit 1; }
  echo "$status $(left)"
}

finalized=$(run no finalize)
aborted=$(run no abort)
removed_aborted=$(run yes abort)
removed_finalized=$(run yes finalize)
echo "MPI_Finalize:                        status and segments left: $finalized"
echo "MPI_Abort(7):                        status and segments left: $aborted"
echo "MPI_Abort(7), name removed before:   status and segments left: $removed_aborted"
echo "MPI_Finalize, name removed before:   status and segments left: $removed_finalized"
[ "$finalized" = "0 0" ] && [ "$aborted" = "7 1" ] && [ "$removed_aborted" = "7 0" ] && [ "$removed_finalized" = "0 0" ] \
  || { echo "the behaviour has changed"; exit 1; }
