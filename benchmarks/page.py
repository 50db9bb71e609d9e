"""Write the results page, docs/results.md and docs/plots/, from the rows in results/.

    python benchmarks/page.py [--smoke] [--results results] [--out docs]

Works with whatever has been measured, and says what has not. The same rows give the same bytes.
The prose is in page.md, where each ``$name`` stands for what is generated here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template

import numpy as np
from artifacts import ArtifactRow
from cost import CostRow
from device import DeviceRow, LatencyRow
from groups import (
    CONTROLS,
    MANY,
    OURS,
    PRUNES,
    Group,
    Source,
    difference,
    points,
    read_cost,
    read_groups,
    read_wer,
    sources,
    summary,
)
from measure import RESULTS, Row, read_rows
from panel_tables import (
    changes,
    choose_lines,
    level_lines,
    other_lines,
    size_lines,
    whole_lines,
    whole_rows,
)
from plots import draw, draw_artifacts
from targets import harmed, targets
from users import FOLD, NETWORKS
from wer import METHODS, WerRow, character_rate, word_rate

NONE = "Not measured yet.\n"


def page(found: Sequence[Source], out: Path) -> str:
    """The page's text; its plots are written on the way."""
    groups, costs = read_groups(found), read_cost(found)
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.svg"):
        stale.unlink()
    parts = {
        "targets": target_table(groups, costs),
        "losses": losses(groups),
        "harm": harm(groups),
        "cost": cost_table(costs),
        "wer": wer_table(read_wer(found)),
        "deployed": device_table(found),
        "artifacts": artifact_table(found, folder),
        **panel_tables(found),
    }
    for data, networks in NETWORKS.items():
        sections = []
        for network in networks:
            kinds = [g for g in groups if (g.data, g.network) == (data, network)]
            files = [s.path.name for s in found if (s.data, s.network) == (data, network)]
            body = network_section(kinds, folder) if kinds else NONE
            sections.append(
                "\n".join([f"### {data}: {network}\n", *map("`{}`\n".format, files), body])
            )
        parts[data] = "\n".join(sections)
    template = Template(Path(__file__).with_suffix(".md").read_text())
    text = template.substitute({k: v.rstrip("\n") for k, v in parts.items()})
    return re.sub(r"(\d)%", r"\1 %", text)


def panel_tables(found: Sequence[Source]) -> dict[str, str]:
    """What the panel says: constants chosen, and whole personalisations by network and size."""
    rows = whole_rows(found)
    lines = {
        "choose": choose_lines(found),
        "others": other_lines(found),
        "whole": whole_lines(rows),
        "sizes": size_lines(rows),
        "levels": level_lines(found),
        **changes(found),
    }
    return {key: table(head, body) if body else NONE for key, (head, body) in lines.items()}


def target_table(groups: list[Group], costs: list[CostRow]) -> str:
    """What was to be reached, and whether it is."""
    met = {None: "-", True: "yes", False: "**no**"}
    lines = [(target.what, target.reached, met[target.met]) for target in targets(groups, costs)]
    return table(("target", "reached", "met"), lines)


def losses(groups: list[Group]) -> str:
    """Where a method is above ours: by more than the interval of the difference, or not."""
    found: dict[bool, list[tuple[float, Sequence[object]]]] = {True: [], False: []}
    for group in groups:
        for n, sparsity in group.settings:
            ours = group.at(n, sparsity, OURS)
            for method in [*CONTROLS, "finepruning fast"]:
                theirs = group.at(n, sparsity, method)
                mean, half, users = difference(ours, theirs)
                if not mean < 0:  # NaN where there is nothing to compare
                    continue
                both = [user for user in ours if user in theirs]
                them, us = (summary(rows[u] for u in both).text for rows in (theirs, ours))
                where = (name(group), n, f"{sparsity:.0%}", method)
                line = (*where, them, us, points(mean, half), users)
                found[mean + half < 0].append((mean, line))
    head = ("data", "n", "sparsity", "method", "it", "best", "best - it", "users")
    clear, level = (
        table(head, [line for _, line in sorted(found[key], key=lambda item: item[0])])
        for key in (True, False)
    )
    return (
        f"**By more than the interval of the difference: {len(found[True])} comparisons.**\n\n"
        + (clear if found[True] else "None.\n")
        + "\n"
        + folded(f"By less, or from a single draw: {len(found[False])} comparisons", level)
    )


def harm(groups: list[Group]) -> str:
    """The users that are below the dense network."""
    lines = []
    for group in groups:
        for n, sparsity in group.settings:
            for method in (OURS, "finepruning fast"):
                if lost := harmed(group, n, sparsity, method):
                    below = f"{len(lost)} of {len(group.at(n, sparsity, method))}"
                    named = ", ".join(f"{user} ({points(d)})" for user, d in lost.items())
                    lines.append((name(group), n, f"{sparsity:.0%}", method, below, named))
    head = ("data", "n", "sparsity", "method", "below dense", "who")
    return table(head, lines) if lines else ("Nobody.\n" if groups else NONE)


def network_section(kinds: Sequence[Group], folder: Path) -> str:
    """Plots and tables of one network on one data set."""
    parts = [f"![{shows}](plots/{file})\n" for file, shows in draw(kinds, folder).items()]
    if len(kinds) > MANY:
        parts.append(overview(kinds))
    for group in kinds:
        for n, sparsity in group.settings:
            title = f"{group.kind}, {n} samples, {sparsity:.0%} sparse"
            text, main = method_table(group, n, sparsity), (n, sparsity) == group.settings[0]
            missing = [m for m in group.applicable if not group.at(n, sparsity, m)]
            never = [m for m in PRUNES if m not in group.applicable]
            if main and missing:
                text += f"\nNot measured: {'; '.join(missing)}.\n"
            if main and never:
                text += f"\nNot applicable: {'; '.join(never)}: statistics are folded.\n"
            open_it = main and len(kinds) <= MANY
            parts.append(f"**{title}**\n\n{text}" if open_it else folded(title, text))
    return "\n".join(parts)


def overview(kinds: Sequence[Group]) -> str:
    """A line for each kind of users, with the accuracy of each method there."""
    methods = [m for m in PRUNES if any(g.at(g.main, g.headline, m) for g in kinds)]
    lines = []
    for group in kinds:
        found = (group.at(group.main, group.headline, method) for method in methods)
        lines.append((group.kind, *(summary(r.values()).text if r else "-" for r in found)))
    return table((f"{kinds[0].headline:.0%} sparse", *methods), lines)


def method_table(group: Group, n: int, sparsity: float) -> str:
    """A line for each method: accuracy, the difference to ours, and cost."""
    ours, lines = group.at(n, sparsity, OURS), []
    for method in group.methods(n, sparsity):
        rows = group.at(n, sparsity, method)
        lines.append(
            (
                f"**{method}**" if method == OURS else method,
                len(rows),
                _mean(rows.values(), lambda row: row.sparsity, ".0%"),
                summary(rows.values()).text,
                summary(rows.values(), told=True).text,
                "" if method == OURS else points(*difference(ours, rows)[:2]),
                _mean(rows.values(), lambda row: row.forward_passes, ".1f"),
                _mean(rows.values(), lambda row: row.seconds, ".1f"),
                _mean(rows.values(), lambda row: row.peak_mb, ",.0f"),
                _mean(rows.values(), lambda row: row.artifact_bytes / 1000, ",.0f"),
            )
        )
    head = ("method", "users", "sparsity", "all outputs", "told the classes", "best - it")
    return table((*head, "passes", "seconds", "MB", "kB"), lines)


def _mean(rows: Iterable[Row], of: Callable[[Row], float], form: str) -> str:
    mean = float(np.mean([of(row) for row in rows]))
    return "-" if np.isnan(mean) else format(mean, form)


def cost_table(costs: list[CostRow]) -> str:
    """A line for each effort and round."""
    lines = [
        (
            row.photos,
            row.round + 1,
            row.effort,
            f"{row.seconds:.1f}",
            f"{row.dense_seconds:.1f}",
            f"{row.ratio:.1f}",
            f"{row.solve_seconds / row.dense_seconds:.1f}",
            f"{row.forward_passes:.1f}",
            f"{row.peak_mb:,.0f}",
            f"{row.dense_peak_mb:,.0f}",
        )
        for row in sorted(costs, key=lambda row: (row.photos, row.effort, row.round))
    ]
    head = ("photos", "round", "effort", "seconds", "dense seconds", "ratio", "of it solves")
    return table((*head, "passes", "MB", "dense MB"), lines) if lines else NONE


def device_table(found: Sequence[Source]) -> str:
    """Accuracy, size and speed of each number of pixels and share that stays."""
    rows = [r for s in found if s.data == "device" for r in read_rows(s.path, DeviceRow)]
    times = [r for s in found if s.data == "devicetime" for r in read_rows(s.path, LatencyRow)]
    if not rows:
        return NONE
    fast = {(t.pixels, t.part, t.how, t.form, t.batch): t.times for t in times}
    whole = [r for r in rows if (r.part, r.form) == (1, "float32")]
    dense = max(whole, key=lambda r: r.pixels)
    lines = []
    for form, less, fewer, how in sorted({(r.form, -r.part, -r.pixels, r.how) for r in rows}):
        part, pixels = -less, -fewer
        setting = (form, part, pixels, how)
        same = [r for r in rows if (r.form, r.part, r.pixels, r.how) == setting]
        told = [100 * r.told / r.total for r in same]
        mean = sum(told) / len(told)
        lines.append(
            (
                pixels, "all" if part == 1 else f"{part:g} of the {how}", form, len(same),
                f"{sum(100 * r.correct / r.total for r in same) / len(same):.1f}",
                f"{mean:.1f}" + (f" ({min(told):.1f} to {max(told):.1f})" if len(told) > 1 else ""),
                f"{mean - 100 * dense.told / dense.total:+.1f}",
                *(f"{fast[at]:.1f}" if (at := (pixels, part, how, form, b)) in fast else "-"
                  for b in (1, 16)),
                f"{same[0].bytes / 1e6:.1f}", f"{same[0].download / 1e6:.1f}",
            )
        )  # fmt: skip
    head = (
        "pixels", "what stays", "numbers", "draws", "all outputs",
        "told the classes",
        "beside dense", "times, batch 1", "batch 16", "file, MB", "gzip, MB",
    )  # fmt: skip
    where = f"Timed on {times[0].processor}, two threads.\n\n" if times else ""
    return where + table(head, lines)


def artifact_table(found: Sequence[Source], folder: Path) -> str:
    """Accuracy and bytes of each kind of artifact, in a plot and a table."""
    rows = [r for s in found if s.data == "artifact" for r in read_rows(s.path, ArtifactRow)]
    lines = []
    for kind in dict.fromkeys(r.kind for r in rows):
        same = [r for r in rows if r.kind == kind]
        total = sum(r.total for r in same)
        each = [100 * r.correct / r.total for r in same]
        bits = [8 * sum(n) / max(sum(r.weights for r in same), 1)
                for n in ([r.bytes for r in same], [r.mask for r in same])]  # fmt: skip
        stored = sum(r.bytes for r in same) / len(same) / 1e6
        sizes = (f"{stored:.1f}", f"{bits[0]:.2f}", f"{bits[1]:.2f}") if stored else "---"
        lines.append(
            (
                kind, len(same), f"{100 * sum(r.correct for r in same) / total:.1f}",
                f"{min(each):.1f} to {max(each):.1f}",
                f"{100 * sum(r.told for r in same) / total:.1f}", *sizes,
            )
        )  # fmt: skip
    head = ("stored", "draws", "all outputs", "of draws", "told the classes", "MB", "bits a weight")
    if not lines:
        return NONE
    plot = f"![Accuracy against bytes stored](plots/{draw_artifacts(rows, folder)})"
    return f"{plot}\n\n{table((*head, 'of these the mask'), lines)}"


def wer_table(rows: list[WerRow]) -> str:
    """A line for each method and sparsity: the errors of all speakers' words together, by speaker
    below."""
    if not rows:
        return NONE
    people = sorted({row.user.partition(FOLD)[0] for row in rows})
    settings = sorted({(row.wanted, list(METHODS).index(row.method)) for row in rows})
    together, apart = [], []
    for wanted, number in settings:
        method = list(METHODS)[number]
        found = [row for row in rows if (row.method, row.wanted) == (method, wanted)]
        by = [[row for row in found if row.user.partition(FOLD)[0] == who] for who in people]
        where = (f"**{method}**" if method == OURS else method, f"{wanted:.0%}")
        passes = float(np.mean([row.forward_passes for row in found]))
        rates = (f"{100 * rate(found):.1f}" for rate in (word_rate, character_rate))
        together.append((*where, sum(map(bool, by)), *rates, f"{passes:.1f}"))
        apart.append((*where, *(f"{100 * word_rate(one):.1f}" if one else "-" for one in by)))
    head = ("method", "sparsity", "speakers", "wrong words (%)", "wrong characters (%)", "passes")
    each = table(("method", "sparsity", *people), apart)
    return table(head, together) + "\n" + folded("Wrong words (%) of each speaker", each)


def name(group: Group) -> str:
    """A group in one cell of a table."""
    return f"{group.data}, {group.network}, {group.kind}"


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in rows)


def folded(title: str, text: str) -> str:
    """Something to be opened by who wants to see it."""
    return f"<details><summary>{title}</summary>\n\n{text}\n</details>\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="of smoke runs, not of measurements")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=RESULTS.parent / "docs")
    args = parser.parse_args()
    text = page(sources(args.results, args.smoke), args.out)
    (args.out / "results.md").write_text(text)
    print(args.out / "results.md")


if __name__ == "__main__":
    main()
