"""Result rows put together for reading: the users of one kind, and a method's mean over them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from cost import CostRow
from measure import Row, interval, paired, read_rows, wilson
from methods import METHODS
from networks import FOLDED
from users import DRAW, FOLD
from wer import WerRow

OURS, DENSE = "finepruning best", "dense"
HEADLINE = 0.7
"""The sparsity that the headline numbers are at."""
SMALL = {"dscnn-small": 0.5}
"""Networks of less than 50,000 weights, and their headline."""

PRUNES = {row: method.prunes for method in METHODS.values() for row in method.rows}
"""Every method that there can be a row of, in the order of the tables: does it prune?"""
EFFORTS = (OURS, "finepruning fast", "finepruning best, batch norms follow")
CONTROLS = [name for name in PRUNES if name not in (DENSE, *EFFORTS)]
"""What ours is compared with. The published rule is one of them, although finepruning has it."""
UNFOLDED = {row for method in METHODS.values() if method.unfolded for row in method.rows}

Rows = Mapping[str, Row]
"""A method's rows by user."""


@dataclass(frozen=True)
class Summary:
    """An accuracy over users, with its 95 % interval: that of the mean over users, or Wilson's."""

    mean: float
    low: float
    high: float
    text: str


def summary(rows: Iterable[Row], told: bool = False) -> Summary:
    """Over all outputs, or ``told`` the classes.

    A single row is one measurement, and so are draws, tested on the same samples, that agree.
    """
    rows = [*rows]
    right = [row.told if told else row.correct for row in rows]
    mean, half = interval(k / row.total for k, row in zip(right, rows, strict=True))
    draws = all(row.user.startswith(DRAW) for row in rows)
    if len(rows) > 1 and not (draws and half == 0):
        return Summary(mean, mean - half, mean + half, f"{100 * mean:.1f} ± {100 * half:.1f}")
    k, total = right[0], rows[0].total
    low, high = wilson(k, total)
    text = f"{100 * mean:.1f} ({k}/{total}, {100 * low:.1f} to {100 * high:.1f})"
    return Summary(mean, low, high, text)


def difference(ours: Rows, theirs: Rows) -> tuple[float, float, int]:
    """Mean of ours - theirs over the users that both have, its interval, and their number."""
    return paired(
        {user: row.accuracy for user, row in ours.items()},
        {user: row.accuracy for user, row in theirs.items()},
    )


def points(mean: float, half: float = math.nan) -> str:
    """A difference of accuracies in points, with its interval where there is one."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:+.1f}" + ("" if math.isnan(half) else f" ± {100 * half:.1f}")


@dataclass
class Group:
    """Users of one kind on one data set, and all that is measured of them for one network."""

    data: str
    network: str
    kind: str
    rows: dict[tuple[int, str, float], dict[str, Row]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Put a row where :meth:`at` finds it."""
        self.rows.setdefault((row.n, row.method, row.wanted), {})[row.user] = row

    def at(self, n: int, sparsity: float, method: str) -> Rows:
        """A method's rows by user, none if not measured. One that does not prune is the same at
        every sparsity."""
        return self.rows.get((n, method, sparsity if PRUNES.get(method, True) else 0.0), {})

    def methods(self, n: int, sparsity: float) -> list[str]:
        """What is measured there, in the order of the tables."""
        return [method for method in PRUNES if self.at(n, sparsity, method)]

    @property
    def applicable(self) -> list[str]:
        """What can be measured of this network, in the order of the tables."""
        return [m for m in PRUNES if not (self.network in FOLDED and m in UNFOLDED)]

    @property
    def settings(self) -> list[tuple[int, float]]:
        """``(n, sparsity)`` of every table; the one that matters most comes first."""
        pruned = {(n, wanted) for n, method, wanted in self.rows if PRUNES.get(method, True)}
        plain = {(n, self.headline) for n, method, _ in self.rows}
        return sorted(pruned | plain, key=lambda s: (s != (self.main, self.headline), -s[0], s[1]))

    @property
    def headline(self) -> float:
        """The sparsity that the headline numbers of this network are at."""
        return SMALL.get(self.network, HEADLINE)

    @property
    def main(self) -> int:
        """How many samples the headline numbers are from: 128, or as many as there are."""
        sizes = {n for n, _, _ in self.rows}
        return 128 if 128 in sizes else max(sizes, default=0)


MANY = 4
"""More kinds of users than this are put together where one line is to be said."""


def by_network(groups: Iterable[Group]) -> list[list[Group]]:
    """The groups of each network on each data set."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        found.setdefault((group.data, group.network), []).append(group)
    return [found[place] for place in sorted(found)]


def gathered(groups: Iterable[Group]) -> list[Group]:
    """Where there are many kinds of users, one group of them all; their names differ."""
    few: list[Group] = []
    for kinds in by_network(groups):
        if len(kinds) <= MANY:
            few += kinds
            continue
        few.append(replace(kinds[0], kind=f"all {len(kinds)} kinds", rows={}))
        for rows in (rows for group in kinds for rows in group.rows.values()):
            for row in rows.values():
                few[-1].add(row)
    return few


NAME = re.compile(
    r"(?P<data>[^-]+)-(?P<network>.+?)(?P<smoke>-smoke)?-(?P<device>cpu-[^-]+)"
    r"-finepruning(?P<version>[^-]+)-torch(?P<torch>[^-]+)\.csv"
)


@dataclass(frozen=True)
class Source:
    """A result file, and what its name says."""

    path: Path
    data: str
    network: str
    device: str
    version: str
    torch: str


def sources(folder: Path, smoke: bool = False) -> list[Source]:
    """The newest result file of each data set and network; the others are named and passed over."""
    newest: dict[tuple[str, str], Source] = {}
    for path in sorted(folder.glob("*.csv"), key=lambda path: _versions(path.name)):
        name = NAME.fullmatch(path.name)
        if name is None:
            print(f"{path.name}: not the name of a result file", file=sys.stderr)
        elif bool(name["smoke"]) == smoke:
            parts = (name[part] for part in ("data", "network", "device", "version", "torch"))
            source = Source(path, *parts)
            older = newest.get((source.data, source.network))
            if older:
                print(f"{older.path.name}: passed over, there is a newer one", file=sys.stderr)
            newest[source.data, source.network] = source
    return sorted(newest.values(), key=lambda source: (source.data, source.network))


def _versions(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name.partition("-finepruning")[2])]


def read_groups(found: Iterable[Source]) -> list[Group]:
    """The groups of all files of accuracies; files with other columns are named and passed over."""
    groups: dict[tuple[str, str, str], Group] = {}
    for source in found:
        if source.data in ("cost", "wer", "panel", "change", "device", "devicetime", "artifact"):
            continue
        try:
            rows = whole(read_rows(source.path, Row))
        except ValueError as error:
            print(error, file=sys.stderr)
            continue
        for row in rows:
            place = (source.data, source.network, row.kind)
            groups.setdefault(place, Group(*place)).add(row)
    return [*groups.values()]


def whole(rows: Iterable[Row]) -> list[Row]:
    """The folds of a person as one row, as if all tests had been one set; the costs are means."""
    people: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        person = row.user.partition(FOLD)[0]
        people.setdefault((row.kind, person, row.n, row.method, row.wanted), []).append(row)
    return [_joined(person, folds) for (_, person, *_), folds in people.items()]


def _joined(person: str, folds: list[Row]) -> Row:
    if len(folds) == 1:
        return replace(folds[0], user=person)
    found = {name: [getattr(row, name) for row in folds] for name in vars(folds[0])}
    sums = {name: sum(found[name]) for name in ("correct", "told", "total")}
    means = {name: float(np.mean(v)) for name, v in found.items() if type(v[0]) is float}
    return replace(folds[0], user=person, **sums, **means)


def read_cost(found: Iterable[Source]) -> list[CostRow]:
    """The rows that ``cost.py`` wrote."""
    return [
        row for source in found if source.data == "cost" for row in read_rows(source.path, CostRow)
    ]


def read_wer(found: Iterable[Source]) -> list[WerRow]:
    """The rows that ``wer.py`` wrote."""
    return [
        row for source in found if source.data == "wer" for row in read_rows(source.path, WerRow)
    ]
