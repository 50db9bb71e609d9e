"""Every sparsity beside the one that is chosen, and the tolerance that other networks choose.

For a person, each sparsity of the path is tried: how many answers the held-back samples say may
change there, and what ``personalize(sparsity=...)`` gives on the tests. From that follows what any
tolerance would choose, and so which one is best on all networks but one. The rows go to
``results/panel-levels-...csv``, those that are there are not measured again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import logits
from measure import append_row, read_rows, result_file
from panel_judge import HARM, aligned, score
from panel_networks import NETWORKS
from panel_people import Case, Data
from panel_whole import SIZES, Inputs, cases

import finepruning
from finepruning.research import BATCH_SIZE, HIGH, LOW, MIDDLE

TOLERANCES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.3)


@dataclass
class Level:
    """One sparsity for one person."""

    network: str
    kind: str
    person: str
    n: int
    sparsity: float
    at_most: float
    """Share of the answers that may change, as samples held back say."""
    worth: int
    """Whether it is worth having but for that."""
    dense: float
    unpruned: float
    """Accuracy of the dense weights with what else is done."""
    after: float
    """Of the network at this sparsity, or of the dense weights where the check returns them."""
    kept: int
    """Whether it does not."""


def levels(
    names: Sequence[str],
    folder: Path,
    people: int,
    sizes: Sequence[int] = SIZES,
    kinds: list[str] | None = None,
    smoke: bool = False,
    only: Sequence[float] = (),
) -> str:
    """Measure what is missing, and tell what is chosen; ``only`` some of the sparsities."""
    path = result_file("panel-levels-smoke" if smoke else "panel-levels")
    if smoke:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    there = {(r.network, r.kind, r.person, r.n) for r in read_rows(path, Level)}
    for name in names:
        data = Data(folder / f"{name}.npz")
        inputs, model = Inputs(NETWORKS[name], data), None
        for case in cases(data, people, sizes, kinds):
            if (name, case.kind, case.person, case.n) in there:
                continue
            model = model or NETWORKS[name].load()
            for row in _tried(case, model, inputs, only):
                append_row(path, row)
                print(*vars(row).values(), file=sys.stderr, flush=True)
            if smoke:
                break
    return aligned([[*HEAD], *lines(read_rows(path, Level))])


def _tried(
    case: Case, model: torch.nn.Module, inputs: Inputs, only: Sequence[float]
) -> list[Level]:
    """A row for each sparsity; all of them or none, so that an interrupted run goes on."""
    x, tests = inputs(case.own), inputs(case.tests)

    def run(sparsity: float | str, **options: Any) -> finepruning.Result:
        config = finepruning.Config(sparsity=sparsity, task="classes", **options)
        return finepruning.personalize(
            model, torch.split(x, BATCH_SIZE), config=config, progress=False
        )

    def after(result: finepruning.Result) -> float:
        return score(case, "", logits(result.model, tests).double().numpy()).after

    def checks(result: finepruning.Result) -> dict[float, Any]:
        assert result.report.choice is not None
        return {level["sparsity"]: level["check"] for level in result.report.choice["levels"]}

    tried = checks(run("auto", choice=1.0))
    if not tried or (least := tried[min(tried)]["at_most"]) is None:
        return []  # too few samples to tell anything
    if not only or min(only) < min(tried):
        # What fails for the tolerance alone is told by the other run.
        tried = checks(run("auto", choice=max(0.0, least - 1e-9))) | tried
    dense = score(case, "", case.data.logits[case.tests].astype(np.float64)).dense
    unpruned = after(run("auto", choice=0.0))
    rows = []
    for sparsity, check in sorted(tried.items()):
        if only and sparsity not in only:
            continue
        most = math.inf if check["at_most"] is None else check["at_most"]
        found = run(sparsity)
        rows.append(
            Level(
                case.network, case.kind, case.person, case.n, sparsity, most, int(check["passed"]),
                dense, unpruned, after(found), int(found.report.check["passed"]),
            )
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Taken:
    """What one person gets."""

    sparsity: float
    accuracy: float
    dense: float


def taken(rows: Sequence[Level], tolerance: float) -> Taken:
    """What a tolerance chooses from one person's ``rows``, in the order in which the package
    tries."""
    there = {row.sparsity: row for row in rows}
    chosen: Level | None = None
    for tried in (MIDDLE[0] + HIGH[0], LOW[0]):
        for row in (there[s] for s in tried if s in there):
            if row.at_most > tolerance or not row.worth:
                break
            chosen = row
        if chosen:
            break
    if chosen is None:
        return Taken(0.0, rows[0].unpruned, rows[0].dense)
    return Taken(chosen.sparsity, chosen.after, rows[0].dense)


def fixed(rows: Sequence[Level], sparsity: float) -> Taken:
    """What one person gets from one sparsity."""
    for row in rows:
        if row.sparsity == sparsity:
            return Taken(sparsity, row.after, row.dense)
    return Taken(0.0, rows[0].unpruned, rows[0].dense)


def by_person(rows: Sequence[Level]) -> Iterator[list[Level]]:
    """The rows of each person and size."""
    groups: dict[tuple[str, str, str, int], list[Level]] = {}
    for row in rows:
        groups.setdefault((row.network, row.kind, row.person, row.n), []).append(row)
    yield from groups.values()


def over(rows: Sequence[Level], choose: Callable[[list[Level]], Taken]) -> list[Taken]:
    """What everybody gets."""
    return [choose(one) for one in by_person(rows)]


def best_fixed(rows: Sequence[Level], least: float) -> tuple[float, float]:
    """The sparsity, the same for everybody and not below ``least``, that gives the highest
    accuracy; and that."""
    tried = [s for s in sorted({row.sparsity for row in rows}) if s >= least - 1e-9]
    found = [(_mean(over(rows, partial(fixed, sparsity=s)), "accuracy"), s) for s in tried]
    accuracy, sparsity = max(found, default=(0.0, 0.0))
    return sparsity, accuracy


def worth(rows: Sequence[Level], tolerance: float) -> float:
    """What is chosen by, on one network: the share of the weights that goes, in percent, less ten
    for each point lost beside the best sparsity not below it, and one for each percent of people
    harmed above 1."""
    found = over(rows, lambda one: taken(one, tolerance))
    sparsity = _mean(found, "sparsity")
    short = max(0.0, best_fixed(rows, sparsity)[1] - _mean(found, "accuracy"))
    return 100 * (sparsity - 10 * short - max(0.0, _harmed(found) - 0.01))


def _mean(found: Sequence[Taken], name: str) -> float:
    return float(np.mean([getattr(t, name) for t in found]))


def _harmed(found: Sequence[Taken]) -> float:
    return float(np.mean([t.accuracy < t.dense - HARM - 1e-9 for t in found]))


def best(rows: Sequence[Level], without: str = "") -> float:
    """The tolerance that the networks, but for one, choose: all of them weigh alike."""
    names = sorted({row.network for row in rows} - {without})
    return max(
        TOLERANCES,
        key=lambda t: np.mean([worth([r for r in rows if r.network == n], t) for n in names]),
    )


HEAD = ("network", "tolerance", "people", "dense", "accuracy", "sparsity", "harmed",
        "best fixed")  # fmt: skip


def lines(rows: Sequence[Level]) -> list[list[str]]:
    """A line for each network, with the tolerance that the others choose and with the default.

    ``best fixed`` is the best of all sparsities not below the mean of those chosen, the same for
    everybody.
    """
    names = [*dict.fromkeys(row.network for row in rows)]
    usual = finepruning.Config().choice.tolerance
    found = []
    for name in names:
        some = [row for row in rows if row.network == name]
        if len(names) > 1:
            found.append(_line(some, best(rows, name), "chosen by the others"))
        found.append(_line(some, usual, "in use"))
    if len(names) > 1:
        found.append(["all", f"{best(rows):g}, chosen by all", *[""] * (len(HEAD) - 2)])
    return found


def _line(rows: Sequence[Level], tolerance: float, whose: str) -> list[str]:
    found = over(rows, lambda one: taken(one, tolerance))
    sparsity = _mean(found, "sparsity")
    of, accuracy = best_fixed(rows, sparsity)
    return [
        rows[0].network, f"{tolerance:g}, {whose}", str(len(found)),
        f"{100 * _mean(found, 'dense'):.1f}", f"{100 * _mean(found, 'accuracy'):.1f}",
        f"{100 * sparsity:.0f} %", f"{100 * _harmed(found):.1f} %",
        f"{100 * accuracy:.1f} at {of:.0%}",
    ]  # fmt: skip
