"""Print what lets a shell complete commands, options and files: bash (4.4 or later), zsh or fish.

\b
Examples:
  hpcmpi completion bash >> ~/.bashrc
  hpcmpi completion zsh >> ~/.zshrc
  hpcmpi completion fish > ~/.config/fish/completions/hpcmpi.fish
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from hpcmpi.errors import Status

_SHELLS = ("bash", "zsh", "fish")


@click.command(help=__doc__)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print the shell's function."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click completes for none of {', '.join(_SHELLS)}")
    click.echo(kind(context.find_root().command, {}, "hpcmpi", "_HPCMPI_COMPLETE").source())
    return Status.DONE
