"""Keys dealt out with their places to many classes, and packed with them: arrays in, arrays out.

Raw keys, images and ``magnitude, infinity, flip, nan`` are as in :mod:`kernels`; an offset is a key's place on its
rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.algorithms.sort.kernels import CHUNK, to_images
from hpcmpi.algorithms.sort.rows_kernels import find_classes
from hpcmpi.jit import kernel


@kernel()
def classify_keys(
    raw: Any,
    magnitude: Any,
    infinity: Any,
    flip: Any,
    nan: Any,
    splitters: Any,
    greatest: Any,
    ids: Any,
    counts: Any,
    images: Any,
    found: Any,
) -> Any:
    """Set ``ids[i]`` to the number of splitters not above key i, at most ``greatest``; count the keys of each class.

    Splitters are images as for :func:`find_classes`. ``images`` and ``found`` have ``CHUNK`` elements.
    """
    for start in range(0, raw.size, CHUNK):
        m = min(CHUNK, raw.size - start)
        to_images(raw[start : start + m], images, magnitude, infinity, flip, nan)
        find_classes(images[:m], splitters, found)
        for i in range(m):
            c = min(found[i], greatest)
            ids[start + i] = c
            counts[c] += 1


@kernel()
def deal_keys(
    raw: Any,
    magnitude: Any,
    infinity: Any,
    flip: Any,
    nan: Any,
    first: Any,
    ids: Any,
    place: Any,
    dealt: Any,
    offsets: Any,
    images: Any,
) -> Any:
    """Write the images of the keys to ``dealt``, and their offsets, of which ``first`` is the first, to ``offsets``.

    Those of class c go from ``place[c]`` on, which moves on. ``images`` has ``CHUNK`` elements.
    """
    for start in range(0, raw.size, CHUNK):
        m = min(CHUNK, raw.size - start)
        to_images(raw[start : start + m], images, magnitude, infinity, flip, nan)
        for i in range(m):
            c = ids[start + i]
            at = place[c]
            dealt[at] = images[i]
            offsets[at] = first + start + i
            place[c] = at + 1


@kernel()
def pack_keys(
    images: Any, offsets: Any, base: Any, least: Any, shift: Any, bits: Any, at: Any, packed: Any, positions: Any
) -> Any:
    """From place ``at`` on, fill ``packed`` with the images less ``least``, shifted right, above their places in the
    low ``bits``, and ``positions`` with ``base`` and the offsets.
    """
    for i in range(images.size):
        prefix = (np.uint64(np.int64(images[i])) - np.uint64(least)) >> shift
        packed[at + i] = (prefix << bits) | np.uint64(at + i)
        positions[at + i] = base + np.int64(offsets[i])
