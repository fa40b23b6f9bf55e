"""What rank 0 tells people: progress, the summary, the table of costs."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hpcmpi.launch import is_terminal
from hpcmpi.machine import profile_path
from hpcmpi.record import Cost, Scalar, human_bytes

_MOST_PLANS = 12  # that people are shown
_FIRST_SIGN = 1.0  # seconds of silence before progress is worth a line or a bar
_BETWEEN_REDRAWS = 0.1
_BETWEEN_LINES = 10.0


class Progress:
    """A bar on a terminal, a line now and then in a log, nothing for what is over at once."""

    def __init__(self, title: str, *, enabled: bool) -> None:
        self._title, self._enabled, self._terminal = title, enabled, enabled and is_terminal(sys.stderr)
        self._next = time.monotonic() + _FIRST_SIGN
        self._phase = ""
        self._bar: Any = None
        self._task: Any = None

    def phase(self, name: str) -> None:
        """A phase begins."""
        self._phase = name
        if self._bar is not None:
            self._bar.reset(self._task, description=f"{self._title}: {name}", total=None)
            self._bar.refresh()

    def __call__(self, fraction: float) -> None:
        """``fraction`` of the phase is done."""
        if not self._enabled or time.monotonic() < self._next:
            return
        if self._terminal:
            self._draw(fraction)
        else:
            print_out(f"{self._title}: {self._phase} {fraction:.0%}", sys.stderr)
        self._next = time.monotonic() + (_BETWEEN_REDRAWS if self._terminal else _BETWEEN_LINES)

    def _draw(self, fraction: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._task = self._bar.add_task(f"{self._title}: {self._phase}", total=1.0)
            self._bar.start()
        self._bar.update(self._task, completed=fraction, total=1.0)
        self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._enabled = False


def print_out(text: str, stream: Any = None) -> None:
    """Print a line; a reader that is gone, such as ``| head``, or a full disk is no reason to fail."""
    stream = stream or sys.stdout
    try:
        stream.write(text + "\n")
        stream.flush()
    except UnicodeEncodeError:  # a terminal or log that knows fewer letters
        stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding) + "\n")
        stream.flush()
    except (OSError, ValueError) as error:
        # Python would try to flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            print_out(f"hpcmpi: warning: standard output: {error}", sys.stderr)


def rendered(*parts: Any) -> str:
    """Text and tables of ``rich`` as wide as the terminal; printing by itself, it would exit when a reader is gone."""
    from rich.console import Console

    terminal, page = is_terminal(sys.stdout), io.StringIO()
    console = Console(file=page, width=None if terminal else 110, force_terminal=terminal, highlight=False)
    for part in parts:
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    return page.getvalue()


def rate(work_per_second: float, unit: str) -> str:
    """A rate as people read it: ``185 Gflop/s``."""
    for prefix in ("", "k", "M", "G", "T"):
        if work_per_second < 1000:
            return f"{work_per_second:.3g} {prefix}{unit}"
        work_per_second /= 1000
    return f"{work_per_second:.3g} P{unit}"


def summary(
    command: str,
    facts: Mapping[str, Scalar],
    verdict: str,
    arrays: Sequence[str],
    output: str | None,
    more: Sequence[str] = (),
) -> str:
    """The lines that end a run."""
    ranks = "1 rank" if str(facts["grid"]) == "1" else f"{facts['grid']} ranks"
    where = f"{facts['method_used']} on {ranks}, threads a rank: {facts['threads']}"
    seconds = f"{facts['seconds_median']:.3f} s"
    if facts["repeat"] != 1:
        seconds += f" (median of {facts['repeat']}, {facts['seconds_min']:.3f} to {facts['seconds_max']:.3f})"
    speed = rate(float(facts["rate"]), str(facts["rate_unit"]))
    lines = [f"{command}: {facts['size']}, {where}", f"  {seconds}, {speed}, {verdict}"]
    if output:
        lines.append(f"  {', '.join(arrays) or 'the record'} in {output}")
    return "\n".join([*lines, *(f"  {line}" if line else "" for line in more)])


def as_json(facts: Mapping[str, Any]) -> str:
    """The summary as one JSON object; JSON has no infinity and no NaN, so they become null."""
    odd = [name for name, value in facts.items() if isinstance(value, float) and not math.isfinite(value)]
    return json.dumps({**facts, **dict.fromkeys(odd)})


def explain(plans: Sequence[Cost], memory: int | None, profile: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what the ways to do the job would cost, the chosen one first: the cheapest that fits into ``memory``.

    ``memory`` is what a rank may take, in bytes, or None where nobody knows; ``profile`` that of the machine, or empty.
    """
    fitting = [plan for plan in plans if memory is None or plan.memory <= memory]
    ordered = [*fitting, *(plan for plan in plans if plan not in fitting)]
    if as_json:
        source = str(profile_path()) if profile else None
        more = [{"fits": plan in fitting, "profile": source} for plan in ordered]
        costs = [{field.name: getattr(plan, field.name) for field in dataclasses.fields(Cost)} for plan in ordered]
        print_out(json.dumps([{**cost, **said} for cost, said in zip(costs, more, strict=True)]))
        return
    cost_table(ordered)
    if ordered[0].note:
        print_out(ordered[0].note)
    if profile:
        print_out(
            f"Seconds by the speeds measured here on {profile.get('measured', 'an unknown day')}: {profile_path()}"
        )
    else:
        print_out("Seconds by default speeds; `hpcmpi doctor --measure --save` measures those of this machine.")
    if memory is not None and len(fitting) < len(plans):
        which = f"The last {len(plans) - len(fitting)} do not fit" if fitting else "None of these fits"
        print_out(f"{which}: {human_bytes(memory)} a rank is available here. Use more nodes.")


def cost_table(plans: Sequence[Cost]) -> None:
    """Print what the ways to do the job would cost."""
    from rich.table import Table

    table = Table(title="Costs of the busiest rank; the first line is what the job would do")
    for name in ("method", "grid", "words received", "x lower bound", "messages", "Gflop", "memory", "seconds"):
        table.add_column(name, justify="left" if name in ("method", "grid") else "right")
    for plan in plans[:_MOST_PLANS]:
        bound = f"{plan.words / plan.lower_bound:.2f}" if plan.lower_bound else "-"
        table.add_row(
            plan.method, " x ".join(map(str, plan.grid)), f"{plan.words:.3g}", bound,
            f"{plan.messages:.0f}", f"{plan.flops / 1e9:.4g}", human_bytes(plan.memory), f"{plan.seconds:.3g}",
        )  # fmt: skip
    print_out(rendered(table).rstrip("\n"))
    if len(plans) > _MOST_PLANS:
        print_out(f"... and {len(plans) - _MOST_PLANS} more, all of which --json lists")
