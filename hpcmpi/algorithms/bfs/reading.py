"""Edges from text: plain and SNAP edge lists and MatrixMarket, each rank a range of bytes; gzip is read by rank 0.

An edge list has two ids a line, whole numbers of up to 62 bits, and perhaps further numbers, which are left out; lines
that begin with ``#``, ``%`` or ``//`` are comments. MatrixMarket numbers from 1; here, as everywhere, from 0.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs.text_kernels import count_lines, parse_edges
from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.partition import block

_PIECE_BYTES = 16 << 20
_LONGEST_LINE = 1 << 16
_SHOWN = 60  # characters of a bad line
GZIP = b"\x1f\x8b"
_MARKET = b"%%MatrixMarket"

Edges = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Header:
    """What the head of a text says: whether it is zipped; of MatrixMarket, where entries begin, sizes and symmetry."""

    zipped: bool
    size: int  # of the file
    market: bool = False
    start: int = 0
    n: int | None = None
    entries: int | None = None
    symmetric: bool = False


def read_text(comm: MPI.Comm, path: Path) -> tuple[Edges, Header]:
    """This rank's share of the edges in a text file; collective. InputError names file, line and what is bad."""
    header: Header = on_root(comm, lambda: _head(path))
    pieces = _unzipped(comm, path, header) if header.zipped else _own_range(comm, path, header)
    parts = [*pieces]
    u, v = (np.concatenate([part[end] for part in parts]) if parts else np.empty(0, np.int64) for end in (0, 1))
    if header.market:
        _check_market(comm, path, header, u, v)
        u -= 1
        v -= 1
    return (u, v), header


def _open(path: Path, *, zipped: bool) -> IO[bytes]:
    return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]


def _head(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP
        size = path.stat().st_size
        with _open(path, zipped=zipped) as text:
            if text.read(len(_MARKET)) != _MARKET:
                return Header(zipped, size)
            return _market_header(path, text, zipped=zipped, size=size)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _market_header(path: Path, text: IO[bytes], *, zipped: bool, size: int) -> Header:
    words = text.readline(_LONGEST_LINE).decode("ascii", "replace").lower().split()
    fields, symmetries = ("real", "integer", "pattern", "complex"), ("symmetric", "skew-symmetric", "hermitian")
    if len(words) != 4 or words[:2] != ["matrix", "coordinate"] or words[2] not in fields:
        raise InputError(f"{path}: line 1: %%MatrixMarket {' '.join(words)}: a coordinate matrix is expected")
    if words[3] not in ("general", *symmetries):
        raise InputError(f"{path}: line 1: unknown symmetry {words[3]!r}")
    number = 1
    while True:
        line = text.readline(_LONGEST_LINE)
        number += 1
        if line.strip() and not line.startswith(b"%"):
            break
        if not line:
            raise InputError(f"{path}: line {number}: the line of sizes is missing")
    sizes = line.split()
    if len(sizes) != 3 or not all(word.isdigit() for word in sizes):
        raise InputError(f"{path}: line {number}: {_shown(line)}: rows, columns and entries are expected")
    rows, columns, entries = map(int, sizes)
    return Header(zipped, size, True, text.tell(), max(rows, columns), entries, words[3] in symmetries)


def _check_market(comm: MPI.Comm, path: Path, header: Header, u: NDArray[np.int64], v: NDArray[np.int64]) -> None:
    count = comm.allreduce(u.size)
    with agreement(comm):
        for ends in (u, v):
            if ends.size and (ends.min() < 1 or ends.max() > (header.n or 0)):
                bad = ends[(ends < 1) | (ends > (header.n or 0))][0]
                raise InputError(f"{path}: an entry has the number {bad}; rows and columns are 1 to {header.n}")
        if count != header.entries:
            raise InputError(f"{path}: {count} entries found, {header.entries} expected by its line of sizes")


def _own_range(comm: MPI.Comm, path: Path, header: Header) -> Iterator[Edges]:
    """Edges of the lines that begin in this rank's range of bytes."""
    edges: list[Edges] = []
    with agreement(comm):
        share = block(max(0, header.size - header.start), comm.size, comm.rank)
        at, stop = header.start + share.start, header.start + share.stop
        try:
            with path.open("rb") as file:
                if at > header.start:
                    file.seek(at)
                    at += len(_rest_of_line(file))
                while at < stop:
                    file.seek(at)
                    data = file.read(min(_PIECE_BYTES, stop - at)) + _rest_of_line(file)
                    edges.append(_parsed(path, data, at))
                    at += len(data)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    yield from edges


def _rest_of_line(file: IO[bytes]) -> bytes:
    """What is left of the current line; empty where a line has just ended."""
    position = file.tell()
    if position > 0:
        file.seek(position - 1)
        if file.read(1) == b"\n":
            return b""
    return file.readline()


def _unzipped(comm: MPI.Comm, path: Path, header: Header) -> Iterator[Edges]:
    """Edges of every P-th piece of what rank 0 unzips, for each rank in turn."""
    file = _open(path, zipped=True) if comm.rank == 0 else None
    if file is not None:
        file.seek(header.start)
    at = header.start
    for turn in range(1 << 62):
        data = b""
        with agreement(comm):
            if file is not None:
                try:
                    data = file.read(_PIECE_BYTES)
                    data += file.readline() if data and not data.endswith(b"\n") else b""
                except (OSError, EOFError, zlib.error) as error:
                    raise InputError(
                        f"{path}: truncated or damaged gzip, near byte {at} of its text: {error}"
                    ) from None
        counts = np.zeros(comm.size, np.int64)
        counts[turn % comm.size] = len(data)
        length = int(comm.bcast(len(data)))
        if length == 0:
            break
        mine, _ = collective.exchange(comm, np.frombuffer(data, np.uint8), counts)
        with agreement(comm):
            found = _parsed(path, mine.tobytes(), at)
        yield found
        at += length
    if file is not None:
        file.close()


def _parsed(path: Path, data: bytes, at: int) -> Edges:
    """Edges in whole lines; ``at`` is their place in the (unzipped) file, for the message on a bad one."""
    text = np.frombuffer(data, np.uint8)
    u = np.empty(int(count_lines(text)), np.int64)
    v = np.empty_like(u)
    count, bad = parse_edges(text, u, v)
    if bad >= 0:
        line = data[bad:].split(b"\n", 1)[0]
        raise InputError(
            f"{path}: line {_line_number(path, at + bad)}: {_shown(line)}: "
            f"two whole numbers from 0 to 2^62 are expected"
        )
    return u[:count].copy(), v[:count].copy()


def _line_number(path: Path, offset: int) -> int:
    """Number, from 1, of the line that begins at byte ``offset`` of the (unzipped) file."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    number = 1
    with _open(path, zipped=zipped) as text:
        while offset > 0:
            data = text.read(min(_PIECE_BYTES, offset))
            if not data:
                break
            number += data.count(b"\n")
            offset -= len(data)
    return number


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
