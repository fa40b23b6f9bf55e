"""Graphs in text: lists of edges, adjacency lists and METIS.

A list of edges has two ids a line, whole numbers of up to 62 bits, and perhaps a weight, a time, or a dictionary as
networkx writes it, which are ignored; lines that begin with ``#``, ``%`` or ``//`` are comments. What may be something
else is refused: lines of different lengths, and a first line that looks like a header of counts.
"""

from __future__ import annotations

import itertools
import re
import warnings
from dataclasses import replace

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.bfs.edges import Edges, count_vertices, from_ends
from hpcmpi.algorithms.bfs.text_kernels import ANY_LENGTH, count_lines, count_numbers, parse_edges, parse_neighbours
from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import HpcmpiWarning, InputError
from hpcmpi.store.recognise import advice, data_lines, konect_header
from hpcmpi.store.text import TextFile

_A_LINE = "two whole numbers from 0 to 2^62 are expected, and nothing but numbers after them"
_NEIGHBOURS = "whole numbers from 0 to 2^62 are expected: {}the neighbours of a vertex"
_MOST_COLUMNS = 4  # of a list of edges: two ids, a weight and a time
_LINES_LOOKED_AT = 1000
_MIX = np.uint64(0x9E3779B97F4A7C15)


def read_list(comm: MPI.Comm, file: TextFile, *, bipartite: bool, strict: bool) -> Edges:
    """Edges of a list, two ids a line. Collective."""
    konect = on_root(comm, lambda: konect_header(file))
    kind, sizes = konect or ("", None)
    with agreement(comm):
        if bipartite and kind != "bip":
            raise InputError(f"{file}: --bipartite is about matrices, and lists with KONECT's header '% bip'")
        if kind == "bip" and not bipartite:
            raise InputError(
                f"{file}: its header '% bip' says that rows and columns are different vertices: --bipartite reads it so"
            )
        if sizes is not None:
            count_vertices(file, sizes, bipartite=bipartite)
    u, v, columns = _parse_list(comm, file, strict=strict)
    if kind == "bip":
        return _read_bipartite(comm, file, u, v, sizes)
    if strict:
        _refuse_counts(comm, file, u, v, columns)
        on_root(comm, lambda: _warn_of_columns(file, columns))
    return from_ends(comm, str(file), u, v, None)


def _read_bipartite(
    comm: MPI.Comm, file: TextFile, u: NDArray[np.int64], v: NDArray[np.int64], sizes: tuple[int, int] | None
) -> Edges:
    """Edges of KONECT's bipartite lists, which count rows and columns from 1."""
    largest = [comm.allreduce(int(ends.max(initial=0)), MPI.MAX) for ends in (u, v)]
    m, n = sizes or largest
    with agreement(comm):
        if min(int(u.min(initial=1)), int(v.min(initial=1))) < 1 or largest[0] > m or largest[1] > n:
            raise InputError(f"{file}: holds ids that are not 1 to {m} in the first, 1 to {n} in the second column")
    return replace(from_ends(comm, str(file), u - 1, v - 1 + m, m + n), columns_from=m)


def _parse_list(comm: MPI.Comm, file: TextFile, *, strict: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """This rank's share of a list of edges, and how many columns it has. Collective."""
    with agreement(comm):
        u, v, columns = _parsed(comm, file, 0 if strict else ANY_LENGTH)
    found = [other for other in comm.allgather(columns) if other > 0]
    with agreement(comm):
        if columns > 0 and columns != found[0]:
            _parsed(comm, file, found[0])  # raises at the first line that differs
        if found and found[0] > _MOST_COLUMNS:
            raise InputError(
                f"{file}: each line has {found[0]} numbers; one edge a line is expected, of two ids and up to two more "
                f"numbers: {advice(file)}"
            )
    return u, v, found[0] if found else 0


def _parsed(comm: MPI.Comm, file: TextFile, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """This rank's edges, and the columns of its lines. Local; InputError names the line that is bad."""
    ends: list[list[NDArray[np.int64]]] = [[np.empty(0, np.int64)], [np.empty(0, np.int64)]]
    for at, lines in file.pieces(0, comm.size, comm.rank):
        text = np.frombuffer(lines, np.uint8)
        u, v = np.empty((2, int(count_lines(text))), np.int64)
        count, bad, columns = parse_edges(text, columns, u, v)
        if bad >= 0:
            raise _bad_edge(file, at + bad, text[bad:], columns)
        ends[0].append(u[:count].copy())
        ends[1].append(v[:count].copy())
    return np.concatenate(ends[0]), np.concatenate(ends[1]), columns


def _bad_edge(file: TextFile, at: int, text: NDArray[np.uint8], columns: int) -> InputError:
    """The error about the line at byte ``at``, which ``text`` begins with."""
    line = text[: int(np.argmax(text == 10)) if (text == 10).any() else text.size]
    count, _, _ = parse_edges(line, ANY_LENGTH, *np.empty((2, 1), np.int64))
    words = bytes(line).split()
    if count:
        return file.bad_line(at, f"{columns} numbers are expected, as in the lines before: {advice(file)}")
    if words and all(word.isdigit() for word in words) and len(words) == 1:
        return file.bad_line(at, f"{_A_LINE}: {advice(file)}")
    if words and re.fullmatch(rb"[0-9]+\.0*([eE][+-]?[0-9]+)?,?", words[0]):
        return file.bad_line(at, f"{_A_LINE} (numpy.savetxt writes them so with fmt='%d')")
    named = bool(words) and not words[0].lstrip(b"+-")[:1].isdigit()
    if named and next((first for first in data_lines(file) if first.strip()), b"").split() == words:
        return file.bad_line(at, f"{_A_LINE}; a line of column names should be removed")
    return file.bad_line(at, _A_LINE)


def _refuse_counts(comm: MPI.Comm, file: TextFile, u: NDArray[np.int64], v: NDArray[np.int64], columns: int) -> None:
    """Raise InputError if the first line is a header of counts, so far as the other lines can tell. Collective."""
    firsts = comm.allgather((u.size, int(u[0]) if u.size else 0))
    holder = next((rank for rank, (count, _) in enumerate(firsts) if count), None)
    if holder is None:
        return
    rest = slice(comm.rank == holder, None)
    largest = comm.allreduce(max(int(u[rest].max(initial=-1)), int(v[rest].max(initial=-1))), MPI.MAX)
    others, vertices = sum(count for count, _ in firsts) - 1, firsts[holder][1]
    if others <= 0 or largest > vertices:
        return
    with agreement(comm):
        line = next(line for line in data_lines(file) if line.strip())
        counts = line.replace(b",", b" ").split()
        whole = [int(word) for word in counts if word.isdigit()]
        listed = len(whole) == len(counts) and (
            any(count in (others, others / 2) for count in whole[1:])
            or (whole[0] == others and columns * others == 2 * whole[1])
        )
        if listed:
            raise file.bad_line(
                _offset_of(file, line),
                f"this looks like a header of counts ({whole[0]} vertices): remove it if the other lines are edges; "
                f"--format metis reads it as METIS, --format edges as an edge",
            )


def _offset_of(file: TextFile, wanted: bytes) -> int:
    """Where the first line that is ``wanted`` begins."""
    at = 0
    with file.opened() as opened:
        for line in opened:
            if line == wanted:
                return at
            at += len(line)
    return 0


def _warn_of_columns(file: TextFile, columns: int) -> None:
    """Issue HpcmpiWarning if the first lines suggest that the first two columns are not the ends of edges. Local."""
    rows = (words for line in data_lines(file) if (words := line.replace(b",", b" ").split()))
    first = list(itertools.islice(rows, _LINES_LOOKED_AT))
    whole = len(first) > 1 and all(word.isdigit() for row in first for word in row)
    text = ""
    if columns == 3 and whole and [int(row[0]) for row in first] == list(range(len(first))):
        text = (
            "the first of three columns counts 0, 1, 2, ... and is read as the first end of each edge; "
            "if it is an index, as pandas writes it, remove it: to_csv(index=False)"
        )
    if columns == _MOST_COLUMNS and whole:
        text = "each line has 4 whole numbers, of which the first two are read as one edge: one edge a line is expected"
    if text:
        warnings.warn(f"{file}: {text}", HpcmpiWarning, stacklevel=2)


def _read_neighbours(
    comm: MPI.Comm, file: TextFile, offset: int, *, named: bool, skipped: int = 0, step: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """This rank's edges from lines of neighbours, and how many lines there are in all. Collective."""
    parts = []
    with agreement(comm):
        for at, lines in file.pieces(offset, comm.size, comm.rank):
            text = np.frombuffer(lines, np.uint8)
            u, v = np.empty((2, int(count_numbers(text))), np.int64)
            count, found, bad = parse_neighbours(text, int(named), skipped, step, u, v)
            if bad >= 0:
                raise file.bad_line(at + bad, _NEIGHBOURS.format("a vertex and " if named else ""))
            parts.append((at, int(found), u[:count].copy(), v[:count].copy()))
    pieces = sorted(piece for pieces in comm.allgather([part[:2] for part in parts]) for piece in pieces)
    before, lines_in_all = {}, 0
    for at, found in pieces:
        before[at], lines_in_all = lines_in_all, lines_in_all + found
    none = np.empty(0, np.int64)
    heads = [u if named else u + before[at] for at, _, u, _ in parts]
    return np.concatenate([none, *heads]), np.concatenate([none, *(v for *_, v in parts)]), lines_in_all


def read_adjacency(
    comm: MPI.Comm,
    file: TextFile,
    *,
    directed: bool,  # noqa: ARG001 - each line holds edges either way
) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
    """Edges of lines of a vertex and its neighbours, as networkx writes them. Collective."""
    u, v, _ = _read_neighbours(comm, file, 0, named=True)
    return u, v, None


def read_metis(
    comm: MPI.Comm, file: TextFile, *, directed: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
    """Edges of a METIS file: a line ``n m [fmt [ncon]]``, then the neighbours of each vertex, numbered from 1.

    Each edge is in the lines of both ends; one of them is kept unless the graph is ``directed``. Collective.
    """
    header: list[int]
    header, offset = on_root(comm, lambda: _metis_header(file))
    n, edges = header[:2]
    kind = header[2] if len(header) > 2 else 0
    sizes, weights, weighted = kind // 100, kind // 10 % 10, kind % 10
    skipped = sizes + weights * (header[3] if len(header) > 3 else 1)
    u, v, lines = _read_neighbours(comm, file, offset, named=False, skipped=skipped, step=1 + weighted)
    outside = v.size > 0 and not 1 <= int(v.min()) <= int(v.max()) <= n
    largest = comm.allreduce(int(u.max(initial=-1)), MPI.MAX)
    found = comm.allreduce(u.size)
    v = v - 1
    upper = u < v
    with np.errstate(over="ignore"):
        code = np.minimum(u, v).astype(np.uint64) * _MIX ^ np.maximum(u, v).astype(np.uint64)
        code = (code ^ code >> np.uint64(31)) * _MIX
        balance = int(code[upper].sum(dtype=np.uint64)) - int(code[u > v].sum(dtype=np.uint64))
    balance = comm.allreduce(balance) % 2**64
    with agreement(comm):
        if outside:
            raise InputError(
                f"{file}: holds neighbours that are not 1 to {n}, the number of vertices in its first line"
            )
        if lines < n or largest >= n:
            raise InputError(f"{file}: has {lines} lines of neighbours; {n} are expected by its first line")
        if found != 2 * edges or balance:
            raise InputError(
                f"{file}: holds {found} neighbours of vertices; {2 * edges} are expected by its first line, each edge "
                f"in the lines of both its ends"
            )
    kept = np.ones(u.size, bool) if directed else u <= v
    return u[kept], v[kept], n


def _metis_header(file: TextFile) -> tuple[list[int], int]:
    """The numbers of the first line that is no comment, and where the next line begins."""
    offset = 0
    with file.opened() as opened:
        for line in opened:
            start, offset = offset, offset + len(line)
            if not line.startswith(b"%") and line.strip():
                break
        else:
            raise InputError(f"{file}: holds no graph: 'vertices edges' is expected in its first line")
    words = line.split()
    if not 2 <= len(words) <= 4 or not all(word.isdigit() and len(word) <= 18 for word in words):
        raise file.bad_line(start, "METIS begins with 'vertices edges [fmt [ncon]]'")
    return [int(word) for word in words], offset
