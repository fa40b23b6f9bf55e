"""TOML values as a command's own options: what its parameter class declares is what a job file may say."""

from __future__ import annotations

import dataclasses
from typing import Any

from hpcmpi.errors import quoted


def own_options(params: Any) -> dict[str, dataclasses.Field[Any]]:
    """The options of the parameter class ``params`` by their command-line names."""
    return {field.name.replace("_", "-"): field for field in dataclasses.fields(params)}


def parse(field: dataclasses.Field[Any], value: Any) -> tuple[Any, tuple[str, ...]]:
    """What the parameter class takes for a TOML ``value``, and the words of a command line that say so.

    Raises ValueError for what the option does not take.
    """
    flag = "--" + field.name.replace("_", "-")
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"is true or false, not {quoted(value)}")
        return value, (flag,) if value else ()
    if isinstance(field.default, tuple):  # may be given several times
        texts = [_text(item) for item in (value if isinstance(value, list) else [value])]
        return tuple(_convert(field, text) for text in texts), tuple(word for text in texts for word in (flag, text))
    text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
    try:
        return _convert(field, text), (flag, text)
    except ValueError as error:
        if isinstance(value, list):
            raise ValueError(f"{error}; a list of values to go through belongs to [sweep]") from None
        raise


def _convert(field: dataclasses.Field[Any], text: str) -> Any:
    choices = field.metadata["choices"]
    if choices and text not in choices:
        raise ValueError(f"{quoted(text)} is none of {', '.join(choices)}")
    return text if choices else field.metadata["parse"](text)


def _text(value: Any) -> str:
    """``value`` as it would be written on a command line."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"is a number or a text, not {quoted(value)}")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    return str(value)
