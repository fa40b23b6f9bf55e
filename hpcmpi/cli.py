"""Command line: argv to :class:`~hpcmpi.record.Job`.

Imports click and the standard library only, and no command but the one that is asked for, so that ``--help`` is
instant. Commands are found, not listed: the packages in ``hpcmpi.algorithms`` and the modules in ``hpcmpi.commands``.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import pkgutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

import click

from hpcmpi import __version__, algorithms, commands
from hpcmpi.errors import HpcmpiWarning, LaunchError, Status, message
from hpcmpi.launch import detect, leave, leave_unknown_launch, speaks

if TYPE_CHECKING:
    import dataclasses

    from hpcmpi.record import Job


class CommandGroup(click.Group):
    """Group whose commands are the algorithms and the modules of ``hpcmpi.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, the algorithms first."""
        return [*_modules(algorithms), *_modules(commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Command ``cmd_name``, whose module alone is imported; None if there is none."""
        if cmd_name in _modules(algorithms):
            spec = importlib.import_module(f"{algorithms.__name__}.{cmd_name}")
            return _job_command(cmd_name, spec.Params, spec.__doc__ or "")
        if cmd_name in _modules(commands):
            module = importlib.import_module(f"{commands.__name__}.{cmd_name}")
            command: click.Command = module.command
            if detect().rank != 0 and not getattr(module, "COLLECTIVE", False):
                command.callback = lambda **_: Status.DONE  # one rank does it for all
            return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but name the nearest command for a wrong one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if near and "Did you mean" not in error.message:
                raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List the commands by the first lines of their sources, without importing them."""
        for title, package in (("Algorithms", algorithms), ("Commands", commands)):
            with formatter.section(title):
                formatter.write_dl([(name, _title(path)) for name, path in _modules(package).items()])


def _modules(package: Any) -> dict[str, str]:
    """Command names in ``package`` and the file that describes each."""
    found: dict[str, str] = {}
    for folder in package.__path__:
        for module in pkgutil.iter_modules([folder]):
            file = f"{module.name}/__init__.py" if module.ispkg else f"{module.name}.py"
            found[module.name] = os.path.join(folder, file)  # noqa: PTH118 - pathlib would slow --help
    return dict(sorted(found.items()))


def _title(path: str) -> str:
    """First line of the docstring at the head of a source file."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as above
        return file.readline().strip().strip('"')


def _job_command(name: str, params: Any, text: str) -> click.Command:
    """Command whose options are the fields of ``params`` and the common ones, and whose value is a Job."""
    import dataclasses

    from hpcmpi.record import Job

    own = {field.name for field in dataclasses.fields(params)}

    def callback(**values: Any) -> Job:
        try:
            chosen = params(**{key: values.pop(key) for key in own})
            return Job(name, chosen, argv=tuple(sys.argv), **values)
        except ValueError as error:
            raise click.UsageError(str(error)) from None

    options = [_option(field) for field in dataclasses.fields(params)]
    more = "A COUNT is written 1000, 1e9 or 2^30."
    return click.Command(name, callback=callback, params=[*options, *_common_options()], help=text, epilog=more)


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on only
    """Value made by a function that raises ValueError for a bad text."""

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self.name, self._parse = parse.__name__.replace("_", " "), parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _option(field: dataclasses.Field[Any]) -> click.Option:
    """The command-line option of a parameter field."""
    about = field.metadata
    flag = "--" + field.name.replace("_", "-")
    names = [flag, about["short"]] if about["short"] else [flag]
    if isinstance(field.default, bool):
        return click.Option(names, is_flag=True, default=field.default, help=about["help"])
    kind = click.Choice(about["choices"]) if about["choices"] else _Parsed(about["parse"])
    metavar = about["metavar"] or (None if about["choices"] else about["parse"].__name__.upper().replace("STR", "TEXT"))
    return click.Option(
        names,
        type=kind,
        default=field.default,
        multiple=isinstance(field.default, tuple),
        help=about["help"],
        metavar=metavar,
        show_default=field.default not in (None, ()),
    )


def _common_options() -> list[click.Parameter]:
    from pathlib import Path

    from hpcmpi.record import COMPRESSIONS, duration

    path = click.Path(dir_okay=False, path_type=Path)
    return [
        click.Option(["-o", "--output"], type=path, help="HDF5 file for the result and its record."),
        click.Option(["--force"], is_flag=True, help="Replace an existing output."),
        click.Option(["--no-output"], is_flag=True, help="Write no file; without -o, only the record is kept."),
        click.Option(["--no-arrays"], is_flag=True, help="Keep the record only, also with -o."),
        click.Option(
            ["--compress"],
            type=click.Choice(COMPRESSIONS),
            help="Compress arrays; gzip opens everywhere, zstd needs the extra hpcmpi[zstd], and hdf5plugin to read.",
        ),
        click.Option(["--repeat"], type=click.IntRange(1), default=1, show_default=True, help="Times to run."),
        click.Option(["--threads"], type=click.IntRange(1), help="Threads a rank; else from the launcher."),
        click.Option(["--ranks"], type=click.IntRange(1), help="Refuse any other number; with --explain, price it."),
        click.Option(["--verify/--no-verify"], default=True, show_default=True, help="Check the answer."),
        click.Option(["--timeout"], type=_Parsed(duration), metavar="SECONDS", help="When to end it all."),
        click.Option(
            ["--checkpoint-every"],
            type=_Parsed(duration),
            metavar="SECONDS",
            help="Besides on SIGUSR1 and SIGTERM, where the command can; with -o.",
        ),
        click.Option(["--restart"], is_flag=True, help="Begin anew, whatever checkpoint is there."),
        click.Option(["--explain"], is_flag=True, help="Show what the job would cost, and stop."),
        click.Option(["--json"], is_flag=True, help="Print the summary as one JSON object."),
        click.Option(["--quiet"], is_flag=True, help="Print no progress and no summary."),
    ]


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hpcmpi")
def cli() -> None:
    """Distributed algorithms as MPI batch jobs that check their own answers.

    Launch on P ranks with `mpirun -n P hpcmpi ...` or `srun hpcmpi ...`; without a launcher there is one rank.

    \b
    Examples:
      mpirun -n 2 hpcmpi matmul --n 4096 -o C.h5
      hpcmpi show C.h5
    """


def parse(argv: list[str] | None = None) -> Job | int:
    """Job that ``argv`` asks for, or the exit status of a command that has done its work."""
    try:
        outcome = cli.main(argv, prog_name="hpcmpi", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return Status.INTERRUPTED
    except click.ClickException as error:
        text = error.format_message()
        if (short := message(text)) == text:
            error.show()
        else:
            click.UsageError(short, getattr(error, "ctx", None)).show()
        return error.exit_code
    job_or_status: Job | int = Status.DONE if outcome is None else outcome
    return job_or_status


def main() -> None:
    """Entry point: every rank parses, the launcher's rank 0 alone speaks, then MPI starts."""
    _fill_streams()
    _show_warnings()
    try:
        launch = detect()
    except LaunchError as error:
        if speaks():
            click.echo(f"hpcmpi: error: {error}", err=True)
        leave_unknown_launch()
        sys.exit(int(error.status))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback from each rank; later the guard takes over
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # by default it would kill; later it asks for a checkpoint
    with contextlib.ExitStack() as mute:
        if launch.rank != 0:
            null = mute.enter_context(open(os.devnull, "w"))  # noqa: PTH123 - a device
            mute.enter_context(contextlib.redirect_stdout(null))
            mute.enter_context(contextlib.redirect_stderr(null))
        try:
            outcome = parse()
            sys.stdout.flush()
        except (BrokenPipeError, SystemExit) as end:  # the reader, such as `| head`, has had enough; click exits with 1
            if isinstance(end, SystemExit) and end.code != 1:
                raise
            _send_to_null(sys.stdout)
            outcome = Status.DONE
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                _send_to_null(sys.stdout)
                click.echo(f"hpcmpi: error: standard output: {error.strerror}", err=True)
                outcome = Status.OUTPUT
            else:  # a defect, or an installation that lacks something
                traceback.print_exc()
                outcome = Status.INTERNAL
    if isinstance(outcome, int):
        leave(launch, outcome)
    else:
        from hpcmpi.runner import run

        outcome = run(outcome, launch)
    sys.exit(int(outcome))


def _show_warnings() -> None:
    """Print warnings of hpcmpi as its other messages, each once; those of other packages stay as they are."""
    shown, said = warnings.showwarning, set[str]()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, HpcmpiWarning):
            if str(message) not in said:
                click.echo(f"hpcmpi: warning: {message}", err=True)
            said.add(str(message))
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def _fill_streams() -> None:
    """Open the null device for each standard stream that was closed (``>&-``): the next file would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - a device, until the process ends


def _send_to_null(stream: TextIO) -> None:
    """Let ``stream`` go nowhere: Python would try to flush it once more at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
