"""What a file is that holds no list of edges: its format by name, from its first bytes or lines.

Everything here serves error messages. It looks at the beginning of a file, and at all of its lines only after reading
has failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hpcmpi.errors import InputError
from hpcmpi.store.text import LONE_RETURN, TextFile

HEAD_BYTES = 1 << 16
_AS_TEXT = "convert it to a list of edges ('u v' a line) or MatrixMarket"
_UNPACK = "unpack it, or pack it by gzip"
_BINARY = (
    (b"BZh", "bzip2", _UNPACK),
    (b"\xfd7zXZ\x00", "xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd", _UNPACK),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file before v7.3", "save it with -v7.3, or scipy.io.mmwrite what loadmat reads"),
    (b"\x00\x12\x7b\x50", "a PETSc matrix", "convert it to MatrixMarket or SciPy's .npz"),
    (b"nkbg", "NetworKit's binary format", _AS_TEXT),
    (b"\xe2\x9b\xbe gt", "graph-tool's binary format", _AS_TEXT),
    (b"PAR1", "Parquet", "save its two columns of ids as an .npy array (edges, 2)"),
    (b"ARROW1", "Arrow", "save its two columns of ids as an .npy array (edges, 2)"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"\xef\xbb\xbf", "text that begins with a byte-order mark", "save it as UTF-8 without one"),
)
_BY_SUFFIX = {
    ".sg": ("GAP's serialized graph", "keep the .el or .wel file, or write one"),
    ".wsg": ("GAP's serialized graph", "keep the .el or .wel file, or write one"),
}
_WORDS = (
    (rb"\s*<", "XML such as GraphML or GEXF"),
    (rb"\s*(Creator\b[^\n]*\n\s*)?(Version\b[^\n]*\n\s*)?graph\s*\[", "GML"),
    (rb"\s*(strict\s+)?(di)?graph\b[^\n]*\{", "DOT"),
    (rb"\s*\*(Vertices|Network|Arcs|Edges)\b", "Pajek"),
    (rb"(c\b[^\n]*\n)*p\s+\w+\s+\d+", "DIMACS (or SNAP with a problem line)"),
    (rb"LEDA\.GRAPH", "LEDA"),
    (rb">>(graph|sparse|digraph)6<<", "graph6 or sparse6"),
    (rb"\s*[\{\[]", "JSON"),
)


def refuse_foreign(file: TextFile) -> None:
    """Raise InputError, which names the format, for a file that is recognised as no text of numbers. Local."""
    with file.opened() as opened:
        head = opened.read(HEAD_BYTES)
    found = _format(head, file.path)
    if found is not None:
        raise InputError(f"{file}: is {found[0]}, which is not read: {found[1]}")
    if re.search(rb"\r[^\r\n]", head):
        raise InputError(f"{file}: {LONE_RETURN}")


def _format(head: bytes, path: Path) -> tuple[str, str] | None:
    """(Name, advice) of the format of a file that begins with ``head``."""
    for magic, name, advice in _BINARY:
        if head.startswith(magic):
            return name, advice
    if b"\0" in head:
        return _BY_SUFFIX.get(path.suffix, ("a binary file of unknown format", _AS_TEXT))
    for pattern, name in _WORDS:
        if re.match(pattern, head, re.IGNORECASE):
            return name, _AS_TEXT
    return None


def konect_header(file: TextFile) -> tuple[str, tuple[int, int] | None] | None:
    """(``sym``, ``asym`` or ``bip``; numbers of rows and columns, if given) of a KONECT file; None of others."""
    with file.opened() as opened:
        lines = [opened.readline(HEAD_BYTES).split() for _ in range(2)]
    if lines[0][:1] != [b"%"] or lines[0][1:2] not in ([b"sym"], [b"asym"], [b"bip"]):
        return None
    sizes = lines[1][2:4] if lines[1][:1] == [b"%"] and len(lines[1]) >= 4 else []
    known = (int(sizes[0]), int(sizes[1])) if sizes and all(size.isdigit() for size in sizes) else None
    return lines[0][1].decode(), known


def data_lines(file: TextFile) -> Iterator[bytes]:
    """Lines that are no comments; blank ones too."""
    with file.opened() as opened:
        for line in opened:
            if not line.lstrip().startswith((b"#", b"%", b"//")):
                yield line


def _numbers(line: bytes) -> list[int]:
    words = line.replace(b",", b" ").split()
    return [int(word) for word in words] if words and all(word.isdigit() for word in words) else []


def advice(file: TextFile) -> str:
    """What a list whose lines have different lengths looks like, and what to do. Reads the whole file."""
    first: list[int] = []
    lines = filled = largest = 0
    heads = set()
    for line in data_lines(file):
        if not first and line.strip():
            first = _numbers(line)
            if not first:
                return "if line 1 names the columns, remove it"
            heads.add(first[0])
            continue
        lines += bool(first)
        if line.strip():
            filled += 1
            numbers = _numbers(line) or [-1]
            heads.add(numbers[0])
            largest = max(largest, *numbers[:2])
    if len(first) in (2, 3, 4) and first[0] in (lines, filled) and first[0] > 1:
        return f"this looks like METIS, as its first numbers announce {first[0]} vertices: --format metis reads it"
    if len(first) in (2, 3) and first[0] >= largest and filled in (first[-1], 2 * first[-1]):
        return f"its first numbers look like a header of counts ({first[-1]} entries): remove it, or begin it with #"
    if len(first) == 1 and first[0] > 1 and (first[0] > largest or first[0] == filled):
        return f"its first number looks like a count ({first[0]}): remove it, or begin it with #"
    if len(heads) == filled + 1:
        return "this looks like an adjacency list (a vertex and its neighbours): --format adjacency reads it"
    return "--format adjacency reads a vertex and its neighbours, --format edges the first two numbers of each line"
