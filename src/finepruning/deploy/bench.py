"""Bench: what networks take on this machine, compared in one run.

Timings of a busy machine drift: all are run in turn, round by round, and compared within a round.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEVEL = 6
"""Of gzip: what a download is compressed with."""


@dataclass(frozen=True)
class Timing:
    """How long one call takes, in milliseconds, and beside the reference."""

    name: str
    median: float
    low: float
    """A quarter of the calls took less;"""
    high: float
    """a quarter took more."""
    times: float
    """How many times as fast as the reference: the median over rounds."""


def paired(
    calls: Mapping[str, Callable[[], object]], reference: str, rounds: int = 15, warm: int = 2
) -> list[Timing]:
    """Time ``calls`` in turn, ``rounds`` times, after ``warm`` rounds that do not count.

    >>> two = paired({"a": lambda: None, "b": lambda: sum(range(10000))}, "b", rounds=5)
    >>> two[0].times > 1, two[1].times
    (True, 1.0)
    """
    names = [*calls]
    took: dict[str, list[float]] = {name: [] for name in names}
    for i in range(warm + rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:  # none is always the one behind the largest
            started = time.perf_counter()
            calls[name]()
            if i >= warm:
                took[name].append(1000 * (time.perf_counter() - started))
    base = np.array(took[reference])
    return [_timing(name, np.array(took[name]), base) for name in names]


def _timing(name: str, took: np.ndarray, base: np.ndarray) -> Timing:
    low, median, high = (float(q) for q in np.quantile(took, (0.25, 0.5, 0.75)))
    return Timing(name, median, low, high, float(np.median(base / took)))


def sizes(files: Sequence[Path]) -> tuple[int, int]:
    """Bytes on disk, and of a download (gzip)."""
    held = [file.read_bytes() for file in files]
    return sum(map(len, held)), sum(len(gzip.compress(data, LEVEL)) for data in held)


def processor() -> str:
    """Which one it is, and whether it has instructions for 8 bits."""
    from .export import has_vnni

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(v.partition(":")[2].strip() for v in lines if v.startswith("model name"))
    except (OSError, StopIteration):
        name = "unknown"
    return f"{name}, {'with' if has_vnni() else 'without'} VNNI"
