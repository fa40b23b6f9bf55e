"""Reduce an array of any dimensions: sums exact and correctly rounded.

Sums, means, norms and variances are computed without any rounding and rounded once at the end, so they are the same
bits on any number of ranks and threads. Several operations share one pass over the data. The array is read from a
file, at once or block by block where it does not fit into memory, or generated from --seed. Results follow NumPy: its
names, dtypes, and what it makes of NaN and infinities; a sum of integers that 64 bits cannot hold is refused.

\b
Examples:
  mpirun -n 2 hpcmpi reduce --n 1e8
  mpirun -n 4 hpcmpi reduce --input X.h5:/data --op mean,std,min,max --axis 0 -o moments.h5
  mpirun -n 4 hpcmpi reduce --input huge.npy --op histogram --bins 100 --range -1,1 --method stream -o counts.h5
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpcmpi.record import Example, count, option, seed, size_in_bytes

PUBLIC = {"reduce": "library", "dot": "library", "norm": "library", "sum": "library"}
OPERATIONS = (
    "sum",
    "prod",
    "min",
    "max",
    "argmin",
    "argmax",
    "mean",
    "var",
    "std",
    "norm",
    "any",
    "all",
    "count-nonzero",
    "histogram",
)
DTYPES = ("float32", "float64", "complex64", "complex128")
NAN_POLICIES = ("propagate", "omit", "raise")
METHODS = ("auto", "memory", "stream")
LIMIT = 2**63  # indices are int64


def operations(text: str) -> tuple[str, ...]:
    """Names of operations from ``sum,max``; ValueError for a name that is none, and for none at all."""
    names = tuple(name.strip().replace("_", "-") for name in text.split(",") if name.strip())
    for name in names:
        if name not in OPERATIONS:
            raise ValueError(f"{name!r} is none of {', '.join(OPERATIONS)}")
    if not names:
        raise ValueError(f"{text!r} names no operation")
    return names


def interval(text: str) -> tuple[float, float]:
    """Two numbers, the first the lesser, from ``-1,1``; ValueError for anything else."""
    low, comma, high = text.partition(",")
    try:
        low_high = float(low), float(high)
    except ValueError:
        raise ValueError(f"{text!r} is not a range such as -1,1") from None
    if not (comma and float("-inf") < low_high[0] <= low_high[1] < float("inf")):
        raise ValueError(f"{text!r} is not a range of two finite numbers, the first the lesser")
    return low_high


def extents(text: str) -> tuple[int, ...]:
    """Shape of an array from ``1000,2^10``; ValueError for anything else."""
    shape = tuple(count(part) for part in text.split(","))
    if max(*shape, math.prod(shape)) >= LIMIT:
        raise ValueError(f"{text!r} is an array of 2^63 elements or more, which no index reaches")
    return shape


def number_text(text: str) -> str:
    """``text`` if it is a number, which only the array's dtype gives a type; ValueError for anything else."""
    try:
        complex(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    return text.strip()


def dimensions(text: str) -> tuple[int, ...]:
    """Dimensions from ``0`` or ``0,-1``; ValueError for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no dimension, nor several such as 0,1") from None


EXAMPLES = (
    Example("--n 1000 --op sum,var,argmax,histogram", same=("sum", "var", "argmax", "histogram"), aside=True),
    Example("--n 20,30 --axis 0 --op mean,max --dtype float32 --method stream --block 1000", same=("mean", "max")),
    Example("--n 500 --op sum --fast", close={"sum": 1e-13}, aside=True),
)


@dataclass(frozen=True)
class Params:
    """Options of ``hpcmpi reduce``.

    ``n`` and ``dtype`` are those of the file's array, once its header has been read.
    """

    input: str | None = option(None, "Array to reduce; generated where not given.", metavar="FILE[:/DATASET]")
    n: tuple[int, ...] | None = option(
        None, "Length of the generated array, or its shape.", parse=extents, metavar="N[,N...]"
    )
    op: tuple[str, ...] = option(
        (), f"Operations, by default sum: {', '.join(OPERATIONS)}. Several at once.", parse=operations,
        metavar="NAME[,NAME...]",
    )  # fmt: skip
    axis: tuple[int, ...] | None = option(
        None, "Reduce along these dimensions only; negative ones count from the last.", parse=dimensions,
        metavar="AXIS[,AXIS...]",
    )  # fmt: skip
    ddof: int = option(0, "Variances divide by the number of elements less this.", parse=int)
    bins: int = option(10, "Bins of the histogram.", parse=count)
    range: tuple[float, float] | None = option(
        None,
        "Range of the histogram, by default that of the data, which takes a pass over it.",
        parse=interval,
        metavar="LOW,HIGH",
    )
    fast: bool = option(
        False, "Plain vectorised sums, rounded at every step; not of integers, nor variances along an axis."
    )
    fill_value: str | None = option(
        None, "Leave out elements equal to this, as _FillValue says of netCDF's; as stored, before any scaling.",
        parse=number_text, metavar="VALUE",
    )  # fmt: skip
    nan_policy: str = option(
        "propagate", "NaN: propagate as NumPy does, omit (leave it out), or raise (refuse it).", choices=NAN_POLICIES
    )
    dtype: str | None = option(None, "Type of a generated array, by default float64.", choices=DTYPES)
    method: str = option(
        "auto", "memory: read, then reduce; stream: reduce block by block while reading; auto: memory if it fits.",
        choices=METHODS,
    )  # fmt: skip
    block: int = option(64 << 20, "Bytes of the array that a rank holds at once with stream.", parse=size_in_bytes)
    seed: int = option(1, "Seed of a generated array.", parse=seed)

    def __post_init__(self) -> None:
        """Flatten the operations; refuse what is incomplete or contradicts itself, with ValueError."""
        names = (name for given in self.op for name in ((given,) if isinstance(given, str) else given))
        object.__setattr__(self, "op", tuple(dict.fromkeys(names)) or ("sum",))
        if self.input is None and self.n is None:
            raise ValueError("what to reduce? Give --n, or a file with --input")
        if self.bins < 1:
            raise ValueError("--bins: a histogram has at least one bin")
        if self.block < 1:
            raise ValueError("--block: at least one byte is read at once")
        if self.ddof < 0:
            raise ValueError("--ddof must not be negative")
        if self.axis is not None and "histogram" in self.op:
            raise ValueError("a histogram is of the whole array: leave --axis out")
