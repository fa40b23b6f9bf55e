"""A relay between the MPI library and Slurm's PMI server, which cannot read the longest values that it allows.

``srun --mpi=pmi2`` answers MPICH in PMI 1, a line each way. It tells MPICH that a value may have 1024 bytes, but reads
no more than 1023 of a whole request: of a longer one the end is taken for another request. MPICH cuts the addresses
that ranks publish, and the memory that happens to follow them, into values of the length that it was told; how long
they become depends on how well that memory compresses. So some runs print errors of ``mpi/pmi2``, and a few wait in
``MPI_Init`` for ever. The relay tells MPICH of a length that fits, and passes on everything else as it is.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
from collections.abc import Mapping

_LONGEST_VALUE = 512  # bytes; a key has up to 64 and the name of the job's key-value space up to 256


def relay(environ: Mapping[str, str] = os.environ) -> None:
    """Have MPI speak with Slurm through the relay, if srun started this process; to be called before MPI starts.

    The relay is a process, as a thread of this one would not run while MPI starts. It ends with either side.
    """
    number = environ.get("PMI_FD", "")
    if "SLURM_STEP_ID" not in environ or "MPI_LOCALNRANKS" in environ or not number.isdecimal():
        return  # not by srun, or by Hydra in a batch job, or by srun with another interface
    try:
        server = socket.socket(fileno=os.dup(int(number)))
    except OSError:
        return  # closed by a launcher between: MPI itself will say so
    client, ours = socket.socketpair()
    if os.fork() == 0:
        try:
            client.close()
            os.close(int(number))
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # what is meant for the rank
            _pass_on(ours, server)
        finally:
            os._exit(0)
    ours.close()
    server.close()
    os.dup2(client.fileno(), int(number), inheritable=True)
    client.close()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    """Pass on bytes both ways until one side ends."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, server)
        selector.register(server, selectors.EVENT_READ, client)
        while True:
            for ready, _ in selector.select():
                data = ready.fileobj.recv(1 << 16)  # type: ignore[union-attr]  # both are sockets; stubs allow numbers
                if not data:
                    return
                if ready.fileobj is server and data.startswith(b"cmd=maxes "):
                    data = re.sub(rb"vallen_max=(\d+)", _bounded, data)
                ready.data.sendall(data)


def _bounded(found: re.Match[bytes]) -> bytes:
    return b"vallen_max=%d" % min(int(found[1]), _LONGEST_VALUE)
