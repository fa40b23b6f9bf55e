"""The sort benchmark's records, made and summed: arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.jit import kernel

_LOW = np.uint64(0xFFFFFFFF)
_S32, _S60 = np.uint64(32), np.uint64(60)
_FACTOR_HIGH, _FACTOR_LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
_ADDEND_HIGH, _ADDEND_LOW = np.uint64(0x4A696D4772617952), np.uint64(0x4950202020202001)


@kernel()
def _product_high(a: Any, b: Any) -> Any:
    """Upper 64 of the 128 bits of a * b."""
    a0, a1, b0, b1 = a & _LOW, a >> _S32, b & _LOW, b >> _S32
    middle = a1 * b0 + ((a0 * b0) >> _S32)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _S32) + (other >> _S32)


@kernel()
def _hex(digit: Any) -> Any:
    return np.uint8(digit + np.uint64(48 if digit < np.uint64(10) else 55))


@kernel()
def generate(high: Any, low: Any, number: Any, records: Any) -> Any:
    """Fill ``records`` from number ``number`` on; ``high`` and ``low`` are the state before the first.

    A record: the upper 10 bytes of the random number, 00 11, its number in 32 hexadecimal digits, 88 99 AA BB, each of
    the 12 lowest hexadecimal digits of the random number four times, CC DD EE FF.
    """
    for i in range(len(records)):
        upper = _product_high(low, _FACTOR_LOW) + high * _FACTOR_LOW + low * _FACTOR_HIGH + _ADDEND_HIGH
        product = low * _FACTOR_LOW
        low = product + _ADDEND_LOW
        high = upper + np.uint64(low < product)
        record = records[i]
        for j in range(8):
            record[j] = np.uint8(high >> np.uint64(56 - 8 * j))
        record[8], record[9] = np.uint8(low >> np.uint64(56)), np.uint8((low >> np.uint64(48)) & np.uint64(255))
        record[10], record[11] = 0x00, 0x11
        for j in range(16):
            record[12 + j] = 48
            record[28 + j] = _hex((number >> np.uint64(60 - 4 * j)) & np.uint64(15))
        record[44], record[45], record[46], record[47] = 0x88, 0x99, 0xAA, 0xBB
        for j in range(12):
            record[48 + 4 * j : 52 + 4 * j] = _hex((low >> np.uint64(44 - 4 * j)) & np.uint64(15))
        record[96], record[97], record[98], record[99] = 0xCC, 0xDD, 0xEE, 0xFF
        number += np.uint64(1)


@kernel()
def sum_crc32(records: Any, table: Any) -> Any:
    """Sum of the crc32 of each row of bytes."""
    total = np.uint64(0)
    for i in range(len(records)):
        crc = np.uint32(0xFFFFFFFF)
        for j in range(records.shape[1]):
            crc = table[(crc ^ records[i, j]) & np.uint32(255)] ^ np.uint32(crc >> np.uint32(8))
        total += np.uint64(np.uint32(~crc))
    return total
