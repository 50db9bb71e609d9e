"""What is measured of a method's answers, with which interval, and the files that it goes into."""

from __future__ import annotations

import csv
import math
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from users import User

import finepruning

RESULTS = Path(__file__).parent.parent / "results"


@dataclass
class Answer:
    """A method's outputs for the test samples, and what it cost to get there."""

    outputs: Tensor
    sparsity: float = 0.0
    seconds: float = math.nan
    forward_passes: float = math.nan
    peak_mb: float = math.nan
    artifact_bytes: float = math.nan
    solve_seconds: float = math.nan
    dense_seconds: float = math.nan


@dataclass
class Row:
    """One line of a result file. ``wanted`` is the sparsity asked for, ``sparsity`` that reached.

    ``correct`` of ``total`` test samples are right over all outputs of the network, ``told`` when
    it is restricted to the user's classes. The cost is that of adapting to ``n`` samples:
    ``forward_passes`` over these ``n`` by the dense network would take as many operations. Of our
    own ``seconds``, ``solve_seconds`` went into the solves; beside them, in ``dense_seconds``, what
    the dense network took for the ``n`` samples at the same time.
    """

    kind: str
    user: str
    n: int
    method: str
    wanted: float
    sparsity: float
    correct: int
    told: int
    total: int
    seconds: float
    forward_passes: float
    peak_mb: float
    artifact_bytes: float
    solve_seconds: float
    dense_seconds: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def told_accuracy(self) -> float:
        return self.told / self.total


def right_answers(outputs: Tensor, user: User) -> tuple[int, int]:
    """Right answers over all outputs, and when told the user's classes."""
    classes = torch.tensor(user.classes)
    told = classes[outputs[:, classes].argmax(1)]
    return int((outputs.argmax(1) == user.labels).sum()), int((told == user.labels).sum())


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean over users or draws, and half the width of its 95 % t-interval (NaN for one).

    >>> [round(v, 4) for v in interval([0.7, 0.8, 0.9])]
    [0.8, 0.2484]
    """
    v = np.array(list(values), dtype=float)
    if len(v) < 2:
        return float(v.mean()), math.nan
    return float(v.mean()), float(stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5)


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson: of one user on one test set.

    >>> [round(v, 3) for v in wilson(218, 250)]
    [0.825, 0.908]
    """
    found = stats.binomtest(right, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, float, int]:
    """Mean of the differences over the users that both have, its interval, and their number."""
    users = [user for user in ours if user in theirs]
    if not users:
        return math.nan, math.nan, 0
    return *interval(ours[user] - theirs[user] for user in users), len(users)


def result_file(name: str, folder: Path = RESULTS) -> Path:
    """Where the results of ``name`` go: named by data, device and versions."""
    versions = f"finepruning{finepruning.__version__}-torch{torch.__version__.split('+')[0]}"
    return folder / f"{name}-cpu-{platform.machine()}-{versions}.csv"


class Results:
    """A CSV that grows as rows are measured; a row that is there is not measured again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path = path
        self.rows = read_rows(path, Row)
        self._there = {(r.kind, r.user, r.n, r.method, r.wanted) for r in self.rows}

    def has(self, user: User, method: str, wanted: float) -> bool:
        """Whether this row has been measured."""
        return (user.kind, user.name, user.n, method, wanted) in self._there

    def add(self, user: User, method: str, wanted: float, answer: Answer) -> None:
        """Score an answer and write its row at once, unless there is one."""
        if self.has(user, method, wanted):
            return
        right, told = right_answers(answer.outputs, user)
        cost = {k: v for k, v in vars(answer).items() if k not in ("outputs", "sparsity")}
        row = Row(
            user.kind, user.name, user.n, method, wanted, answer.sparsity,
            right, told, len(user.labels), **cost,
        )  # fmt: skip
        append_row(self.path, row)
        self.rows.append(row)
        self._there.add((user.kind, user.name, user.n, method, wanted))
        print(
            f"{user.name:<18}{user.n:>4}  {method:<42}{answer.sparsity:5.0%}"
            f"{row.accuracy:8.1%}{row.told_accuracy:8.1%}{answer.seconds:8.1f} s",
            file=sys.stderr,
            flush=True,
        )


AnyRow = TypeVar("AnyRow")


def read_rows(path: Path, of: type[AnyRow]) -> list[AnyRow]:
    """The rows of a result file, none where there is none; ``of`` is a dataclass of its columns.

    Raises ``ValueError`` where the columns are others.
    """
    if not path.exists():
        return []
    kinds: dict[str, Any] = {"str": str, "int": int, "float": float}
    columns = {f.name: kinds[str(f.type)] for f in fields(of)}  # type: ignore[arg-type]
    with path.open(newline="") as file:
        lines = csv.DictReader(file)
        if lines.fieldnames != list(columns):
            raise ValueError(f"{path.name}: not the columns of today; move it away to measure anew")
        return [of(**{name: kind(line[name]) for name, kind in columns.items()}) for line in lines]


def append_row(path: Path, row: Any) -> None:
    """Write a row, a dataclass, at the end of its file."""
    values = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(values), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(values)
