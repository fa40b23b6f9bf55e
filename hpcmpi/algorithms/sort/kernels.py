"""Images of keys, partition by splitters, checksums: arrays in, arrays out.

Raw keys and images are signed integers of the keys' width; ``magnitude, infinity, flip, nan`` are those of
:class:`keys.Codec`. Classes are intervals of images, ``low[c]`` to ``high[c]``, both inclusive, disjoint and ascending.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.jit import kernel
from hpcmpi.simd import compress_between

CHUNK = 512
"""Images that are made at a time: they stay in the first-level cache."""

_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # odd; without it, zeros would count for nothing
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@kernel()
def to_images(raw: Any, images: Any, magnitude: Any, infinity: Any, flip: Any, nan: Any) -> Any:
    """Fill ``images`` with those of ``raw``."""
    top = 8 * raw.itemsize - 1
    most = ~(np.int64(-1) << top)
    for i in range(raw.size):
        x = raw[i]
        image = x ^ ((x >> top) & magnitude) ^ flip
        images[i] = nan if (x & most) > infinity else image


@kernel()
def partition_by_compression(
    raw: Any,
    start: Any,
    stop: Any,
    magnitude: Any,
    infinity: Any,
    flip: Any,
    nan: Any,
    low: Any,
    high: Any,
    own: Any,
    out: Any,
    at: Any,
    staging: Any,
    begin: Any,
    count: Any,
    scratch: Any,
) -> Any:
    """Copy the images of ``raw[start:stop]`` apart by their class; those of no class are left out.

    Class ``own`` goes to ``out[at:]``; class c goes to ``staging[begin[c]:]``, and ``count[c]`` tells how many. Both
    need room for 64 bytes more. ``scratch`` has ``CHUNK`` elements. Returns where ``out`` goes on.
    """
    lanes = 64 // raw.itemsize
    count[:] = 0
    for i in range(start, stop, CHUNK):
        m = min(CHUNK, stop - i)
        to_images(raw[i : i + m], scratch, magnitude, infinity, flip, nan)
        whole = m // lanes * lanes
        for c in range(low.size):
            target = out if c == own else staging
            first = at if c == own else begin[c] + count[c]
            to, least, most = first, low[c], high[c]
            for j in range(0, whole, lanes):
                to += compress_between(scratch, j, target, to, least, most)  # type: ignore[call-arg]
            for j in range(whole, m):
                target[to] = scratch[j]
                to += least <= scratch[j] <= most
            if c == own:
                at = to
            else:
                count[c] += to - first
    return at


@kernel()
def partition_by_scattering(
    raw: Any,
    start: Any,
    stop: Any,
    magnitude: Any,
    infinity: Any,
    flip: Any,
    nan: Any,
    low: Any,
    high: Any,
    own: Any,
    out: Any,
    at: Any,
    staging: Any,
    begin: Any,
    count: Any,
    scratch: Any,
    ids: Any,
) -> Any:
    """As :func:`partition_by_compression`, on any processor and for many classes; ``begin`` is filled, not given.

    ``scratch`` and ``ids`` have room for ``stop - start`` elements. First all classes are found, without a branch that
    depends on a key, and counted.
    """
    m = stop - start
    count[:] = 0
    to_images(raw[start:stop], scratch, magnitude, infinity, flip, nan)
    for j in range(m):
        x, c, left = scratch[j], 0, low.size
        while left > 1:
            half = left // 2
            c += half * (low[c + half] <= x)
            left -= half
        inside = low[c] <= x <= high[c]
        ids[j] = c if inside else -1
        count[c] += inside
    total = 0
    for c in range(low.size):
        begin[c] = total
        if c != own:
            total += count[c]
        count[c] = 0
    for j in range(m):
        c = ids[j]
        if c < 0:
            continue
        if c == own:
            out[at] = scratch[j]
            at += 1
        else:
            staging[begin[c] + count[c]] = scratch[j]
            count[c] += 1
    return at


@kernel()
def count_classes(
    raw: Any, magnitude: Any, infinity: Any, flip: Any, nan: Any, low: Any, count: Any, scratch: Any
) -> Any:
    """Set ``count[c]`` to the images of ``raw`` that are at least ``low[c]``; ``scratch`` has ``CHUNK`` elements."""
    count[:] = 0
    for i in range(0, raw.size, CHUNK):
        m = min(CHUNK, raw.size - i)
        to_images(raw[i : i + m], scratch, magnitude, infinity, flip, nan)
        for c in range(low.size):
            least, n = low[c], 0
            for j in range(m):
                n += scratch[j] >= least
            count[c] += n


@kernel()
def checksum(images: Any) -> Any:
    """Sum, modulo 2^64, of the images, each mixed as SplitMix64 mixes its counter: the same in any order."""
    total = np.uint64(0)
    for i in range(images.size):
        z = np.uint64(images[i]) + _GAMMA
        z = (z ^ (z >> _S30)) * _MIX_1
        z = (z ^ (z >> _S27)) * _MIX_2
        total += z ^ (z >> _S31)
    return total
