"""The output block of Graph500: statistics of times, edges and TEPS over the searches.

TEPS are averaged by the harmonic mean, whose deviation is that of the reciprocals by the delta method (Smith 1988), as
the specification has it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def statistics(values: NDArray[np.float64]) -> dict[str, float]:
    """Minimum, quartiles, maximum, mean and standard deviation."""
    quartiles = np.percentile(values, [0, 25, 50, 75, 100])
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    names = ("min", "firstquartile", "median", "thirdquartile", "max")
    return dict(zip(names, map(float, quartiles), strict=True)) | {"mean": float(values.mean()), "stddev": deviation}


def harmonic(values: NDArray[np.float64]) -> dict[str, float]:
    """Harmonic mean and its deviation."""
    reciprocals = 1 / values
    mean = 1 / float(reciprocals.mean())
    count = values.size
    deviation = float(reciprocals.std(ddof=0)) / max(1, count - 1) ** 0.5 * mean**2 if count > 1 else 0.0
    return {"harmonic_mean": mean, "harmonic_stddev": deviation}


def block(
    scale: int,
    edge_factor: int,
    ranks: int,
    construction: float,
    seconds: NDArray[np.float64],
    edges: NDArray[np.float64],
    checked: bool,
    validation: NDArray[np.float64],
) -> Iterator[str]:
    """The lines, as Graph500's reference program prints them."""
    head = {
        "SCALE": scale, "edgefactor": edge_factor, "NBFS": seconds.size, "num_mpi_processes": ranks,
        "construction_time": f"{construction:.6g}",
    }  # fmt: skip
    yield from (f"{name + ':':32}{value}" for name, value in head.items())
    teps = edges / seconds
    tables = {"time": statistics(seconds), "nedge": statistics(edges), "TEPS": statistics(teps) | harmonic(teps)}
    del tables["TEPS"]["mean"], tables["TEPS"]["stddev"]
    tables["validate"] = statistics(validation)
    for what, table in tables.items():
        for name, value in table.items():
            label = f"bfs  {name}_{what}:" if what != "validate" else f"bfs  {name}_validate:"
            yield f"{label:32}{value:.6g}"
    yield f"{'validation:':32}{'passed' if checked else 'FAILED'}"
