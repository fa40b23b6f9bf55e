"""Sorting on one rank: images are cut by splitters between threads, and ``np.sort`` does the rest.

``np.sort`` lets go of the interpreter, and so do the kernels: the threads are Python's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.sort.kernels import CHUNK, count_classes
from hpcmpi.algorithms.sort.keys import Codec
from hpcmpi.algorithms.sort.partitioner import Partitioner
from hpcmpi.partition import block

_BLOCK = 1 << 16  # keys partitioned at a time: they and their classes fit in the second-level cache
_FEWEST = 1 << 16  # keys a thread that are worth a thread


def sort_local(raw: NDArray[Any], codec: Codec, out: NDArray[Any], threads: int) -> None:
    """Fill ``out`` with the sorted images of ``raw``, both contiguous and of one size."""
    threads = max(1, min(threads, raw.size // _FEWEST))
    if threads == 1:
        codec.encode(raw.view(codec.dtype), out)
        out.sort()
        return
    # A class a thread: more would even out the threads' work by less than dealing the keys out to them costs.
    classes = threads
    low = _splitters(raw, codec, classes)
    chunks = [raw[block(raw.size, threads, part).slice] for part in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        above = np.array(list(pool.map(lambda chunk: _count(chunk, codec, low), chunks)))
        counts = above - np.append(above[:, 1:], np.zeros((threads, 1), np.int64), axis=1)
        begin = np.cumsum(counts.T).reshape(classes, threads).T - counts
        list(pool.map(lambda t: _scatter(chunks[t], codec, low, begin[t], out), range(threads)))
        ends = np.cumsum(counts.sum(0))
        parts = [out[end - size : end] for end, size in zip(ends, counts.sum(0), strict=True)]
        list(pool.map(np.ndarray.sort, sorted(parts, key=len, reverse=True)))


def _splitters(raw: NDArray[Any], codec: Codec, classes: int) -> NDArray[Any]:
    """Least images of ``classes`` nearly equal classes; the first is below all."""
    sample = np.sort(codec.encode(np.ascontiguousarray(raw[:: max(1, raw.size >> 14)]).view(codec.dtype)))
    low = sample[np.arange(classes) * sample.size // classes]
    low[0] = np.iinfo(low.dtype).min
    return low


def _count(chunk: NDArray[Any], codec: Codec, low: NDArray[Any]) -> NDArray[np.int64]:
    count = np.empty(low.size, np.int64)
    count_classes(chunk, *codec.constants, low, count, np.empty(CHUNK, codec.image))
    return count


def _scatter(chunk: NDArray[Any], codec: Codec, low: NDArray[Any], begin: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copy the images of ``chunk`` to ``out``, those of class c from ``begin[c]`` on."""
    most, nothing = np.iinfo(low.dtype).max, np.empty(0, low.dtype)
    empty = np.append(low[1:] == low[:-1], False)
    high = np.where(empty, np.iinfo(low.dtype).min, np.append(low[1:] - low.dtype.type(1), most))
    low = np.where(empty, most, low)
    partitioner = Partitioner(codec, low.size, _BLOCK)
    place = begin.tolist()
    for at in range(0, chunk.size, _BLOCK):
        partitioner.partition(chunk, at, min(at + _BLOCK, chunk.size), low, high, -1, nothing, 0)
        for c, part in enumerate(partitioner.parts()):
            out[place[c] : place[c] + part.size] = part
            place[c] += part.size
