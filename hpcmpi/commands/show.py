"""Show what a result file holds: parameters, verdict, phases, ranks.

Phases are given as the least, mean and most seconds over the ranks; the imbalance is the most over the mean.

\b
Example:
  hpcmpi show C.h5
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hpcmpi.errors import InputError, Status
from hpcmpi.record import counted

_UNCHECKED = "not checked"  # begins the verdict of a run without a check
_OUTCOME = (
    "verified",
    "verdict",
    "complete",
    "seconds_min",
    "seconds_median",
    "seconds_max",
    "repeat",
    "rate",
    "rate_unit",
)


@click.command(help=__doc__)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all attributes and tables as one JSON object.")
def command(file: Path, as_json: bool) -> int:
    """Print one run after another."""
    from hpcmpi.runner.report import rendered
    from hpcmpi.store.result import results

    try:
        with results(file) as groups:  # until the text is made: damage shows where something is missing
            runs = {group.name.lstrip("/"): _content(group) for group in groups}
            if as_json:
                text = json.dumps(runs, indent=1) + "\n"
            else:
                text = "".join(rendered(*_page(f"{file}: {name}", content)) for name, content in runs.items())
    except InputError as error:
        click.echo(f"hpcmpi: error: {error}", err=True)
        return error.status
    click.echo(text, nl=False)
    return Status.DONE


def _content(group: Any) -> dict[str, Any]:
    """Attributes, datasets and tables of a run as plain Python values."""
    from hpcmpi.store.result import is_array, phase_names, rows

    content: dict[str, Any] = {"attributes": {key: _plain(value) for key, value in group.attrs.items()}, "arrays": {}}

    def visit(name: str, item: Any) -> None:
        if is_array(name, item):
            content["arrays"][name] = {"shape": list(item.shape), "dtype": str(item.dtype)}

    group.visititems(visit)
    for name in ("phases", "ranks"):
        if name in group:
            content[name] = _plain(rows(group, name))
    if "phases" in group:
        content["phase_names"] = phase_names(group)
    if "provenance" in group:
        content["provenance"] = {key: _plain(value) for key, value in group["provenance"].attrs.items()}
    return content


def _plain(value: Any) -> Any:
    """``value`` without NumPy's types."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list) or (hasattr(value, "dtype") and getattr(value, "ndim", False)):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has neither


def _page(title: str, content: dict[str, Any]) -> Iterator[Any]:
    """Lines and tables that tell of one run."""
    from rich.table import Table

    from hpcmpi.record import human_bytes

    attributes = content["attributes"]
    verdict = "WRONG"
    if "verdict" not in attributes:  # an input, such as a converted graph, that makes no claim
        verdict = "data"
    elif attributes.get("verified"):
        verdict = "verified"
    elif "verified" not in attributes or str(attributes.get("verdict", "")).startswith(_UNCHECKED):
        verdict = "NOT VERIFIED"
    state = "" if attributes.get("complete") else ", INCOMPLETE"
    yield f"{title}: {verdict}{state}"
    if "verdict" in attributes:
        yield f"  {attributes['verdict']}"
    for name, about in content["arrays"].items():
        shape = " x ".join(map(str, about["shape"])) or "one"
        yield f"  /{title.rpartition(' ')[2]}/{name}: {shape} {about['dtype']}"
    listing = Table(show_header=False, box=None, padding=(0, 2))
    for key, value in attributes.items():
        if key not in ("verdict", "complete", "verified", "written_by"):
            listing.add_row(key, human_bytes(value) if key.endswith("_bytes") else str(value))
    yield listing
    if content.get("phases"):
        yield _phases(content)
    if content.get("ranks"):
        hosts = sorted({rank["host"] for rank in content["ranks"]})
        peaks = [rank["memory_peak_bytes"] - rank["memory_baseline_bytes"] for rank in content["ranks"]]
        yield (
            f"  {counted(len(content['ranks']))} on {', '.join(hosts)}; memory above the imports: "
            f"{human_bytes(min(peaks))} to {human_bytes(max(peaks))} a rank"
        )
    for key, value in content.get("provenance", {}).items():
        if key in ("argv", "started", "launcher", "version_hpcmpi", "version_mpi", "git_revision") and value:
            yield f"  {key}: {value}"


def _phases(content: dict[str, Any]) -> Any:
    """Table of the phases over all ranks."""
    from rich.table import Table

    from hpcmpi.record import human_bytes

    table = Table("phase", "min s", "mean s", "max s", "imbalance", "received", "messages")
    for column in table.columns[1:]:
        column.justify = "right"
    for index, name in enumerate(content["phase_names"]):
        cells = [row[index] for row in content["phases"]]
        seconds = [cell["seconds"] for cell in cells]
        mean = sum(seconds) / len(seconds)
        table.add_row(
            name, f"{min(seconds):.4f}", f"{mean:.4f}", f"{max(seconds):.4f}",
            f"{max(seconds) / mean:.2f}" if mean else "-",
            human_bytes(sum(cell["bytes_received"] for cell in cells)), str(sum(cell["messages"] for cell in cells)),
        )  # fmt: skip
    return table
