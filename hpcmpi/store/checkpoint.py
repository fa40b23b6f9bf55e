"""Checkpoints of a job beside its result: the last two, so that a damaged one leaves the one before.

``NAME.checkpoint0`` and ``NAME.checkpoint1`` are written in turns, each as a result is: whole or not at all, with
checksums, and an older attempt of a requeued job cannot replace those of a newer. Arrays have their global shape, so
that any number of ranks can go on from them. A checkpoint is taken only by a job that asks for the same, of the same
version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.comm import on_root
from hpcmpi.errors import InputError, OutputError
from hpcmpi.partition import Range
from hpcmpi.record import Scalar, Snapshot
from hpcmpi.store.publication import Writer, destination, written_by
from hpcmpi.store.reader import open_source
from hpcmpi.store.result import check_blocks, results
from hpcmpi.store.writer import Output

_GROUP = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole: its scalars, and its arrays, to be read in parts."""

    path: Path
    number: int
    facts: dict[str, Scalar]

    def shape(self, comm: MPI.Comm, name: str) -> tuple[int, ...]:
        """Shape of the whole array ``name``. Collective."""
        return open_source(comm, f"{self.path}:/{_GROUP}/{name}").shape

    def read(self, comm: MPI.Comm, name: str, part: tuple[Range, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Each rank's own ``part`` of the array ``name``. Collective."""
        return open_source(comm, f"{self.path}:/{_GROUP}/{name}").read(comm, part, dtype)


class Checkpoints:
    """Those of the job whose result is ``target``; ``identity`` tells jobs apart that cannot share them. Collective."""

    def __init__(self, comm: MPI.Comm, target: Path, writer: Writer, identity: str) -> None:
        self._comm, self._target, self._writer, self._identity = comm, target, writer, identity
        self.number = 0  # of the last one

    def _paths(self) -> list[Path]:
        return [self._target.with_name(f"{self._target.name}.checkpoint{slot}") for slot in (0, 1)]

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The last whole checkpoint of this job, if any, and what is wrong with others."""

        def look() -> tuple[Checkpoint | None, list[str]]:
            found, faults = list[Checkpoint](), list[str]()
            for path in self._paths():
                try:
                    found += self._saved(path)
                except InputError as error:
                    faults.append(str(error))
            return max(found, key=lambda saved: saved.number, default=None), faults

        saved, faults = on_root(self._comm, look)
        self.number = saved.number if saved else 0
        return saved, faults

    def _saved(self, path: Path) -> Iterator[Checkpoint]:
        """The checkpoint in ``path``, if it is one of this job. Raises InputError if it is another's or damaged."""
        if not path.exists():
            return
        with results(path) as groups:
            for group in groups:
                facts = {key: value.item() if hasattr(value, "item") else value for key, value in group.attrs.items()}
                if facts.get("identity") != self._identity:
                    raise InputError(f"{path}: is of other parameters, or of another version")
                if not facts["complete"]:
                    continue
                for block in check_blocks(group):
                    if block.found != block.written:
                        raise InputError(f"{path}: damaged: {block.dataset}, rows from {block.start[0]} on")
                yield Checkpoint(path, int(facts["number"]), facts)

    def write(self, snapshot: Snapshot) -> Path:
        """Write ``snapshot``. Raises OutputError, on all ranks, if it cannot be."""
        path = self._paths()[(self.number + 1) % 2]
        output = Output(self._comm, path, _GROUP, self._writer, force=True)
        try:
            output.write(snapshot.arrays)
            output.sync()
            output.finish({**snapshot.facts, "number": self.number + 1, "identity": self._identity}, {}, {})
        except BaseException:
            output.discard()
            raise
        self.number += 1
        return path

    def check_not_superseded(self) -> None:
        """Raise OutputError, on all ranks, if a later attempt of this job has written a checkpoint or the result."""

        def check() -> None:
            for path in (*self._paths(), self._target):
                before = written_by(path) if path.exists() else None
                if before and before.job == self._writer.job and before.attempt > self._writer.attempt:
                    raise OutputError(
                        f"{path}: attempt {before.attempt} of job {before.job} has written it; "
                        f"attempt {self._writer.attempt} ends"
                    )

        on_root(self._comm, check)

    def remove(self) -> None:
        """Remove all of them. Local: rank 0 should."""
        for path in self._paths():
            destination(path).unlink(missing_ok=True)
