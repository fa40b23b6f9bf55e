"""Lines of text in, by all ranks at once, plain or compressed by gzip.

A file is cut into ranges of bytes, one a rank; a line belongs to the rank in whose range it begins. A compressed file
can only be read from its start, so every rank unpacks all of it, and takes every P-th piece.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from hpcmpi.errors import InputError
from hpcmpi.partition import block

_PIECE_BYTES = 16 << 20
_SHOWN = 60  # characters of a line in a message
_GZIP = b"\x1f\x8b"
LONE_RETURN = "its lines end in CR alone, as on the old Macintosh; convert them, for example with tr '\\r' '\\n'"


@dataclass(frozen=True)
class TextFile:
    """A file of lines. Everything here is local; what a damaged file makes reading raise becomes InputError."""

    path: Path
    compressed: bool

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, unpacked; the body should do nothing but read."""
        try:
            with cast("BinaryIO", gzip.open(self.path, "rb") if self.compressed else self.path.open("rb")) as file:
                yield file
        except (OSError, EOFError, zlib.error) as error:
            damage = "truncated or damaged gzip: " if self.compressed else ""
            raise InputError(f"{self}: cannot be read: {damage}{error}") from error

    def pieces(self, offset: int, ranks: int, rank: int) -> Iterator[tuple[int, bytes]]:
        """(Where it begins, whole lines) of the pieces behind ``offset`` that are ``rank``'s among ``ranks``."""
        if self.compressed:
            for number, (at, text) in enumerate(self._lines(offset, offset, None)):
                if number % ranks == rank:
                    yield at, text
            return
        mine = block(max(0, self.path.stat().st_size - offset), ranks, rank)
        yield from self._lines(offset, offset + mine.start, offset + mine.stop)

    def _lines(self, offset: int, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
        """Whole lines that begin in [start, stop), in pieces; ``stop`` None means the end of the file."""
        with self.opened() as file:
            at = start
            file.seek(start)
            if start > offset:  # the line that is cut belongs to the rank before
                file.seek(start - 1)
                at = start - 1 + len(file.readline())
            while stop is None or at < stop:
                text = file.read(_PIECE_BYTES if stop is None else min(_PIECE_BYTES, stop - at))
                if not text:
                    return
                text += file.readline() if text[-1:] != b"\n" else b""
                yield at, text
                at += len(text)

    def bad_line(self, at: int, expected: str) -> InputError:
        """The error about the line that begins at byte ``at``: its number, what it says, and what is ``expected``."""
        number, before = 1, at
        with self.opened() as file:
            while before > 0 and (text := file.read(min(_PIECE_BYTES, before))):
                number += text.count(b"\n")
                before -= len(text)
            line = file.readline(_PIECE_BYTES).decode("utf-8", "replace").rstrip("\r\n")
        shown = repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")
        return InputError(f"{self}: line {number}: {shown}: {expected}")


def text_file(path: Path) -> TextFile | None:
    """The file, or None where it cannot be opened. Local."""
    try:
        with path.open("rb") as file:
            return TextFile(path, file.read(2) == _GZIP)
    except OSError:
        return None
