"""A report as a text, short or long, from the dict that an artifact keeps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from .guard import guarded

WIDTH, LINES = 80, 20
"""Of a summary, at most: what a terminal shows at once."""


@guarded
def summary(report: Mapping[str, Any]) -> str:
    """What matters of a report given as :meth:`Report.to_dict` returned it, for a terminal."""
    seconds, macs, readout = report["seconds"], report["macs"], report["readout"]
    left, backprop = report["left_alone"], 3 / max(report["forward_passes"], 1e-9)
    memory = report["peak_memory"]
    said = [  # with how many lines each may take
        ("sparsity", 2, f"{report['sparsity']:.1%} of {report['weights']:,} weights are zero"
                        f"{of_all(report)}{_chosen(report.get('choice'))}"),
        ("warning", 2, " ".join(f"{line}." for line in report.get("warnings") or ())),
        ("check", 3, check_line(report.get("check"), readout)),
        ("read-out", 2, readout_line(readout)),
        ("classes", 2, _classes_line(report.get("classes"))),
        ("samples", 1, f"{report['samples']} unlabelled; {halves_line(report.get('halves'))}"),
        ("update", 1, update_line(report.get("update"))),
        ("batch norms", 4, norms_line(report.get("norms"))),
        ("neighbours", 1, neighbours_line(report.get("neighbours"))),
        ("time", 1, f"{seconds['total']:.1f} s = {report['dense_passes']:.1f} times the network's"
                    " own over these samples"),
        ("computation", 1, f"{report['forward_passes']:.1f} forward passes;"
                           f" an epoch of fine-tuning takes {backprop:.1f} times as much"),
        ("MACs", 1, f"{macs['personal'] / max(macs['dense'], 1):.0%} of {macs['dense']:,} a sample"
                    " with the zeros left out"),
        ("memory", 1, "" if memory is None else f"peak {memory / 1e6:,.0f} MB above the start"),
        ("left alone", 1, "" if not left else f"{len(left)} layers, such as {next(iter(left))}"),
    ]  # fmt: skip
    lines: list[str] = []
    for label, most, text in said:
        if text:
            lines += labelled(label, text, most)
    return "\n".join(lines[:LINES])


def labelled(label: str, text: str, most: int) -> list[str]:
    """The lines of ``text``, ``most`` of them, beside what it is."""
    return textwrap.wrap(
        f"{label:<12}{text}", WIDTH, subsequent_indent=" " * 12, max_lines=most,
        placeholder=" ...", break_on_hyphens=False,
    )  # fmt: skip


def mirrored(report: Mapping[str, Any]) -> str:
    """That pictures were looked at mirrored too; nothing where they were not."""
    found = report.get("mirrored")
    return f", and {found['samples']} of them mirrored" if found and found["used"] else ""


def of_all(report: Mapping[str, Any]) -> str:
    """Which share of all weights that is, where others than those that can be pruned are many."""
    every = report.get("all_weights", report["weights"])
    if every <= MANY * report["weights"]:
        return ""
    return f", {report['zeros'] / every:.1%} of all {every:,}"


MANY = 1.02
"""Times as many weights as can be pruned, from which it is told what share of all is zero."""


def update_line(update: Mapping[str, Any] | None) -> str:
    """What an update went on from; empty: it is none."""
    if update is None:
        return ""
    device = "; batch norms aligned with another device" * bool(update["aligned"])
    return f"beside {update['remembered']} earlier samples{device}"


def _chosen(choice: Mapping[str, Any] | None) -> str:
    if choice is None:
        return ""
    if choice["sparsity"] is None:
        return " (less than 10% would be sure to keep its answers)"
    return (
        f" (chosen: the largest that changes at most {100 * choice['tolerance']:g} of 100 answers)"
    )


def _classes_line(classes: Mapping[str, Any] | None) -> str:
    found = () if classes is None else classes["in_use"]
    return ", ".join(f"{one['name']} {one['samples']}" for one in found)


@guarded
def format_report(report: Mapping[str, Any]) -> str:
    """The text of a report given as :meth:`Report.to_dict` returned it."""
    seconds, macs, readout = report["seconds"], report["macs"], report["readout"]
    memory = report["peak_memory"]
    lines = [
        f"{'sparsity':<12}{report['sparsity']:.2%} of {report['weights']:,}"
        f" weights that can be pruned are zero{of_all(report)}",
        f"{'samples':<12}{report['samples']} unlabelled"
        f" ({report['calibration_samples']} to fit the layers{mirrored(report)})",
        f"{'effort':<12}{report['config']['effort']}, seed {report['config']['seed']}",
        f"{'read-out':<12}{readout_line(readout)}",
        *([f"{'update':<12}{update_line(report.get('update'))}"] if report.get("update") else []),
        f"{'halves':<12}{halves_line(report.get('halves'))}",
        f"{'batch norms':<12}{norms_line(report.get('norms'))}",
        f"{'neighbours':<12}{neighbours_line(report.get('neighbours'))}",
        f"{'check':<12}{check_line(report.get('check'), readout)}",
        f"{'time':<12}{seconds['total']:.1f} s = {report['dense_passes']:.1f} dense forward passes"
        f" (observe {seconds['observe']:.1f}, prune {seconds['prune']:.1f},"
        f" of it solving {seconds['solve']:.1f})",
        f"{'computation':<12}{report['forward_passes']:.1f} forward-pass equivalents;"
        " one epoch of fine-tuning takes 3",
        f"{'MACs':<12}{macs['dense']:,} a sample dense,"
        f" {macs['personal']:,} with the zeros left out",
        f"{'memory':<12}"
        + ("not measured" if memory is None else f"peak {memory / 1e6:,.0f} MB above the start"),
        "",
        f"{'layer':<{NAME}}{'kind':<{KIND}}{'weights':>12}{'zeros':>8}{'error':>8}",
    ]
    for layer in report["layers"]:
        error = "-" if layer["error"] is None else f"{layer['error']:.3f}"
        share = layer["zeros"] / max(1, layer["weights"])
        lines.append(
            f"{shortened(layer['name'], NAME - 1):<{NAME}}"
            f"{shortened(layer['kind'], KIND - 1):<{KIND}}"
            f"{layer['weights']:>12,}{share:>8.1%}{error:>8}"
        )
    if report.get("warnings"):
        lines += ["", *(f"warning: {line}" for line in report["warnings"])]
    if report["left_alone"]:
        lines += ["", "left alone:"]
        lines += [f"  {name}: {reason}" for name, reason in report["left_alone"].items()]
    return "\n".join(lines)


NAME, KIND = 36, 12
"""Columns of the table of layers."""


def shortened(text: str, width: int) -> str:
    """``text`` in ``width`` characters: of a longer one the end stays, which tells layers apart.

    >>> shortened("encoder.layers.11.attention.query", 20)
    'enc...ttention.query'
    """
    if len(text) <= width:
        return text
    front = width // 6
    return f"{text[:front]}...{text[len(text) - (width - front - 3) :]}"


def norms_line(norms: Mapping[str, Any] | None) -> str:
    if norms is None:
        return "left as they were: an earlier version"
    if norms["applied"]:
        return f"follow this person (means have moved by {norms['moved']:.3f} variances)"
    if norms.get("shown") and norms["reason"] == "not asked for":
        return (
            f"left as they were, but their means have moved by {norms['moved']:.3f} variances:"
            " if this is another camera or microphone than the network's, norms=0.25 (--norms 0.25)"
            " may help much; if it is not, it does harm"
        )
    return f"left as they were: {norms['reason']}"


def neighbours_line(neighbours: Mapping[str, Any] | None) -> str:
    if neighbours is None:
        return "left out: an earlier version"
    same = f" ({neighbours['same']:.0%} answer alike)" if neighbours.get("asked") else ""
    if not neighbours["applied"]:
        return f"left out: {neighbours['reason']}{same}"
    return f"{neighbours['asked']} a sample asked{same}, weight {neighbours['weight']:.2f}"


def readout_line(readout: Mapping[str, Any]) -> str:
    if not readout["applied"]:
        return f"left as it was: {readout['reason']}"
    if readout["trust"] < 0.01:
        return f"changes nothing: {readout['reason'] or 'no sign that classes are missing'}"
    closed = f"; {readout['closed']} never answered, as asked" if readout.get("closed") else ""
    return (
        f"{readout['classes']} of {readout['outputs']} classes in use"
        f" (trust {readout['trust']:.2f}), the others made less likely{closed}"
    )


def halves_line(halves: float | None) -> str:
    if halves is None:
        return "not compared"
    advice = "" if halves >= 0.9 else ": give more"
    return f"two halves of the samples agree on {halves:.0%} of the answers{advice}"


def check_line(check: Mapping[str, Any] | None, readout: Mapping[str, Any]) -> str:
    if check is None:
        return "none: an earlier version"
    if not check["passed"]:
        beside = ", with the read-out" if readout["applied"] else ""
        return (
            f"THE DENSE WEIGHTS ARE RETURNED{beside}: {check['reason']}, by {check['held']} samples"
            " held back; to insist, give a sparsity and check=False (--no-check)"
        )
    if not check["held"]:
        return f"none: {check['reason']}"
    if check["gain"] is None:
        missed = check["error"] if check["error"] is not None else check["changed"]
        return f"{check['held']} samples held back: outputs miss {missed:.1%}"
    return f"{check['held']} samples held back: accuracy expected to change by {check['gain']:+.1%}"
