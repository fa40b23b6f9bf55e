"""The sort benchmark's generator and validator, for the user: gensort and valsort on arrays dealt to the ranks."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike, NDArray

from hpcmpi.algorithms.sort import KEY_BYTES, records
from hpcmpi.arrays import plain_array
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError
from hpcmpi.partition import block


def gensort(comm: MPI.Comm, n: int) -> NDArray[np.uint8]:
    """This rank's block of the first ``n`` records of the sort benchmark, in the order of gensort: (n_local, 100)."""
    if n < 0:
        raise InputError(f"{n} records: 0 or more are expected")
    return records.gensort(block(n, comm.size, comm.rank))


def valsort(
    comm: MPI.Comm, found: ArrayLike, *, key_bytes: int = KEY_BYTES, descending: bool = False
) -> records.Validation:
    """Validate sorted records as valsort does, the same on all ranks; ``lines`` of the result is what it prints.

    ``found`` is this rank's (n_local, length) uint8, ``key_bytes`` of each its key. Tells the number of records, the
    sum of their crc32, neighbours whose keys are equal, and those out of order. Raises InputError on all ranks.
    """
    with agreement(comm):
        local = np.ascontiguousarray(plain_array(found, "the array of records"))
        if local.dtype != np.uint8 or local.ndim != 2 or not 1 <= key_bytes <= local.shape[1]:
            raise InputError(
                f"records have shape {local.shape} and dtype {local.dtype}; (n, length) uint8 are expected, of which "
                f"{key_bytes} bytes are the key"
            )
    return records.valsort(comm, local, key_bytes, descending=descending)
