"""What is refused before anything is allocated: wrong launches, mixed versions, jobs that do not fit."""

from __future__ import annotations

from pathlib import Path

from mpi4py import MPI

from hpcmpi import comm as collective
from hpcmpi import machine
from hpcmpi.errors import HpcmpiError, LaunchError, OutputError, ResourceError
from hpcmpi.launch import Launch, mismatch
from hpcmpi.record import Cost, Verdict, counted, human_bytes

_RECORD_BYTES = 1 << 20  # what a result file holds beside its arrays


def _agreed(world: MPI.Comm, error: HpcmpiError) -> HpcmpiError:
    """``error``, which every rank of ``world`` raises at this place."""
    error.agreed = world.size
    return error


def same_launch(world: MPI.Comm, launched: Launch, ranks: int | None) -> None:
    """Raise LaunchError if MPI sees another world than was launched, or another number of ranks than ``--ranks``."""
    reason = mismatch(launched, world.size)
    if reason is None and ranks not in (None, world.size):
        reason = f"--ranks {ranks} was asked for, but there are {world.size}"
    if reason is not None:
        raise _agreed(world, LaunchError(reason))


def same_versions(world: MPI.Comm, mine: dict[str, str]) -> None:
    """Raise LaunchError, on all ranks, if any rank runs other software than rank 0."""
    reference = world.bcast(mine)
    odd = world.allreduce(world.rank if mine != reference else world.size, MPI.MIN)
    if odd < world.size:
        first = world.bcast(MPI.Get_processor_name())
        theirs, host = world.bcast((mine, MPI.Get_processor_name()), odd)
        different = [
            f"{name} {reference[name]} on rank 0 ({first}), {theirs[name]} on rank {odd} ({host})"
            for name in reference
            if reference[name] != theirs[name]
        ]
        raise _agreed(world, LaunchError(f"the ranks run different software: {'; '.join(different)}"))


def first_that_fits(world: MPI.Comm, node: MPI.Comm, plans: list[Cost]) -> Cost:
    """The first of ``plans`` that fits into the memory of every node; ResourceError with the shortfall if none does."""
    available = node.allreduce(machine.available_memory(), MPI.MIN)
    a_rank, at = world.allreduce((available // node.size, world.rank), MPI.MIN)
    for plan in plans:
        if plan.memory <= a_rank:
            return plan
    host, ranks, available = world.bcast((MPI.Get_processor_name(), node.size, available), at)
    smallest = min(plan.memory for plan in plans)
    raise _agreed(
        world,
        ResourceError(
            f"not enough memory on node {host}: its {counted(ranks)} need {human_bytes(smallest * ranks)} "
            f"({human_bytes(smallest)} each), {human_bytes(available)} is available: "
            f"{human_bytes(smallest * ranks - available)} short. Use more nodes or a smaller problem, "
            "or ask the scheduler for more memory"
        ),
    )


def enough_disk(world: MPI.Comm, folder: Path, needed: int) -> None:
    """Raise OutputError, on all ranks, if ``folder`` cannot take ``needed`` bytes and the record."""

    def check() -> None:
        try:
            if not folder.is_dir():
                return  # the reservation of the file will say so
            total, free = needed + _RECORD_BYTES, machine.free_disk(folder)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
        if total > free:
            raise OutputError(
                f"{folder}: not enough disk: the output needs {human_bytes(total)}, {human_bytes(free)} is free: "
                f"{human_bytes(total - free)} short"
            )

    collective.on_root(world, check)


def make_folder(folder: Path) -> None:
    """Make ``folder`` unless it is there; raise OutputError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; -o names another place") from None


def common_verdict(world: MPI.Comm, verdict: Verdict) -> Verdict:
    """``verdict``, or on all ranks that of the lowest rank whose answer is wrong: all exit with the same status."""
    wrong = world.allreduce(world.size if verdict.right else world.rank, MPI.MIN)
    common: Verdict = verdict if wrong == world.size else world.bcast(verdict, wrong)
    return common
