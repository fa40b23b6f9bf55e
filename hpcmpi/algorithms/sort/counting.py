"""Keys of one or two bytes: they are counted, not moved (counting sort, Seward 1954).

Every rank counts each of the at most 65,536 images, one Allreduce adds the counts up, and every rank writes its block
of the result from them. What crosses the network does not depend on the number of keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.sort.keys import Codec
from hpcmpi.comm import allreduce
from hpcmpi.partition import Range, block, pieces

_STRIP = 1 << 18  # keys counted at a time: NumPy counts words of eight bytes


def counting(comm: MPI.Comm, raw: NDArray[Any], codec: Codec) -> NDArray[Any]:
    """This rank's block of the sorted images of all ranks' ``raw`` keys."""
    least = np.iinfo(codec.image).min
    counts = np.zeros(1 << (8 * codec.image.itemsize), np.int64)
    for part in pieces(Range(0, raw.size), _STRIP):
        images = codec.encode(raw[part.slice].view(codec.dtype))
        counts += np.bincount(images.astype(np.int64) - least, minlength=counts.size)
    ends = np.cumsum(allreduce(comm, counts))
    mine = block(int(ends[-1]), comm.size, comm.rank)
    own = np.diff(np.clip(ends, mine.start, mine.stop), prepend=mine.start)
    return np.repeat(np.arange(least, least + counts.size).astype(codec.image), own)
