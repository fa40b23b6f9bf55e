"""Keys dealt out to classes a block at a time: by compression where the processor can, else by scattering."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.sort.kernels import CHUNK, partition_by_compression, partition_by_scattering
from hpcmpi.algorithms.sort.keys import Codec
from hpcmpi.simd import has_avx512

PADDING = 64
"""Elements that must follow those of a class: compression writes 64 bytes at a time."""

_MOST_COMPRESSED = 24  # classes, up to which compressing for each is faster than finding each key's class


class Partitioner:
    """Room for the classes of one block of at most ``longest`` keys."""

    def __init__(self, codec: Codec, classes: int, longest: int, *, portable: bool = False) -> None:
        self._codec = codec
        self._begin, self._count = np.zeros((2, classes), np.int64)
        self._slots: list[int] = []
        self._compress = not portable and has_avx512() and classes <= _MOST_COMPRESSED and codec.image.itemsize >= 4
        if self._compress:
            self._begin[:] = np.arange(classes) * (longest + PADDING)
            self._staging = np.empty(classes * (longest + PADDING), codec.image)
            self._scratch = np.empty(CHUNK, codec.image)
        else:
            self._staging, self._scratch = np.empty((2, longest), codec.image)
            self._ids = np.empty(longest, np.int32)

    def partition(
        self, raw: NDArray[Any], start: int, stop: int, low: NDArray[Any], high: NDArray[Any],
        own: int, out: NDArray[Any], at: int,
    ) -> int:  # fmt: skip
        """Deal out ``raw[start:stop]``: class ``own`` to ``out[at:]``, the others to :meth:`parts`; see the kernels.

        Returns where ``out`` goes on. A class of which ``low`` is above ``high`` gets no keys.
        """
        some = np.flatnonzero(low <= high)  # those without keys would break the order in which classes are searched
        self._slots = some.tolist()
        if not self._slots:
            return at
        arguments = (
            raw, start, stop, *self._codec.constants, low[some], high[some],
            self._slots.index(own) if own in self._slots else -1, out, at,
            self._staging, self._begin, self._count[: some.size], self._scratch,
        )  # fmt: skip
        if self._compress:
            return int(partition_by_compression(*arguments))
        return int(partition_by_scattering(*arguments, self._ids))

    def parts(self) -> list[NDArray[Any]]:
        """The images of each class of the last block, in place until the next; of class ``own``, none."""
        parts = [self._staging[:0]] * self._count.size
        for slot, c in enumerate(self._slots):
            begin = int(self._begin[slot])
            parts[c] = self._staging[begin : begin + int(self._count[slot])]
        return parts
