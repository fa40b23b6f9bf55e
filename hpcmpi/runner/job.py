"""The steps of a job, in their order, the same on every rank."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from mpi4py import MPI

import hpcmpi
from hpcmpi import comm as collective
from hpcmpi import machine, processes, threads
from hpcmpi.errors import InputError, Status
from hpcmpi.launch import Launch
from hpcmpi.machine import Machine
from hpcmpi.record import Block, Cost, Job, Phases, Result, Scalar, Verdict, asked, identity, parameters
from hpcmpi.runner import aftermath, checks, report
from hpcmpi.runner import provenance as origin
from hpcmpi.runner.checkpoint import Keeper, Resumable
from hpcmpi.runner.guard import Guard
from hpcmpi.runner.placement import Placement
from hpcmpi.runner.status import StatusFile, now
from hpcmpi.store.checkpoint import Checkpoints
from hpcmpi.store.publication import Writer, destination
from hpcmpi.store.scratch import check_free
from hpcmpi.store.writer import Output


class Driver(Protocol):
    """What an algorithm's module ``driver`` offers; ``warm_up(params)`` may be there beside it.

    One that can checkpoint offers what :class:`~hpcmpi.runner.checkpoint.Resumable` tells.
    """

    def resolve(self, comm: MPI.Comm, params: Any) -> Any:
        """``params`` with everything filled in that the inputs' headers tell."""

    def prepare(self, comm: MPI.Comm, params: Any, plan: Cost) -> Any:
        """The problem: this rank's part of the input, read or generated, laid out for ``plan``."""

    def run(self, comm: MPI.Comm, problem: Any, report: Callable[[float], None]) -> Result:
        """Solve it; ``report`` is told the fraction that is done."""

    def verify(self, comm: MPI.Comm, problem: Any, result: Result) -> Verdict:
        """Check the answer by something unlike the algorithm."""


def run_job(job: Job, launch: Launch, placement: Placement, guard: Guard) -> Status:
    """Run ``job`` and return its exit status; raise what goes wrong."""
    world, started = MPI.COMM_WORLD, now()
    checks.same_launch(world, launch, None if job.explain else job.ranks)
    checks.same_versions(world, origin.versions())
    driver = cast("Driver", importlib.import_module(f"hpcmpi.algorithms.{job.algorithm}.driver"))
    threads.limit(placement.threads.count)
    crowded = placement.threads.oversubscribed and f"node {launch.node}: {placement.threads.oversubscribed}"
    if not job.explain and (warnings := [text for text in world.gather(crowded) or [] if text]):
        report.print_out(f"hpcmpi: warning: {warnings[0]}", sys.stderr)

    params = driver.resolve(world, job.params)
    ways = plans(job, params, world.size, placement, measured := profile(world))
    if job.explain:
        if world.rank == 0:
            there = None if job.ranks else machine.available_memory() // placement.most_ranks_per_node
            report.explain(ways, there, measured, as_json=job.json)
        return Status.DONE
    plan = checks.first_that_fits(world, placement.node, ways)

    info = origin.RankInfo(
        launch.node, origin.pid(), placement.node_index, placement.threads.count, machine.peak_memory()
    )
    ranks = world.allgather(info)
    output = _reserve(job, launch, plan)
    status_file = StatusFile(output.target if output else None, _about(job, launch, output, ranks))
    closing = _Closing(output, status_file)
    guard.on_end.insert(0, closing)

    progress = report.Progress(job.algorithm, enabled=world.rank == 0 and not job.quiet)
    guard.on_end.append(lambda _status, _reason: progress.close())

    def announce(phase: str) -> None:
        status_file.phase(phase, write=world.rank == 0)
        if world.rank == 0:
            progress.phase(phase)

    def advance(fraction: float) -> None:
        progress(fraction)
        if world.rank == 0:
            status_file.advance(fraction)

    phases = Phases(lambda: (collective.traffic.bytes_received, collective.traffic.messages), announce)
    keeper = _keeper(job, launch, driver, params, guard, output, status_file)
    result, verdict, seconds = _solve(job, driver, params, plan, phases, advance, keeper)
    facts = {**_outcome(job, result, verdict, seconds, world.size, placement), **_memory(world, info)}
    facts |= {"resumed": keeper.resumed} if keeper else {}
    arrays = result.arrays if _keeps_arrays(job) else {}
    status = Status.DONE if verdict is None or verdict.right else Status.WRONG
    closing.outcome = status, "" if verdict is None else verdict.reason
    if output:
        _write(
            output,
            arrays,
            phases,
            {**parameters(params), **facts},
            ranks,
            lambda: origin.provenance(job, launch, started, now()),
        )
        if world.rank == 0:
            status_file.end(*closing.outcome)
        if keeper:
            keeper.remove()
    lines = (*result.lines, *(verdict.lines if verdict else ()))
    progress.close()
    if world.rank == 0:
        _tell(job, facts, verdict, list(arrays), output.target if output else None, lines)
    return status


class _Closing:
    """Withdraw the output and write the status file when the job ends early; any rank may.

    ``outcome`` is the status and reason of a run whose result is published: it is too late to call that one failed.
    """

    def __init__(self, output: Output | None, status_file: StatusFile) -> None:
        self._output, self._status_file = output, status_file
        self.outcome = Status.DONE, ""

    def __call__(self, status: Status, reason: str) -> None:
        if self._output is not None:
            withdrawn = self._output.discard()
            self._status_file.end(*((status, reason) if withdrawn else self.outcome))


def _about(job: Job, launch: Launch, output: Output | None, ranks: list[origin.RankInfo]) -> dict[str, Any]:
    """What the status file says of the run from the start on. Collective."""
    births = MPI.COMM_WORLD.allgather(processes.birth(os.getpid()))
    return {
        "command": job.algorithm,
        "attempt": launch.attempt,
        "job": output.writer.job if output else launch.job,
        "argv": list(job.argv),
        "run": MPI.COMM_WORLD.bcast(uuid.uuid4().hex),
        "ranks": [
            {"rank": rank, "host": info.host, "pid": info.pid, "started": started}
            for rank, (info, started) in enumerate(zip(ranks, births, strict=True))
        ],
    }


def _write(
    output: Output,
    arrays: Mapping[str, Block],
    phases: Phases,
    attributes: Mapping[str, Scalar],
    ranks: list[origin.RankInfo],
    provenance: Callable[[], dict[str, Scalar]],
) -> None:
    """Write the result and publish it."""
    output.write(arrays, phases)
    with phases("sync"):
        output.sync()
    output.finish(attributes, origin.tables(output.comm, ranks, phases), {"provenance": provenance()})


def _solve(
    job: Job,
    driver: Driver,
    params: Any,
    plan: Cost,
    phases: Phases,
    advance: Callable[[float], None],
    keeper: Keeper | None,
) -> tuple[Result, Verdict | None, list[float]]:
    """The last result, its verdict, and the seconds that the slowest rank took for each repeat."""
    world = MPI.COMM_WORLD
    with phases("compile"):
        _warm_up(world, driver, params)
    with phases("prepare"):
        problem = driver.prepare(world, params, plan)
    seconds, before = list[float](), 0.0
    if keeper is not None:
        with phases("restore"):
            seconds, before = keeper.restore(problem)
    while len(seconds) < job.repeat:
        with keeper.may_stop() if keeper else contextlib.nullcontext(), phases("run"):
            collective.barrier(world)
            tic, aside = time.perf_counter() - before, 0.0
            if keeper is None:
                result = driver.run(world, problem, advance)
            else:
                result, aside = keeper.run(problem, advance, seconds, tic)
            toc = time.perf_counter()
        for part, spent in result.seconds.items():
            phases.add(f"run: {part}", spent)
        seconds.append(world.allreduce(toc - tic - aside, MPI.MAX))
        before = 0.0
    if keeper is not None:
        keeper.finish()
    verdict = result.verdict
    if verdict is None and job.verify:
        with phases("verify"):
            verdict = driver.verify(world, problem, result)
    return result, verdict and checks.common_verdict(world, verdict), seconds


def _keeper(
    job: Job,
    launch: Launch,
    driver: Driver,
    params: Any,
    guard: Guard,
    output: Output | None,
    status_file: StatusFile,
) -> Keeper | None:
    """What checkpoints the job, if its result has a name to find it by and its driver can."""
    able = cast("Resumable", driver)
    if job.output is None or output is None or not hasattr(driver, "resumable") or not able.resumable(params):
        if job.checkpoint_every and MPI.COMM_WORLD.rank == 0:
            report.print_out("hpcmpi: warning: --checkpoint-every: this job takes no checkpoints", sys.stderr)
        return None
    files = Checkpoints(MPI.COMM_WORLD, output.target, output.writer, identity(asked(job), hpcmpi.__version__))
    if job.restart and launch.attempt == 0:  # a requeued job goes on from what it has done itself
        collective.on_root(MPI.COMM_WORLD, files.remove)
    if MPI.COMM_WORLD.rank == 0:
        guard.on_stop += [
            lambda name: aftermath.prepare(status_file, output, name),
            lambda name: status_file.stopping(f"{name}: the job ends at its next checkpoint"),
        ]
    return Keeper(MPI.COMM_WORLD, guard, able, files, job.checkpoint_every)


def _warm_up(world: MPI.Comm, driver: Driver, params: Any) -> None:
    """Have ``driver.warm_up(params)``, if there is one, compile or load the kernels that the run will call."""
    if hasattr(driver, "warm_up"):
        with collective.agreement(world):
            driver.warm_up(params)


def profile(world: MPI.Comm) -> dict[str, Any]:
    """Rank 0's profile of the machine, empty where there is none or it cannot be used, which it then says."""
    found: dict[str, Any] = {}
    if world.rank == 0:
        try:
            found = machine.profile() or {}
        except InputError as error:
            report.print_out(f"hpcmpi: warning: {error}. Costs are priced by default speeds", sys.stderr)
    common: dict[str, Any] = world.bcast(found)
    return common


def plans(job: Job, params: Any, ranks: int, placement: Placement, measured: Mapping[str, Any]) -> list[Cost]:
    """Ways to do the job, the cheapest first, the same on all ranks; ``measured`` is the profile that prices them."""
    cost = importlib.import_module(f"hpcmpi.algorithms.{job.algorithm}.cost")
    here, rates = placement.threads, {name: rate for name, rate in measured.items() if name in machine.MEASURED}
    there = Machine(placement.most_ranks_per_node, here.count, here.cores, **rates)
    if job.explain and job.ranks:  # of a machine that has a core for every thread
        ranks, there = job.ranks, Machine(1, here.count, here.count, **rates)
    there = MPI.COMM_WORLD.bcast(there)
    with collective.agreement(MPI.COMM_WORLD):
        ways: list[Cost] = cost.plans(params, ranks, there)
    return ways


def _reserve(job: Job, launch: Launch, plan: Cost) -> Output | None:
    """The output of the run, reserved, if there is room for all that the job writes.

    Without ``-o`` it takes the record only, with ``--no-output`` there is none.
    """
    world = MPI.COMM_WORLD
    given = job.output
    folder: Path = collective.on_root(world, lambda: destination(given).parent if given else Path())
    if plan.scratch:
        beside = (folder, plan.output) if _keeps_arrays(job) else (Path(), 0)
        check_free(world, getattr(job.params, "scratch", None), plan.scratch, beside)
    if job.no_output:
        return None
    unique = world.bcast(uuid.uuid4().hex[:8])
    target = job.output
    if target is None:
        stamp = world.bcast(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        target = Path("hpcmpi-results", f"{job.algorithm}-{stamp}-{unique}.h5")
        folder = target.parent
        collective.on_root(world, lambda: checks.make_folder(folder))
    compress = job.compress if _keeps_arrays(job) else None
    checks.enough_disk(world, folder, plan.output if _keeps_arrays(job) else 0)
    return Output(
        world, target, job.algorithm, Writer(launch.job or unique, launch.attempt), force=job.force, compress=compress
    )


def _keeps_arrays(job: Job) -> bool:
    return job.output is not None and not job.no_arrays


def _outcome(
    job: Job, result: Result, verdict: Verdict | None, seconds: list[float], ranks: int, placement: Placement
) -> dict[str, Scalar]:
    """Attributes that tell what came out."""
    ordered = sorted(seconds)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return {
        **result.facts,
        "seconds_min": min(seconds),
        "seconds_median": median,
        "seconds_max": max(seconds),
        "repeat": job.repeat,
        "rate": result.work / median if median > 0 else 0.0,
        "rate_unit": result.unit,
        "ranks": ranks,
        "threads": placement.threads.count,
        "threads_from": placement.threads.source,
        "verified": verdict is not None and verdict.right,
        "verdict": verdict.reason if verdict else "not checked: --no-verify",
        **(verdict.facts if verdict else {}),
    }


def _memory(world: MPI.Comm, info: origin.RankInfo) -> dict[str, Scalar]:
    """Most that any rank has held, after the imports and up to now."""
    return {
        "memory_baseline_bytes": world.allreduce(info.memory_baseline_bytes, MPI.MAX),
        "memory_peak_bytes": world.allreduce(machine.peak_memory(), MPI.MAX),
    }


def _tell(
    job: Job,
    facts: Mapping[str, Scalar],
    verdict: Verdict | None,
    arrays: list[str],
    target: Path | None,
    lines: tuple[str, ...],
) -> None:
    output = str(target) if target else None
    if job.json:
        report.print_out(report.as_json({"command": job.algorithm, **facts, "output": output}))
    elif not job.quiet or (verdict and not verdict.right):
        said = "not verified" if verdict is None else f"{'verified' if verdict.right else 'WRONG'}: {verdict.reason}"
        report.print_out(report.summary(job.algorithm, facts, said, arrays, output, lines))
