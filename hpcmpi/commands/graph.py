"""Convert a graph to the form that `hpcmpi bfs` starts from at once.

IN is whatever --graph of `hpcmpi bfs` takes: text is read in parallel, by ranges of bytes; a gzip file is unpacked by
every rank.
OUT.h5 holds the rows of neighbours (compressed, ids ascending), checksummed, and is published whole or not at all.

\b
Example:
  mpirun -n 4 hpcmpi graph convert roads.txt.gz roads.h5
  mpirun -n 4 hpcmpi bfs --graph roads.h5 --root 7 -o tree.h5
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcmpi.algorithms.bfs import BIPARTITE_HELP, FORMAT_HELP, FORMATS, Params
from hpcmpi.errors import Status

if TYPE_CHECKING:
    from mpi4py import MPI

COLLECTIVE = True  # every rank takes part, rank 0 prints


@click.group(help=__doc__)
def command() -> None:
    """Work on graphs in files."""


@command.command()
@click.argument("source", metavar="IN")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.h5")
@click.option("--directed", is_flag=True, help="Edges lead one way, from the first to the second end.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True, help=FORMAT_HELP)
@click.option("--bipartite", is_flag=True, help=BIPARTITE_HELP)
@click.option("--force", is_flag=True, help="Replace an existing output.")
def convert(source: str, target: Path, directed: bool, form: str, bipartite: bool, force: bool) -> int:
    """Write the graph in IN as compressed rows to OUT.h5, an HDF5 file.

    \b
    Example:
      mpirun -n 4 hpcmpi graph convert roads.txt.gz roads.h5
    """
    from hpcmpi.launch import detect
    from hpcmpi.runner import on_all_ranks

    def work(world: MPI.Comm) -> int:
        from hpcmpi.algorithms.bfs.driver import convert as convert_graph

        params = Params(graph=source, directed=directed, format=form, bipartite=bipartite, root=(0,))
        n, entries, notes = convert_graph(world, params, target, force=force)
        if world.rank == 0:
            click.echo(f"{target}: {n} vertices, {entries} entries in their rows")
            for note in notes:
                click.echo(f"  {note}")
        return Status.DONE

    return on_all_ranks(detect(), work)
