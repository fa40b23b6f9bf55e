"""Recheck the checksums of a result file, block by block.

Every rank's block was written with its crc32. Exit status 0 means that all blocks are what was written; 65 names those
that are not.

\b
Example:
  hpcmpi verify C.h5
"""

from __future__ import annotations

import math
from pathlib import Path

import click

from hpcmpi.errors import InputError, Status


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> int:
    """Print a line for each dataset and each damaged block."""
    from hpcmpi.record import human_bytes
    from hpcmpi.store.result import check_blocks, results

    try:
        damaged = blocks = nbytes = 0
        with results(file) as groups:
            for group in groups:
                if not group.attrs["complete"]:
                    raise InputError(f"{file}:{group.name}: was left incomplete by the run that wrote it")
                for check in check_blocks(group):
                    blocks += 1
                    nbytes += math.prod(check.shape) * group[check.dataset].dtype.itemsize
                    if check.written != check.found:
                        damaged += 1
                        click.echo(
                            f"{file}:{group.name}/{check.dataset}: block at {check.start} of shape {check.shape} "
                            f"is damaged: crc32 {check.found:08x} found, {check.written:08x} written",
                            err=True,
                        )
    except InputError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    if damaged:
        return Status.INPUT
    click.echo(f"{file}: {blocks} blocks, {human_bytes(nbytes)}: all as written")
    return Status.DONE
