"""Fixed-length records of bytes: their keys as words, and the sort benchmark's generator and validator.

Generator and validator are those of sortbenchmark.org's gensort and valsort 1.5 (Nyberg): record i has 100 bytes, made
from number i + 1 of a 128-bit linear congruential sequence; a set of records is told by the sum of their crc32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.records_kernels import generate, sum_crc32
from hpcmpi.partition import Range, pieces

LENGTH = 100
"""Bytes of a generated record."""

_FACTOR, _ADDEND = 0x2360ED051FC65DA44385DF649FCCF645, 0x4A696D47726179524950202020202001
_MODULUS = 1 << 128
_POSITION_BITS = 40  # a word with so many bits to spare takes the position too
_TOP = np.uint64(1 << 63)
_STRIP_BYTES = 4 << 20  # of records that are validated at a time


def gensort(part: Range) -> NDArray[np.uint8]:
    """Records ``part`` of the benchmark, (part.size, 100)."""
    out = np.empty((part.size, LENGTH), np.uint8)
    state = _ahead(part.start)
    low = np.uint64(state & (2**64 - 1))
    generate(np.uint64(state >> 64), low, np.uint64(part.start), out)
    return out


def _ahead(steps: int) -> int:
    """State of the sequence, which starts at 0, after ``steps`` steps: by squaring."""
    factor, addend, state = _FACTOR, _ADDEND, 0
    while steps:
        if steps & 1:
            state = (factor * state + addend) % _MODULUS
        addend = (factor * addend + addend) % _MODULUS
        factor = factor * factor % _MODULUS
        steps >>= 1
    return state


def _spare(key_bytes: int) -> int:
    """Bits of the last word of a key that the key does not need."""
    return 64 - 8 * (key_bytes % 8 or 8)


def key_words(records: NDArray[np.uint8], key_bytes: int, start: int, *, descending: bool) -> list[NDArray[np.int64]]:
    """Words that order ``records`` (n_local, length) by their first ``key_bytes`` bytes, and equal ones by position.

    ``start`` is the position of the first record. Each word holds eight bytes, the first one uppermost; the last has
    the position in it, where it fits, or else one more word holds it.
    """
    n, words = len(records), []
    for at in range(0, key_bytes, 8):
        width = min(8, key_bytes - at)
        padded = np.zeros((n, 8), np.uint8)
        padded[:, :width] = records[:, at : at + width]
        word = padded.view(">u8")[:, 0].astype(np.uint64)
        words.append(~word if descending else word)
    positions = np.arange(start, start + n, dtype=np.uint64)
    if _spare(key_bytes) >= _POSITION_BITS:
        spare = np.uint64(_spare(key_bytes))
        words[-1] = (words[-1] >> spare << spare) | positions
    else:
        words.append(positions)
    return [(word ^ _TOP).view(np.int64) for word in words]


def positions(last_word: NDArray[np.int64], key_bytes: int) -> NDArray[np.int64]:
    """The positions that the last of :func:`key_words` holds."""
    word = last_word.view(np.uint64) ^ _TOP
    if _spare(key_bytes) >= _POSITION_BITS:
        word &= np.uint64((1 << _spare(key_bytes)) - 1)
    return word.view(np.int64)


def compared(keys: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Of each of ``keys`` (n, width) but the first: 1 if it is above the one before it, -1 if below, 0 if alike."""
    before, after = keys[:-1], keys[1:]
    differs = before != after
    at = np.arange(len(differs)), differs.argmax(axis=1)  # where none differs, the first is as good as any
    return np.asarray((after[at] > before[at]).astype(np.int8) - (after[at] < before[at]))


class Validation(NamedTuple):
    """What valsort tells: records, the sum of their crc32, neighbours of equal keys, pairs that are out of order."""

    records: int
    checksum: int
    duplicates: int
    unordered: int

    def lines(self, records: int | None = None, checksum: int | None = None) -> tuple[str, ...]:
        """As valsort prints it; the last line also tells where these are not the ``records`` with that ``checksum``."""
        records = self.records if records is None else records
        checksum = self.checksum if checksum is None else checksum
        verdict = "SUCCESS - all records are in order"
        if self.unordered:
            verdict = f"there are {self.unordered} unordered records"
        elif (self.records, self.checksum) != (records, checksum):
            verdict = f"ERROR - the input has {records} records and checksum {checksum:x}"
        return (
            f"Records: {self.records}", f"Checksum: {self.checksum:x}", f"Duplicate keys: {self.duplicates}", verdict,
        )  # fmt: skip


def checksum(comm: MPI.Comm, records: NDArray[np.uint8]) -> int:
    """Sum of the crc32 of all ranks' records, any order."""
    return int(sum(comm.allgather(int(sum_crc32(np.ascontiguousarray(records), crc32_table())))))


def crc32_table() -> NDArray[np.uint32]:
    """The table of crc32 by bytes (polynomial 0xEDB88320)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1).astype(np.uint32)
    return table


def valsort(comm: MPI.Comm, records: NDArray[np.uint8], key_bytes: int, *, descending: bool = False) -> Validation:
    """Validate the sorted records of all ranks, by comparing the keys of neighbours byte by byte."""
    keys = records[:, :key_bytes]
    lasts = comm.allgather(np.array(keys[-1:]))
    before = [last for last in lasts[: comm.rank] if len(last)]
    last = before[-1] if before else lasts[0][:0]
    unordered = duplicates = 0
    for part in pieces(Range(0, len(keys)), max(1, _STRIP_BYTES // key_bytes)):
        strip = np.concatenate([last, keys[part.slice]])
        found, last = compared(strip), strip[-1:]
        duplicates += int((found == 0).sum())
        unordered += int((found == (1 if descending else -1)).sum())
    total = collective.allreduce(comm, np.array([len(records), duplicates, unordered]))
    return Validation(int(total[0]), checksum(comm, records), int(total[1]), int(total[2]))
