"""Tell what a user or a support desk needs at once: MPI, launcher, threads, BLAS, HDF5, memory, disk.

Run it alone, and again just as the job is run: under mpirun or srun it tells whether the launcher and MPI agree.
With --measure it also times the processor, the memory and messages, in a few seconds; --save keeps the figures in
~/.config/hpcmpi/machine.json, and from then on costs (--explain, the choice of a method) are priced with them.
Files that jobs of this user have left on the node (shared memory, folders of launchers) are listed; --clean removes
them. Only files that no running process uses and that have not changed for a minute count.

\b
Examples:
  hpcmpi doctor
  mpirun -n 4 hpcmpi doctor
  mpirun -n 2 hpcmpi doctor --measure --save
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcmpi.errors import HpcmpiError, ResourceError, Status, UsageError
from hpcmpi.record import counted

if TYPE_CHECKING:
    from hpcmpi.leftovers import Leftover

_MOST_NAMES = 8  # of files listed
_OPEN_MPI = "Open MPI"
_MPIRUNS = {_OPEN_MPI: "(Open MPI)", "Intel MPI": "Intel(R) MPI", "MPICH": "HYDRA"}  # in what --version prints
_AS_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
_MAPPING = "PRTE_MCA_rmaps_default_mapping_policy"
COLLECTIVE = True  # every rank takes part, rank 0 prints


@click.command(help=__doc__)
@click.option("--measure", is_flag=True, help="Time dgemm, memory, Allreduce and messages, on all ranks at once.")
@click.option("--save", is_flag=True, help="Keep what is measured as the profile of this machine.")
@click.option("--clean", is_flag=True, help="Remove files that ended jobs have left in shared memory and /tmp.")
def command(measure: bool, save: bool, clean: bool) -> int:
    """Print a line for each finding; 64 if the launcher and MPI disagree."""
    if save and not measure:
        raise click.UsageError("--save keeps what --measure finds: give both")
    from hpcmpi import leftovers
    from hpcmpi.launch import detect, mismatch
    from hpcmpi.runner import start_mpi

    launch = detect()
    if (failed := start_mpi(launch)) is not None:
        return failed
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    disagreement = mismatch(launch, world.size)

    from hpcmpi.runner.placement import place

    placement = place(world, None)
    found = (leftovers.remove_stale() if clean else leftovers.stale()) if placement.node.rank == 0 else None
    remains = world.gather(found)
    nodes = world.gather((launch.node, placement.node_index, placement.threads.count))
    rates: dict[str, float] = {}
    if measure and not disagreement:
        from hpcmpi import threads
        from hpcmpi.runner import measure as measuring

        if refusal := _cannot_measure(world, placement, measuring.needed(placement.most_ranks_per_node), save=save):
            if launch.rank == 0:
                click.echo(f"hpcmpi: error: {refusal}", err=True)
            return refusal.status
        threads.limit(placement.threads.count)
        rates = measuring.measure(world, placement.threads.count)
    if world.rank == 0 and launch.rank == 0 and nodes is not None:
        findings = [
            *_software(launch),
            *_launch(launch, world, disagreement, nodes, placement),
            *_machine(),
            *_profile(),
        ]
        findings += _leftovers(
            {node: found for (node, _, _), found in zip(nodes, remains or [], strict=True) if found}, clean
        )
        if rates:
            findings += measuring.findings(rates)
        _print(findings)
    if save and rates:
        return int(world.bcast(_save(rates, world.size, placement.threads.count) if world.rank == 0 else None))
    return Status.LAUNCH if disagreement else Status.DONE


def _cannot_measure(world: Any, placement: Any, needed: int, *, save: bool) -> HpcmpiError | None:
    """Why measurements would fail, or tell of another machine; the same on all ranks."""
    from hpcmpi import machine
    from hpcmpi.record import human_bytes

    crowded, free = placement.threads.oversubscribed, machine.available_memory()
    error: HpcmpiError | None = None
    if needed > free:
        error = ResourceError(
            f"--measure takes {human_bytes(needed)} of this node, of which {human_bytes(free)} are free"
        )
    elif save and crowded:
        error = UsageError(f"--save: speeds of ranks that share cores are not those of a core: {crowded}")
    found = [other for other in world.allgather(error) if other]
    return found[0] if found else None


def _software(launch: Any) -> list[tuple[str, str, str]]:
    import h5py
    import mpi4py
    import numpy as np
    from mpi4py import MPI

    import hpcmpi
    from hpcmpi import mpi_library
    from hpcmpi.runner.provenance import blas, git_revision

    revision = git_revision()
    library = MPI.Get_library_version().replace("\0", "").splitlines()
    abi = next((line.split(":", 1)[1].strip() for line in library if "ABI" in line), "unknown")
    standard, compiled = (".".join(map(str, found)) for found in (MPI.Get_version(), (MPI.VERSION, MPI.SUBVERSION)))
    wheels = mpi_library.installed_packages()
    kernel = blas()
    slow = os.environ.get("OPENBLAS_CORETYPE")
    return [
        ("hpcmpi", f"{hpcmpi.__version__} {revision[:12]}".strip(), ""),
        ("Python", f"{sys.version.split()[0]} at {sys.executable}", ""),
        ("MPI library", f"{' '.join(library[0].split())}, MPI {standard}, ABI {abi}", _counts(MPI)),
        (
            "MPI loaded from",
            mpi_library.loaded_from() or "unknown",
            f"{' and '.join(wheels)} are installed in one environment, where each overwrites the mpirun of the other: "
            "keep one of them"
            if len(wheels) > 1
            else "",
        ),
        ("mpirun", *_mpirun(launch, open_mpi="Open MPI" in library[0])),
        ("mpi4py", f"{mpi4py.__version__}, compiled for MPI {compiled}", ""),
        ("NumPy", np.__version__, ""),
        (
            "BLAS",
            f"{kernel.get('library', 'unknown')} {kernel.get('version', '')}, kernel {kernel.get('kernel', 'unknown')}",
            f"OPENBLAS_CORETYPE={slow} overrides the kernel for this processor and may halve its speed" if slow else "",
        ),
        ("CBLAS", *_cblas()),
        ("Numba", *_numba()),
        ("HDF5", f"{h5py.version.hdf5_version}, h5py {h5py.__version__}", ""),
    ]


def _counts(MPI: Any) -> str:
    return "" if MPI.VERSION >= 4 else "messages past 2^31 items need MPI 4"


def _mpirun(launch: Any, *, open_mpi: bool) -> tuple[str, str]:
    """The mpirun that ``hpcmpi run`` takes, and why it may not start ranks of a library that is ``open_mpi`` or not."""
    import shutil
    import subprocess

    from hpcmpi.batch.local import launcher_words

    path = shutil.which(launcher_words(None)[0])
    if path is None:
        return "not found", ""
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return path, f"cannot be run: {error}"
    text = f"{shown.stdout}\n{shown.stderr}".strip()
    if shown.returncode != 0:
        return path, f"fails with status {shown.returncode}: {text.splitlines()[-1]}; is its folder on PATH?"
    found = next((name for name, sign in _MPIRUNS.items() if sign in text), "of an unknown MPI")
    if found in _MPIRUNS and (found == _OPEN_MPI) != open_mpi:
        return f"{path}, {found}", "does not belong to the MPI library: its ranks would not find each other"
    # A launch that got here needs no advice, and Open MPI's hides these variables from its ranks.
    advise = found == _OPEN_MPI and launch.launcher is None
    return f"{path}, {found}", _needs(os.environ) if advise else ""


def _needs(environ: Mapping[str, str]) -> str:
    """Variables without which Open MPI's mpirun refuses to start ranks here."""
    needed = list[str]()
    if os.geteuid() == 0 and not all(environ.get(name) == "1" for name in _AS_ROOT):
        needed.append(f"refuses to run as root: export {' '.join(f'{name}=1' for name in _AS_ROOT)}")
    if "oversubscribe" not in environ.get(_MAPPING, "").lower():
        needed.append(f"starts at most one rank per core: export {_MAPPING}=:oversubscribe for more")
    return "; ".join(needed)


def _cblas() -> tuple[str, str]:
    from hpcmpi.blas import library

    found = library()
    if found is None:
        return "not found", "products of panels go through NumPy, a little slower"
    _, prefix, suffix, wide = found
    return f"{prefix}dgemm{suffix}, {64 if wide else 32}-bit integers", ""


def _numba() -> tuple[str, str]:
    try:
        import numba
        from numba.np.ufunc import parallel
        from numba.np.ufunc.parallel import threading_layer
    except ImportError as error:
        return "not found", str(error)
    try:
        parallel._launch_threads()  # type: ignore[no-untyped-call]  # the layer is chosen when threads start
        layer = threading_layer()  # type: ignore[no-untyped-call]
    except (ValueError, AttributeError) as error:
        return f"{numba.__version__}, no threading layer", str(error)
    warning = "not safe against concurrent callers; install tbb" if layer == "workqueue" else ""
    return f"{numba.__version__}, threading layer {layer}", warning


def _launch(
    launch: Any, world: Any, disagreement: str | None, nodes: list[Any], placement: Any
) -> list[tuple[str, str, str]]:
    ranks_on: dict[int, int] = {}
    for _, node, _ in nodes:
        ranks_on[node] = ranks_on.get(node, 0) + 1
    hosts = {node: host for host, node, _ in nodes}
    per_node = ", ".join(f"{hosts[node]}: {ranks_on[node]}" for node in sorted(ranks_on)[:8])
    per_node += f", and {len(ranks_on) - 8} more nodes" if len(ranks_on) > 8 else ""
    started = "none: one process" if launch.launcher is None else f"{launch.launcher}, {counted(launch.size)}"
    job = f", job {launch.job}, attempt {launch.attempt}" if launch.job else ""
    return [
        ("Launcher", started + job, ""),
        ("World", f"{counted(world.size)}{'' if disagreement else ', as launched'}", disagreement or ""),
        ("Ranks per node", per_node, ""),
        (
            "Threads a rank",
            f"{placement.threads.count} ({placement.threads.source})",
            placement.threads.oversubscribed or "",
        ),
    ]


def _machine() -> list[tuple[str, str, str]]:
    from hpcmpi import machine
    from hpcmpi.record import human_bytes

    quota = machine.cpu_quota()
    cores = f"{len(machine.affinity())} may be used"
    shared = Path("/dev/shm")  # noqa: S108 - where MPI keeps its shared memory, not ours to choose
    small = shared.exists() and machine.free_disk(shared) < 64 << 20
    return [
        ("Cores", cores + (f", quota {quota:g}" if quota is not None else ""), ""),
        ("Memory", f"{human_bytes(machine.available_memory())} available on this node", ""),
        ("Disk", f"{human_bytes(machine.free_disk(Path.cwd()))} free here", ""),
        (
            "Shared memory",
            f"{human_bytes(machine.free_disk(shared))} free in {shared}" if shared.exists() else "none",
            "MPI needs it between ranks of a node: give the container more" if small else "",
        ),
    ]


def _leftovers(found: dict[str, list[Leftover]], clean: bool) -> list[tuple[str, str, str]]:
    """Lines on the remains of ended jobs, by host."""
    from hpcmpi.record import human_bytes

    lines = []
    for host, remains in found.items():
        names = ", ".join(str(one.path) for one in remains[:_MOST_NAMES])
        more = f", and {len(remains) - _MOST_NAMES} more" if len(remains) > _MOST_NAMES else ""
        total = human_bytes(sum(one.nbytes for one in remains))
        what = f"{len(remains)} file{'s' * (len(remains) > 1)} of ended jobs on {host}, {total}: {names}{more}"
        advice = "" if clean else "they take memory or disk until they are removed: hpcmpi doctor --clean"
        lines.append(("Removed" if clean else "Left behind", what, advice))
    return lines or ([("Removed", "nothing: no files of ended jobs", "")] if clean else [])


def _profile() -> list[tuple[str, str, str]]:
    from hpcmpi import machine
    from hpcmpi.errors import InputError

    try:
        found = machine.profile()
    except InputError as error:
        return [("Profile", "none that can be used", str(error))]
    if found is None:
        return [("Profile", "none: costs are priced by default speeds; --measure --save makes one", "")]
    return [("Profile", f"{machine.profile_path()}, measured on {found.get('measured', 'an unknown day')}", "")]


def _save(rates: dict[str, float], ranks: int, threads: int) -> int:
    import time

    from hpcmpi.errors import OutputError
    from hpcmpi.machine import save_profile

    how = f"{time.strftime('%Y-%m-%d')}, {counted(ranks)} x {threads} thread{'s' * (threads != 1)}"
    try:
        path = save_profile({**rates, "measured": how})
    except OutputError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return Status.OUTPUT
    click.echo(f"saved in {path}")
    return Status.DONE


def _print(findings: list[tuple[str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from hpcmpi.runner.report import rendered

    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value, warning in findings:
        table.add_row(name, value)
        if warning:
            table.add_row("", Text.assemble(("warning:", "bold"), f" {warning}"))
    click.echo(rendered(table), nl=False)
