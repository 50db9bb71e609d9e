"""Plots of the page, as SVG that takes the page's own colours, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import FinepruningError

INK = "#010203"
"""Drawn so, text and axes take the page's colour."""
MARK, SOFT, OTHER = "#2b8cbe", "#8a939e", "#d95f02"
"""Readable on white and on black."""
SETTINGS = {
    "svg.hashsalt": "finepruning",  # the same report gives the same page
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def levels(choice: Mapping[str, Any]) -> str:
    """How many answers change against sparsity, with the tolerance and the choice marked."""
    plt_figure, context = _matplotlib()
    tried = choice["levels"]
    x = [100 * level["sparsity"] for level in tried]
    changed = [100 * (level["check"]["changed"] or 0) for level in tried]
    most = [100 * (level["check"]["at_most"] or 0) for level in tried]
    with context(SETTINGS):
        figure = plt_figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        above = [max(0.0, m - c) for c, m in zip(changed, most, strict=True)]
        below = [0.0] * len(x)
        axes.errorbar(x, changed, [below, above], color=MARK, marker="o", capsize=4)
        axes.axhline(100 * choice["tolerance"], color=OTHER, linestyle="--")
        axes.annotate(
            "allowed", (max(x), 100 * choice["tolerance"]), (0, 4), textcoords="offset points",
            color=OTHER, ha="right",
        )  # fmt: skip
        if choice["sparsity"] is not None:
            i = x.index(100 * choice["sparsity"])
            axes.plot(x[i], changed[i], "o", color=MARK, markersize=13, fillstyle="none")
            axes.annotate(
                "chosen", (x[i], most[i]), (0, 6), textcoords="offset points", ha="center"
            )
        axes.set_xlabel("sparsity, % of the weights")
        axes.set_ylabel("answers that change, of 100")
        axes.set_xticks(x)
        axes.set_ylim(0, None)
        return _svg(figure)


def layers(report: Mapping[str, Any]) -> str:
    """Zeros, computation left and error of each layer, in order, as far as there are any."""
    plt_figure, context = _matplotlib()
    from matplotlib.ticker import MaxNLocator

    of = report["layers"]
    macs = [layer.get("macs") or 0 for layer in of]
    rows: list[tuple[str, Sequence[float]]] = [
        ("zero, %", [100 * la["zeros"] / max(1, la["weights"]) for la in of]),
        ("missed, %", [100 * (la["error"] or 0) for la in of]),
    ]
    if any(macs):
        rows.insert(1, ("computation, %", [100 * m / sum(macs) for m in macs]))
    rows = [(name, values) for name, values in rows if any(values)]
    if not rows:
        return ""
    with context(SETTINGS):
        figure = plt_figure(figsize=(7, 1.3 * len(rows) + 0.5), layout="constrained")
        panels = figure.subplots(len(rows), sharex=True, squeeze=False)[:, 0]
        for axes, (name, values) in zip(panels, rows, strict=True):
            axes.bar(range(1, len(values) + 1), values, color=MARK, width=0.8)
            axes.set_ylabel(name)
            axes.set_ylim(0, None)
        axes.set_xlim(0, len(of) + 1)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FinepruningError(
            f"report: needs matplotlib ({error}); pip install 'finepruning[report]'"
        ) from error
    return Figure, rc_context


def _svg(figure: Any) -> str:
    """The figure as an element of a page: no prolog, no fixed size, no colour for what is ink."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace(INK, "currentColor")
