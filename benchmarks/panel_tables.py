"""The panel on the results page: lines of tables, from the rows in ``results/``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from change import HEAD as CHANGE_HEAD
from change import STEP_HEAD, Change, Step, change_lines, step_lines
from groups import Source
from measure import read_rows
from panel_choose import HEAD as CHOOSE_HEAD
from panel_choose import Choice, chosen
from panel_judge import grouped, summary
from panel_levels import HEAD as LEVELS_HEAD
from panel_levels import Level
from panel_levels import lines as levels_of
from panel_others import HEAD as OTHERS_HEAD
from panel_others import Other
from panel_others import lines as others_of
from panel_whole import WholeRow

CHOOSE, OTHERS, LEVELS = "choose", "others", "levels"
"""What stands for the network in the names of these files."""
HEAD = ("network", "asked for", "people", "dense", "gain", "worst", "worse by a point",
        "classes lost", "new class", "log-loss", "sparsity", "dense returned")  # fmt: skip

Lines = tuple[Sequence[str], list[Sequence[str]]]


def choose_lines(found: Iterable[Source]) -> Lines:
    """Constants chosen with each network left out, and what they do there."""
    rows = [
        row for s in found if (s.data, s.network) == ("panel", CHOOSE)
        for row in read_rows(s.path, Choice)
    ]  # fmt: skip
    return CHOOSE_HEAD, [*chosen(rows)] if rows else []


def other_lines(found: Iterable[Source]) -> Lines:
    """Networks whose outputs are no classes."""
    rows = [
        row for s in found if (s.data, s.network) == ("panel", OTHERS)
        for row in read_rows(s.path, Other)
    ]  # fmt: skip
    return OTHERS_HEAD, [*others_of(rows)] if rows else []


def level_lines(found: Iterable[Source]) -> Lines:
    """Every sparsity beside the one chosen, the tolerance chosen with each network left out."""
    rows = [
        row for s in found if (s.data, s.network) == ("panel", LEVELS)
        for row in read_rows(s.path, Level)
    ]  # fmt: skip
    return LEVELS_HEAD, [*levels_of(rows)] if rows else []


def changes(found: Iterable[Source]) -> dict[str, Lines]:
    """What a monitor notices and an update mends."""
    parts: dict[str, list[Change]] = {"class": [], "device": []}
    steps: list[Step] = []
    for s in found:
        if s.data == "change" and s.network in parts:
            parts[s.network] += read_rows(s.path, Change)
        elif s.data == "change":
            steps += read_rows(s.path, Step)
    return {
        "new_class": (CHANGE_HEAD, [*change_lines(parts["class"])]),
        "device": (CHANGE_HEAD, [*change_lines(parts["device"])]),
        "twenty": (STEP_HEAD, [*step_lines(steps)]),
    }


AUTO = "auto"
LEAST = 0.05
"""A network with fewer zeros is the dense one."""


def whole_rows(found: Iterable[Source]) -> list[WholeRow]:
    """People with whom all of personalize was run."""
    return [
        row for s in found if s.data == "panel" and s.network not in (CHOOSE, OTHERS, LEVELS)
        for row in read_rows(s.path, WholeRow)
    ]  # fmt: skip


def whole_lines(rows: Sequence[WholeRow]) -> Lines:
    """A line for each network and sparsity, and for all together."""
    lines: list[Sequence[str]] = []
    groups = grouped(rows, lambda r: f"{r.network}|{r.wanted}")  # type: ignore[attr-defined]
    for of in groups.values():
        lines.append(_line(of[0].network, named(of[0].wanted), of))  # type: ignore[attr-defined]
    if rows:
        lines.append(_line("all people", "", rows))
    return HEAD, lines


def size_lines(rows: Sequence[WholeRow]) -> Lines:
    """A line for each number of samples."""
    by = grouped(rows, lambda r: str(r.n))
    return ("samples", "", *HEAD[2:]), [_line(n, "", by[n]) for n in sorted(by, key=int)]


def named(wanted: str) -> str:
    """A sparsity as a reader wants it: 50 %, or that it was chosen."""
    return wanted if wanted == AUTO else f"{float(wanted):.0%}"


def _line(name: str, wanted: str, rows: Sequence[WholeRow]) -> Sequence[str]:
    s = summary(rows)
    returned = sum(row.wanted != "0" and row.sparsity < LEAST for row in rows)
    return (
        name, wanted, str(s.cases), f"{100 * s.dense:.1f}", f"{100 * s.gain:+.1f}",
        f"{100 * s.worst:+.1f}", f"{s.harmed:.1%}", f"{s.lost}/{s.recognised}",
        "-" if np.isnan(s.new) else f"{s.new:.2f}", f"{s.loss:+.3f}",
        f"{np.mean([row.sparsity for row in rows]):.0%}", f"{returned / len(rows):.0%}",
    )  # fmt: skip
