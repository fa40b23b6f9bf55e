"""What the values of a job file's fixed tables may be: functions that return the value or raise ValueError."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hpcmpi.errors import quoted
from hpcmpi.record import COMPRESSIONS, duration

_MOST = 2**31 - 1  # ranks that MPI can count
_SET_BY_SUBMIT = {  # names and letters of sbatch's options on which submit, status and logs rely
    "array": "a", "output": "o", "dependency": "d", "open-mode": "", "ntasks": "n", "cpus-per-task": "c",
}  # fmt: skip


def whole(value: Any) -> int:
    """A count from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"is a whole number from 1 on, not {quoted(value)}")
    if value > _MOST:
        raise ValueError(f"is at most {_MOST}, not {value}")
    return value


def _compression(value: Any) -> str:
    if value not in COMPRESSIONS:
        raise ValueError(f"is {' or '.join(COMPRESSIONS)}, not {quoted(value)}")
    return str(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"is true or false, not {quoted(value)}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is a number of seconds, not {quoted(value)}")
    return duration(str(value))


def _folder(value: Any) -> Path:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"is the name of a folder, not {quoted(value)}")
    return Path(value).expanduser()


def word(value: Any) -> str:
    """A value for one line of an sbatch script; ValueError for what would be more."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"\S+", str(value)):
        raise ValueError(f"is one word, not {quoted(value)}")
    return str(value)


def limit_seconds(text: str) -> int:
    """Seconds of a time as sbatch takes it; ValueError for anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a time such as 30 (minutes), 1:30:00 or 2-12 (days and hours)")
    numbers = [int(number) for number in match.groups()[1:] if number is not None]
    from_hours = match[1] is not None or len(numbers) == 3
    units = (3600, 60, 1) if from_hours else (60, 1)
    return 86400 * int(match[1] or 0) + sum(number * unit for number, unit in zip(numbers, units, strict=False))


def _time(value: Any) -> str:
    text = word(value)
    if limit_seconds(text) == 0:
        raise ValueError(f"{quoted(text)} leaves no time")
    return text


def _memory(value: Any) -> str:
    text = word(value)
    if not re.fullmatch(r"\d+[KMGT]?", text):
        raise ValueError(f"{quoted(text)} is not a size as sbatch takes it: 4000 (MiB), 64G")
    return text


def sbatch_options(value: Any) -> tuple[str, ...]:
    """Free options of sbatch; ValueError for what is none."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not re.fullmatch(r"--?[A-Za-z][\w-]*([= ][^\n\r]+)?", text):
            raise ValueError(f"{quoted(text)} is no option of sbatch, such as '--exclusive' or '--mail-type=END'")
        for name, letter in _SET_BY_SUBMIT.items():
            if re.match(rf"--{name}\b(?!-)" + (f"|-{letter}" if letter else ""), text):
                raise ValueError(f"{quoted(text)}: --{name} is what hpcmpi submit sets by itself")
    return tuple(texts)


RUN = {
    "ranks": whole, "threads": whole, "repeats": whole, "output": _folder, "timeout": _seconds, "verify": _switch,
    "arrays": _switch, "checkpoint-every": _seconds, "compress": _compression,
}  # fmt: skip
SLURM = {
    "profile": word, "partition": word, "account": word, "time": _time, "mem": _memory, "constraint": word, "mpi": word,
    "nodes": whole, "options": sbatch_options,
}  # fmt: skip
