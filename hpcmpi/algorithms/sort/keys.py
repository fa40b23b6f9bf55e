"""Keys as integers that sort alike: the *images* that all methods work on.

An image is a signed integer of the key's own width. In ascending order:

* of a signed integer or a boolean, it is the key; of an unsigned one, the key with its top bit flipped;
* of a float, it is the bits, those but the sign flipped where the sign is set. So -0.0 comes just before +0.0, and
  every NaN has the image of the one quiet NaN, which is above that of infinity.

In descending order it is the complement, except that NaN stays last. Two keys have one image only if they are the same
key, so that sorted images are the sorted keys, bit for bit, in whatever way they were sorted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcmpi.algorithms.sort.kernels import to_images
from hpcmpi.errors import InputError


class Codec(NamedTuple):
    """How keys of ``dtype`` become images of ``image``: the constants that :func:`kernels.to_images` takes.

    ``magnitude`` masks what is flipped where the sign is set (0: no float), ``infinity`` is the greatest magnitude that
    is a number, ``flip`` is applied last, ``nan`` is the image of every NaN.
    """

    dtype: np.dtype[Any]
    image: np.dtype[Any]
    magnitude: Any
    infinity: Any
    flip: Any
    nan: Any

    @property
    def constants(self) -> tuple[Any, Any, Any, Any]:
        """What the kernels take after the raw keys."""
        return self.magnitude, self.infinity, self.flip, self.nan

    def encode(self, keys: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Images of the contiguous ``keys``, in ``out`` if it is given."""
        images = np.empty(keys.size, self.image) if out is None else out
        to_images(self.raw(keys), images, *self.constants)
        return images

    def raw(self, keys: NDArray[Any]) -> NDArray[Any]:
        """The bits of contiguous ``keys`` as signed integers; no copy."""
        return keys.view(self.image)

    def decode(self, images: NDArray[Any]) -> NDArray[Any]:
        """The keys of sorted ``images``, in the memory of ``images``."""
        kind, least = self.dtype.kind, np.iinfo(self.image).min
        if kind == "f":
            numbers = images[: np.searchsorted(images, self.nan)]
            below = numbers[: np.searchsorted(numbers, 0)]
            if self.flip:
                numbers[below.size :] ^= least
                np.invert(below, out=below)
            else:
                below ^= self.magnitude
            images[numbers.size :] = np.array(np.nan, self.dtype).view(self.image)
        elif self.flip:
            images ^= self.flip
        return images.view(self.dtype)


def codec(dtype: DTypeLike, *, descending: bool = False) -> Codec:
    """The codec of booleans, and of integers or floats of 1, 2, 4 or 8 bytes; InputError for others."""
    kind = np.dtype(dtype)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise InputError(f"keys of {kind} cannot be sorted: booleans, integers and floats of at most 8 bytes can")
    image = np.dtype(f"i{kind.itemsize}")
    least, most = (image.type(limit) for limit in (np.iinfo(image).min, np.iinfo(image).max))
    magnitude, infinity, nan = image.type(0), most, image.type(0)
    if kind.kind == "f":
        magnitude = most
        infinity = np.array(np.inf, kind.newbyteorder("=")).view(image)[()]
        nan = np.array(np.nan, kind.newbyteorder("=")).view(image)[()]
    flip = image.type(0 if kind.kind != "u" else least)
    return Codec(kind.newbyteorder("="), image, magnitude, infinity, ~flip if descending else flip, nan)
