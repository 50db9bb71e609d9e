"""Plots of the results page: accuracy against sparsity, unlabelled samples, cost and shift.

Every point has its 95 % interval. Colours are those of Okabe and Ito, which the colour-blind can
tell apart; the background is white, so that the plots can be read on a dark page too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from groups import DENSE, MANY, OURS, Group, Summary, summary
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import wilson
from methods import TUNED

PRUNED = {
    OURS: ("#0072B2", "o"),
    "finepruning fast": ("#56B4E9", "o"),
    "OBS, our plan + repair + read-out": ("#D55E00", "s"),
    "Wanda + repair + read-out": ("#009E73", "^"),
    "magnitude, global + repair + read-out": ("#CC79A7", "D"),
}
OTHERS = {"dense + read-out": ("#000000", "P"), "dense + LAME + read-out": ("#8C7300", "X")}
TENT = ("#999999", "<")
TUNE = ("#E69F00", "v")
"""Colours and marks of the methods that are drawn."""
LOWEST = 0.3
"""Nothing is drawn that is further than this below the dense network."""

ARTIFACTS = "artifact-resnet50-bytes.svg"
"""The plot of what is stored."""

SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "finepruning",  # the same rows give the same file
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
}


def draw(kinds: Sequence[Group], folder: Path) -> dict[str, str]:
    """Write the plots of one network on one data set: file names, and what each shows."""
    written = {}
    with rc_context(SETTINGS):
        for name, shows, figure in _figures(kinds):
            file = f"{kinds[0].data}-{kinds[0].network}-{name}.svg".replace(" ", "-")
            figure.savefig(folder / file, metadata={"Date": None})
            written[file] = shows
    return written


def _figures(kinds: Sequence[Group]) -> Iterator[tuple[str, str, Figure]]:
    if len(kinds) > MANY:
        yield "strength", "Accuracy against the strength of each shift", against_strength(kinds)
        return
    for group in kinds:
        for name, shows, figure in (
            ("sparsity", "sparsity", against_sparsity(group)),
            ("samples", "the number of unlabelled samples", against_samples(group)),
            ("cost", "cost", against_cost(group)),
        ):
            if figure is not None:
                yield f"{group.kind}-{name}", f"{group.kind}: accuracy against {shows}", figure


def against_sparsity(group: Group) -> Figure | None:
    """One line for each method that prunes; the dense network's across."""
    n = group.main
    wanted = sorted({s for m, s in group.settings if m == n and s > 0})
    if len(wanted) < 2:
        return None
    figure, ax = _axes(group, n)
    for i, (name, style) in enumerate(PRUNED.items()):
        found = {s + 0.004 * (i - 2): group.at(n, s, name) for s in wanted}
        _line(ax, name, style, {s: summary(rows.values()) for s, rows in found.items() if rows})
    for name, told, dashes in (
        (DENSE, True, "dashdot"),
        ("dense + read-out", False, "dashed"),
        (DENSE, False, "dotted"),
    ):
        if rows := group.at(n, group.headline, name):
            level = 100 * summary(rows.values(), told).mean
            label = name + ", told the classes" * told
            ax.axhline(level, color="black", linestyle=dashes, linewidth=1.2, label=label)
    _cut(ax, group, n)
    ax.set_xlabel("zeros in all Conv and Linear weights (%)")
    ax.set_xticks(wanted, [f"{100 * s:.0f}" for s in wanted])
    return _finish(figure)


def against_samples(group: Group) -> Figure | None:
    """One line for each method, at the sparsity of the headline."""
    sizes = sorted({n for n, s in group.settings if s == group.headline})
    if len(sizes) < 2:
        return None
    figure, ax = _axes(group, group.main, _sparse(group))
    repaired = "magnitude, global + repair + read-out"
    methods = {name: PRUNED[name] for name in (OURS, "finepruning fast", repaired)}
    methods |= OTHERS | {TUNED[5]: TUNE}
    for i, (name, style) in enumerate(methods.items()):
        found = {n * 1.02 ** (i - 2): group.at(n, group.headline, name) for n in sizes}
        _line(ax, name, style, {n: summary(rows.values()) for n, rows in found.items() if rows})
    _dense_level(ax, group, group.main)
    _cut(ax, group, group.main)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.set_xlabel("unlabelled samples")
    return _finish(figure)


def against_cost(group: Group) -> Figure | None:
    """One point for each method, and the epochs of fine-tuning in a line."""
    n = group.main
    if not group.at(n, group.headline, OURS):
        return None
    figure, ax = _axes(group, n, f"{n} samples, {_sparse(group)}")
    methods = PRUNED | OTHERS | {"dense + Tent + read-out": TENT}
    single = {name: {name: style} for name, style in methods.items()}
    tuned = {"fine-tuned with labels, 1, 5 and 20 epochs": dict.fromkeys(TUNED.values(), TUNE)}
    for label, names in (single | tuned).items():
        points = {}
        for name in names:
            if rows := group.at(n, group.headline, name):
                cost = float(np.mean([row.forward_passes for row in rows.values()]))
                points[cost] = summary(rows.values())
        _line(ax, label, next(iter(names.values())), points)
    _dense_level(ax, group, n)
    _cut(ax, group, n)
    ax.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("cost: forward passes of the dense network over the same samples")
    return _finish(figure)


def against_strength(kinds: Sequence[Group]) -> Figure:
    """A panel for each shift, its kinds named ``noise 1`` to ``noise 3``; 0 is without."""
    families: dict[str, list[Group]] = {}
    plain = [group for group in kinds if not group.kind[-1].isdigit()]
    for group in kinds:
        if group not in plain:
            families.setdefault(group.kind[:-2], [*plain]).append(group)
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    panels = figure.subplots(2, -(-len(families) // 2), sharey=True, squeeze=False)
    names = {OURS: PRUNED[OURS]} | {
        "magnitude, global + repair": ("#CC79A7", "D"),
        "dense + Tent": TENT,
        "dense + Tent, batch statistics": ("#E69F00", ">"),
        DENSE: ("#000000", "P"),
    }
    for ax, (family, levels) in zip(panels.flat, families.items(), strict=False):
        for i, (name, style) in enumerate(names.items()):
            points = {}
            for group in levels:
                strength = int(group.kind[-1]) if group.kind[-1].isdigit() else 0
                if rows := group.at(group.main, group.headline, name):
                    points[strength + 0.05 * (i - 2)] = summary(rows.values())
            _line(ax, name, style, points)
        ax.set_title(family, fontsize=10)
        ax.set_xticks(range(4))
    for row in panels:
        row[0].set_ylabel("right, all outputs (%)")
    for ax in panels[-1]:
        ax.set_xlabel("strength (0: as they are)")
    return _finish(figure)


def _sparse(group: Group) -> str:
    return f"{100 * group.headline:.0f} % sparse"


def _axes(group: Group, n: int, at: str = "") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.set_ylabel("right, all outputs (%)")
    where = f"{group.network} on {group.data}, {group.kind}"
    ax.set_title(f"{where}, {at or f'{n} samples'}", fontsize=10, loc="left")
    return figure, ax


def _line(ax: Axes, name: str, style: tuple[str, str], points: dict[float, Summary]) -> None:
    if not points:
        return
    colour, mark = style
    y = 100 * np.array([[p.mean, p.mean - p.low, p.high - p.mean] for p in points.values()]).T
    ax.errorbar(
        [*points],
        y[0],
        y[1:],
        color=colour,
        marker=mark,
        markersize=6,
        linewidth=2.2 if name == OURS else 1.4,
        elinewidth=1,
        capsize=2.5,
        label=name,
        zorder=3 if name == OURS else 2,
    )


def _dense_level(ax: Axes, group: Group, n: int) -> None:
    if rows := group.at(n, group.headline, DENSE):
        level = 100 * summary(rows.values()).mean
        ax.axhline(level, color="black", linestyle="dotted", linewidth=1.2, label=DENSE)


def _cut(ax: Axes, group: Group, n: int) -> None:
    """Leave out what is hopeless, or the rest could not be told apart."""
    if rows := group.at(n, group.headline, DENSE):
        lowest = 100 * (summary(rows.values()).mean - LOWEST)
        ax.set_ylim(bottom=max(ax.get_ylim()[0], lowest))


def _finish(figure: Figure) -> Figure:
    """One legend for all panels, beside them."""
    labels: dict[str, Any] = {}
    for ax in figure.axes:
        handles, names = ax.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(list(labels.values()), list(labels), loc="outside right upper", frameon=False)
    return figure


def draw_artifacts(rows: Sequence[Any], folder: Path) -> str:
    """Accuracy against bytes, a mark for each kind of artifact, over all draws; the file's name."""
    with rc_context(SETTINGS):
        figure = Figure((6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for kind in dict.fromkeys(row.kind for row in rows):
            same = [row for row in rows if row.kind == kind]
            right, total = sum(r.correct for r in same), sum(r.total for r in same)
            share, (low, high) = 100 * right / total, (100 * x for x in wilson(right, total))
            if kind == DENSE:
                axes.axhline(share, color="#000000", linestyle=":")
                axes.annotate(
                    "dense, nothing stored", (2, share), (4, 4), textcoords="offset points"
                )
                continue
            size = sum(r.bytes for r in same) / len(same) / 1e6
            axes.errorbar(
                [size],
                [share],
                [[share - low], [high - share]],
                fmt="o",
                capsize=3,
                color="#0072B2",
            )
            axes.annotate(kind, (size, share), (6, 4), textcoords="offset points")
        axes.set_xscale("log")
        axes.set_xlim(2, 60)
        axes.set_xticks([2, 5, 10, 20, 50], ["2", "5", "10", "20", "50"])
        axes.minorticks_off()
        axes.set_xlabel("MB stored for one person")
        axes.set_ylabel("accuracy, %, all outputs")
        figure.savefig(folder / ARTIFACTS, metadata={"Date": None})
    return ARTIFACTS
