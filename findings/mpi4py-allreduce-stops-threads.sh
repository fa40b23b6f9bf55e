#!/usr/bin/env bash
# Versions: mpi4py 4.1.2 and mpich 5.0.2 from PyPI, Python 3.11, Linux.
#
# Expected by most: mpi4py releases the interpreter's lock while it waits in MPI, so that other Python threads run: a
# watchdog, a heartbeat, a thread that handles signals.
# What happens: `comm.allreduce(object)` (also reduce, scan and exscan) duplicates the communicator when it is used so for
# the first time, and holds the lock until all ranks have come to it. No other thread of the process runs until then. The
# second reduction on the same communicator releases the lock, and so do bcast, gather and barrier of objects.
# Why it matters: the watchdog is stopped exactly where it is needed, on ranks that wait for one that hangs, but only on
# communicators that are new, so that tests seldom see it. mpi4py.rc.fast_reduce = False, set before MPI is imported,
# avoids it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check mpich==5.0.2 mpi4py==4.1.2
cat > "$work/program.py" <<'END'
import sys
import threading
import time

import mpi4py

mpi4py.rc.fast_reduce = sys.argv[1] == "fast"
from mpi4py import MPI


def ticks(work):
    """Times that a thread wakes up, every 0.05 s, while this rank waits 3 s in ``work`` for the other one."""
    MPI.COMM_WORLD.barrier()
    if MPI.COMM_WORLD.rank == 1:
        time.sleep(3)
    count, done = [0], threading.Event()

    def run():
        while not done.wait(0.05):
            count[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    work()
    done.set()
    thread.join()
    return count[0]


fresh = MPI.COMM_WORLD.Dup()
counts = [ticks(lambda: fresh.bcast(1, 1)), ticks(lambda: fresh.allreduce(1)), ticks(lambda: fresh.allreduce(1))]
if fresh.rank == 1:
    fresh.send(counts, 0)
else:
    fresh.recv(source=1)
    print(*counts)
END
for way in fast plain; do
  "$work/venv/bin/mpirun" -n 2 "$work/venv/bin/python" "$work/program.py" "$way" > "$work/$way"
  echo "$way reductions: wake-ups of a thread during bcast, the first allreduce, the second: $(cat "$work/$way")"
done
read -r bcast first second < "$work/fast"
read -r _ plain _ < "$work/plain"
# On a machine with few free cores all counts are lower than 60, but not 0.
((bcast > 5 && first <= 2 && second > 5 && plain > 5)) || { echo "the behaviour has changed" >&2; exit 1; }
