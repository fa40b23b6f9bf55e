"""A TOML file whose errors name the file, the line and the key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcmpi.errors import InputError, cut, quoted

Keys = tuple[str, ...]


class Document:
    """The tables of a TOML file; ``data`` is its content.

    Raises InputError, as every method does, naming file, line and key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8-sig")  # editors on Windows begin files with a mark
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise InputError(f"{path}: {'no such file' if missing else error.strerror}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InputError(_told(path, text, str(error))) from None
        self._text = text

    @cached_property
    def _lines(self) -> dict[Keys, int]:
        """The line of each key; only errors need them."""
        return dict(_lines(self._text))

    def error(self, where: Keys, message: str) -> InputError:
        """The error ``message`` about the key ``where``, such as ``("params", "n")``."""
        line = next((self._lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self._lines), 1)
        return InputError(f"{self.path}:{line}: {'.'.join(map(cut, where))}: {message}")

    def table(self, name: str) -> Mapping[str, Any]:
        """The table ``name``, empty where it is missing."""
        found = self.data.get(name, {})
        if not isinstance(found, dict):
            raise self.error((name,), f"is a table, [{name}], and not {quoted(found)}")
        return found

    def check_keys(self, where: Keys, found: Iterable[str], known: Iterable[str]) -> None:
        """Refuse keys of ``found`` that are not ``known``, with the nearest of these."""
        known = sorted(known)
        for key in found:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise self.error((*where, key), f"unknown; {advice}")


def _told(path: Path, text: str, message: str) -> str:
    """The parser's ``message`` with the file, the line, and what stands there."""
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    lines = text.rstrip().splitlines() or [""]
    line = int(match[1]) if match and match[1] else len(lines)
    what = message[: match.start()] if match else message
    return f"{path}:{line}: {what}: {cut(lines[line - 1].strip())}"


def _lines(text: str) -> Iterator[tuple[Keys, int]]:
    """Every key of a valid document, and the line at which its statement begins."""
    table: Keys = ()
    statement, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not statement:
            start = number
        statement += line + "\n"
        if number > start and not any(end in line for end in ("]", '"""', "'''")):
            continue  # inside an array or a text of several lines, which is not parsed again for each of them
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # goes on in the next line
        keys = list(_paths(parsed))
        if statement.lstrip().startswith("["):
            table = keys[-1]
            yield table, start
        else:
            yield from ((table + key, start) for key in keys)
        statement = ""


def _paths(value: Any) -> Iterator[Keys]:
    """Keys of nested tables, outer before inner."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            yield from ((key, *rest) for rest in _paths(inner))
