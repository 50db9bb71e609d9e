"""All of personalize with its defaults, on a few people of every network of the panel.

The rows go to ``results/panel-NETWORK-...csv``, those that are there are not measured again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import logits, measured
from measure import append_row, read_rows, result_file
from panel_judge import Score, score
from panel_kinds import PHOTOS
from panel_networks import NETWORKS, Network
from panel_people import Case, Data, kinds_of, person
from panel_photos import Samples
from torch import Tensor, nn

import finepruning
from finepruning.research import BATCH_SIZE

SIZES = (32, 128)
MOST_TESTS = 300
"""Tests of a person at most: every one costs a forward pass of every finished network."""


@dataclass
class WholeRow(Score):
    """A person's score, with what was asked for and what it took. ``seconds`` are those of
    personalize."""

    wanted: str
    """Sparsity, a number or ``auto``."""
    sparsity: float
    passes: float


class Whole:
    """A CSV that grows, for one network."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path, self.rows = path, read_rows(path, WholeRow)
        self._there = {self._key(r) for r in self.rows}

    @staticmethod
    def _key(row: Any) -> tuple[Any, ...]:
        return row.kind, row.person, row.n, row.method, row.wanted

    def has(self, case: Case, method: str, wanted: str) -> bool:
        """Whether this row has been measured."""
        return (case.kind, case.person, case.n, method, wanted) in self._there

    def add(self, found: Score, wanted: str, sparsity: float, passes: float) -> None:
        """Write a row at once."""
        row = WholeRow(**asdict(found), wanted=wanted, sparsity=sparsity, passes=passes)
        append_row(self.path, row)
        self.rows.append(row)
        self._there.add(self._key(row))
        print(
            f"{row.network:<12}{row.kind:<26}{row.person:<8}{row.n:>4}{sparsity:5.0%}"
            f"{row.dense:8.1%} -> {row.after:.1%}, log-loss {row.loss_dense:.3f} ->"
            f" {row.loss_after:.3f}, lost {row.lost} of {row.recognised} {row.which}",
            file=sys.stderr,
            flush=True,
        )


def cases(data: Data, count: int, sizes: Sequence[int], names: list[str] | None) -> Iterator[Case]:
    """The people, but not those of whom there are logits only; of many tests every so manieth."""
    for kind in kinds_of(data):
        if PHOTOS in kind.pools or (names is not None and kind.name not in names):
            continue
        for seed in range(count):
            for case in person(data, kind, seed, tuple(sizes)):
                yield fewer_tests(case)


def fewer_tests(case: Case, most: int = MOST_TESTS) -> Case:
    """The same person with fewer tests, each class still weighing as much as before."""
    if len(case.tests) <= most:
        return case
    truth = case.data.labels[case.tests]
    chosen = np.zeros(len(truth), dtype=bool)
    for k in np.unique(truth):
        of = np.flatnonzero(truth == k)
        chosen[of[: max(10, round(most * len(of) / len(truth)))]] = True
    weights = case.weights[chosen].copy()
    for k in np.unique(truth):
        now = truth[chosen] == k
        weights[now] *= (truth == k).sum() / now.sum()
    return Case(
        case.data, case.kind, case.person, case.n, case.own, case.tests[chosen], weights, case.new
    )


class Inputs:
    """The network's inputs for rows of its cache, from one pool at a time."""

    def __init__(self, network: Network, data: Data) -> None:
        self.data, self._pools = data, network.pools
        self._held: tuple[int, Samples] | None = None

    def __call__(self, rows: np.ndarray) -> Tensor:
        (pool,) = np.unique(self.data.pool[rows]).tolist()
        if self._held is None or self._held[0] != pool:
            for i, (_, samples) in enumerate(self._pools()):
                if i == pool:
                    self._held = pool, samples
                    break
        assert self._held is not None
        return self._held[1].x[torch.from_numpy(self.data.source[rows]).long()]


def whole(
    name: str,
    folder: Path,
    sparsities: Sequence[str],
    count: int = 2,
    sizes: Sequence[int] = SIZES,
    names: list[str] | None = None,
    method: str = "default",
    options: dict[str, Any] | None = None,
    smoke: bool = False,
) -> list[WholeRow]:
    """Measure what is missing for one network; ``options`` go to :class:`finepruning.Config`."""
    data = Data(folder / f"{name}.npz")
    path = result_file(f"panel-{name}-smoke" if smoke else f"panel-{name}")
    if smoke:
        path.unlink(missing_ok=True)
    results = Whole(path)
    model: nn.Module | None = None
    inputs = Inputs(NETWORKS[name], data)
    for case in cases(data, count, sizes, names):
        wanted = [s for s in sparsities if not results.has(case, method, s)]
        if not wanted:
            continue
        model = model or NETWORKS[name].load()
        x, tests = inputs(case.own), inputs(case.tests)
        for sparsity in wanted:
            choices = {"task": "classes"} | (options or {})
            asked = sparsity if sparsity == "auto" else float(sparsity)
            config = finepruning.Config(sparsity=asked, **choices)
            with measured() as cost:
                batches = torch.split(x, BATCH_SIZE)
                result = finepruning.personalize(model, batches, config=config, progress=False)
            after = logits(result.model, tests).double().numpy()
            found = score(case, method, after, cost.seconds)
            results.add(found, sparsity, result.report.sparsity, result.report.forward_passes)
        if smoke:
            break
    return results.rows
