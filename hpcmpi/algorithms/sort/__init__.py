"""Sort keys, keys with values, or records, over all ranks.

The keys are read from a file (HDF5, .npz, .npy, or records without a header, each rank only its part) or generated from
--seed; the result is cut into
equal parts, one a rank, and is the same to the bit on any number of ranks. Order and an order-independent checksum are
verified before the run calls itself verified.

\b
Examples:
  mpirun -n 4 hpcmpi sort --n 1e8 -o sorted.h5
  mpirun -n 2 hpcmpi sort --input X.h5:/data --descending -o sorted.h5
  mpirun -n 2 hpcmpi sort --n 1e6 --generate zipf --dtype int64 --argsort -o order.h5
  mpirun -n 2 hpcmpi sort --by T.h5:/time --values T.h5:/x --values T.h5:/y -o by-time.h5
  mpirun -n 2 hpcmpi sort --n 1e6 --records 100 --key-bytes 10 -o records.h5
  mpirun -n 2 hpcmpi sort --input gensort.raw --records 100 -o records.h5
  mpirun -n 2 hpcmpi sort --input sorted.raw --records 100 --validate --no-output
  hpcmpi sort --input big.h5 --memory 2GiB -o sorted.h5
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcmpi.record import Example, count, option, seed, size_in_bytes

PUBLIC = {
    "sort": "library",
    "argsort": "library",
    "sort_by": "library",
    "searchsorted": "library",
    "quantile": "library",
    "unique": "library",
    "gensort": "benchmark",
    "valsort": "benchmark",
}
METHODS = ("sample", "odd-even", "quicksort")
DISTRIBUTIONS = ("uniform", "normal", "zipf", "nearly-sorted", "reverse", "few", "equal", "one-rank")
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")

KEY_BYTES = 10
"""Of a record, unless told: those of sortbenchmark.org."""


EXAMPLES = (
    Example("--n 2000 --generate few --dtype int32", same=("keys",)),
    Example("--n 1000 --argsort --method odd-even", same=("order",)),
    Example("--n 300 --records 100 --method quicksort", same=("records",)),
    Example("--n 20000 --memory 64KiB", same=("keys",), aside=True, stops=True),
)


@dataclass(frozen=True)
class Params:
    """Options of ``hpcmpi sort``. None stands for what the files say."""

    n: int | None = option(None, "Keys or records to generate.", parse=count)
    generate: str | None = option(None, "Distribution of generated keys; else uniform.", choices=DISTRIBUTIONS)
    input: str | None = option(None, "Keys, or with --records records, from a file.", metavar="FILE[:/DATASET]")
    by: str | None = option(None, "Keys to sort the --values by.", metavar="FILE[:/DATASET]")
    values: tuple[str, ...] = option((), "A column to sort; may be given several times.", metavar="FILE[:/DATASET]")
    dtype: str | None = option(None, "Of generated keys (float64), or what those of a file must be.", choices=DTYPES)
    records: int | None = option(None, "Sort records of so many bytes; generated ones have 100.", parse=count)
    key_bytes: int | None = option(None, "Bytes at the start of a record that are its key; else 10.", parse=count)
    validate: bool = option(False, "Do not sort: tell as valsort does whether the records of --input are in order.")
    descending: bool = option(False, "The greatest first; NaN stay last.")
    stable: bool = option(False, "Promise that equal keys stay in their order; they always do.")
    argsort: bool = option(False, "Give the order, int64 positions in the input, in place of keys or records.")
    method: str = option(
        "sample", "sample: one exchange; odd-even: neighbours only; quicksort: halving the ranks.", choices=METHODS
    )
    memory: int | None = option(
        None,
        "Sort in so much memory a rank, 64KiB or more, by runs in --scratch.",
        parse=size_in_bytes,
        metavar="BYTES",
    )
    scratch: str | None = option(None, "Folder for runs; else that for temporary files.", metavar="FOLDER")
    seed: int = option(1, "Seed of generated keys; generated records have none.", parse=seed)

    def __post_init__(self) -> None:
        """Refuse what is incomplete or contradicts itself, with ValueError."""
        given = [name for name in ("n", "input", "by") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("what to sort? Give one of --n, --input and --by")
        if bool(self.values) != (self.by is not None):
            raise ValueError("--by and --values go together: keys, and columns to sort by them")
        if self.n is None and self.generate is not None:
            raise ValueError("--generate goes with --n: the keys of a file are what they are")
        if self.records is None and self.key_bytes is not None:
            raise ValueError("--key-bytes goes with --records")
        if self.records is not None:
            self._check_records(self.records)
        if self.validate and (self.records is None or self.input is None or self.argsort or self.memory is not None):
            raise ValueError("--validate goes with --records and --input, and without --argsort and --memory")
        if self.argsort and self.by:
            raise ValueError("--argsort gives the order of keys; --by sorts columns")
        if self.memory is not None and self.method != "sample":
            raise ValueError("--memory has a method of its own, and goes without --method")
        if self.memory is not None and (self.argsort or self.by):
            raise ValueError("--memory sorts keys and records; it goes without --argsort and --by")
        if self.memory is not None and self.generate == "one-rank":
            raise ValueError("--memory has every rank generate its part; it goes without --generate one-rank")
        if self.memory is None and self.scratch is not None:
            raise ValueError("--scratch goes with --memory")

    def _check_records(self, length: int) -> None:
        if self.by or self.dtype or self.generate not in (None, "uniform", "one-rank"):
            raise ValueError("--records goes with --n or --input, without --dtype; it generates uniform or one-rank")
        if self.n is not None and length != 100:
            raise ValueError(f"generated records have 100 bytes, not {length}")
        key_bytes = KEY_BYTES if self.key_bytes is None else self.key_bytes
        if not 1 <= key_bytes <= length:
            raise ValueError(f"--key-bytes {key_bytes} of records of {length} bytes")


@dataclass(frozen=True)
class Resolved(Params):
    """Params with n and dtype, or n and key_bytes, filled in, and ``width``, the bytes of a row of all columns."""

    width: int = field(default=0, metadata={"derived": True})

    def __post_init__(self) -> None:
        """What is complete needs no check."""
