"""The read-out's constants, chosen with each network of the panel left out in turn.

Every setting of a grid is judged on every network, the check at the end included. What the others
choose is then reported on the network left out. The rows go to ``results/panel-choose-...csv``,
those that are there are not measured again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import append_row, read_rows, result_file
from panel_judge import aligned, judge, summary
from panel_readouts import Today

from finepruning.research import ReadoutOptions

SIZES = (16, 32, 128)
GRID: dict[str, tuple[float, ...]] = {
    "slope": (1.6, 3.2, 6.4),
    "clear": (0.25, 0.37, 0.5),
    "growth": (0.0, 0.25, 0.5),
}
SMOKE_GRID: dict[str, tuple[float, ...]] = {"slope": (4.0, 8.0)}


@dataclass
class Choice:
    """What a setting does on one network. Shares, and nats a test."""

    setting: str
    network: str
    cases: int
    dense: float
    gain: float
    worst: float
    harmed: float
    recognised: int
    lost: int
    new: float
    loss: float


def settings(grid: dict[str, tuple[float, ...]] = GRID) -> dict[str, ReadoutOptions]:
    """Every combination, by a name that says it."""
    found = {}
    for values in itertools.product(*grid.values()):
        given = dict(zip(grid, values, strict=True))
        found[" ".join(f"{k}={v:g}" for k, v in given.items())] = ReadoutOptions(**given)
    return found


def worth(rows: Iterable[Choice]) -> float:
    """What is chosen by, over networks that all weigh alike: points gained; less one for each
    percent of people harmed above 1, each percent of recognised classes lost above 0.5, and each
    five percent of a new class's recall below 0.85."""
    rows = [*rows]
    new = [row.new for row in rows if not math.isnan(row.new)]
    gain, harmed = (
        float(np.mean([getattr(row, name) for row in rows])) for name in ("gain", "harmed")
    )
    lost = sum(row.lost for row in rows) / max(1, sum(row.recognised for row in rows))
    short = max(0.0, 0.85 - float(np.mean(new))) if new else 0.0
    return 100 * (gain - max(0.0, harmed - 0.01) - max(0.0, lost - 0.005)) - 20 * short


def best(rows: Sequence[Choice], without: str = "") -> str:
    """The setting that the networks, but for one, choose; of equal ones the first."""
    by: dict[str, list[Choice]] = {}
    for row in rows:
        if row.network != without:
            by.setdefault(row.setting, []).append(row)
    return max(by, key=lambda setting: worth(by[setting]))


def choose(
    names: Sequence[str],
    folder: Path,
    people: int,
    sizes: tuple[int, ...],
    smoke: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> str:
    """Measure what is missing, and tell what is chosen."""
    path = result_file("panel-choose-smoke" if smoke else "panel-choose")
    if smoke:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    there = {(row.setting, row.network) for row in read_rows(path, Choice)}
    for setting, options in settings(SMOKE_GRID if smoke else GRID).items():
        for name in [name for name in names if (setting, name) not in there]:
            reader = Today(options, checked=True)
            s = summary(judge(setting, reader, folder, [name], people, sizes, progress=progress))
            row = Choice(
                setting, name, s.cases, s.dense, s.gain, s.worst, s.harmed, s.recognised, s.lost,
                s.new, s.loss,
            )  # fmt: skip
            append_row(path, row)
    return aligned([[*HEAD], *chosen(read_rows(path, Choice))])


HEAD = ("left out", "chosen by the others", "people", "dense", "gain", "worst", "harmed", "lost",
        "new class", "log-loss")  # fmt: skip


def chosen(rows: Sequence[Choice]) -> list[list[str]]:
    """A line for each network left out, with what the others' choice does on it; their means;
    what all of them choose together; and what is in use."""
    names = [*dict.fromkeys(row.network for row in rows)]
    held = []
    for name in names if len(names) > 1 else []:
        setting = best(rows, name)
        held += [row for row in rows if (row.setting, row.network) == (setting, name)]
    lines = [_line(row.network, row.setting, [row]) for row in held]
    if held:
        lines.append(_line("their mean", "", held))
    for name, setting in {"none": best(rows), "in use": in_use()}.items():
        if together := [row for row in rows if row.setting == setting]:
            lines.append(_line(name, setting, together))
    return lines


def in_use() -> str:
    """The setting that is the default."""
    return " ".join(f"{name}={getattr(ReadoutOptions(), name):g}" for name in GRID)


def _line(name: str, setting: str, rows: Sequence[Choice]) -> list[str]:
    new = [row.new for row in rows if not math.isnan(row.new)]
    mean = {
        k: float(np.mean([getattr(row, k) for row in rows]))
        for k in ("dense", "gain", "harmed", "loss")
    }
    return [
        name, setting, str(sum(row.cases for row in rows)), f"{100 * mean['dense']:.1f}",
        f"{100 * mean['gain']:+.1f}", f"{100 * min(row.worst for row in rows):+.1f}",
        f"{100 * mean['harmed']:.1f} %",
        f"{sum(row.lost for row in rows)}/{sum(row.recognised for row in rows)}",
        f"{np.mean(new):.2f}" if new else "-", f"{mean['loss']:+.3f}",
    ]  # fmt: skip
