"""The page: what was done, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from .._errors import FinepruningError
from . import plots
from .guard import guarded
from .text import check_line, halves_line, neighbours_line, norms_line, readout_line, update_line

EPOCHS = 10
"""Of fine-tuning, for comparison: each takes three forward passes over the samples."""
WATTS, PHONE = 15.0, 1.5
"""What a laptop's processor takes at work, and a phone with its screen on."""
LITTLE = 0.0005
"""A change of accuracy that is none when it is told."""


@guarded
def page(report: Mapping[str, Any], samples: Sequence[Mapping[str, str]] = ()) -> str:
    """The page of a report given as :meth:`finepruning.Report.to_dict` returned it.

    ``samples`` are pictures or clips of the person's whose answers changed: ``media`` (an element
    with its data inside), ``before`` and ``after``. Raises :class:`FinepruningError` without
    matplotlib and Jinja2.
    """
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise FinepruningError(
            f"report: needs Jinja2 ({error}); pip install 'finepruning[report]'"
        ) from error
    choice, classes = report.get("choice"), report.get("classes") or {}
    template = files(__package__).joinpath("page.html").read_text("utf-8")
    # Safe is only what is drawn or encoded here: names of files and classes are escaped.
    shown = [{**one, "media": Markup(one["media"])} for one in samples]
    return (
        Environment(autoescape=True, trim_blocks=True)
        .from_string(template)
        .render(
            title="Your personal network",
            verdict=_verdict(report),
            warnings=report.get("warnings") or (),
            cards=_cards(report),
            decisions=_decisions(report),
            levels_plot=Markup(plots.levels(choice)) if choice and choice["levels"] else "",
            stopped=_stopped(choice) if choice else "",
            classes=classes.get("in_use", ()),
            changed=classes.get("changed", ()),
            samples=shown,
            layers_plot=Markup(plots.layers(report)) if report["layers"] else "",
            layers=report["layers"],
            left_alone=[*report["left_alone"].items()],
            costs=_costs(report),
            next=_next(report),
            version=report.get("version", ""),
        )
    )


def _verdict(report: Mapping[str, Any]) -> str:
    check, readout = report.get("check") or {}, report["readout"]
    if not check.get("passed", True):
        beside = " Which classes are yours is used all the same." if readout["applied"] else ""
        return (
            "The network stays as it was: a sparse one would not be sure to serve you as well"
            f" ({check['reason']}).{beside}"
        )
    gain = check.get("gain")
    better = ""
    if gain is not None:
        more = f"{100 * abs(gain):.1f} {'more' if gain >= 0 else 'fewer'}"
        if abs(gain) < LITTLE:
            more = "as many"
        better = f" Of 100 answers, {more} are expected to be right."
    return f"{report['sparsity']:.0%} of the network's weights are gone.{better}"


def _stopped(choice: Mapping[str, Any]) -> str:
    """Why it is not more."""
    for level in choice["levels"]:
        if not level["check"]["passed"]:
            return f"{level['sparsity']:.0%} was too much: {level['check']['reason']}."
    return ""


def _cards(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    check, macs = report.get("check") or {}, report["macs"]
    classes, readout = report.get("classes"), report["readout"]
    cards = [
        (f"{report['sparsity']:.0%}", "of the weights are zero"),
        (f"{macs['personal'] / max(macs['dense'], 1):.0%}", "of the computation, zeros left out"),
    ]
    if check.get("passed") and check.get("changed") is not None:
        cards.append((f"{100 * check['changed']:.1f} of 100", "answers change by pruning"))
    if classes:
        of = f" of {readout['outputs']}" if "outputs" in readout else ""
        cards.append((f"{len(classes['in_use'])}{of}", "classes in use"))
    cards.append((f"{report['samples']}", "unlabelled samples"))
    return cards


def _decisions(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    readout = report["readout"]
    return [
        ("sparse network", check_line(report.get("check"), readout)),
        ("classes", readout_line(readout)),
        *([("update", update_line(update))] if (update := report.get("update")) else []),
        ("are there enough samples?", halves_line(report.get("halves"))),
        ("batch norms", norms_line(report.get("norms"))),
        ("neighbours", neighbours_line(report.get("neighbours"))),
    ]


def _costs(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds, passes = report["seconds"], report["forward_passes"]
    joule = WATTS * seconds["total"]
    memory = report["peak_memory"]
    return [
        ("time", f"{seconds['total']:.1f} s, {report['dense_passes']:.1f} times what the network"
                 " takes for these samples"),
        ("beside backpropagation", f"{passes:.1f} forward passes; {EPOCHS} epochs of fine-tuning,"
                                   f" which needs labels, take {3 * EPOCHS}"),
        ("energy", f"about {joule:,.0f} J (a laptop's processor at {WATTS:g} W): what a phone takes"
                   f" in {joule / PHONE:,.0f} s with its screen on"),
        ("memory", "not measured" if memory is None else f"{memory / 1e6:,.0f} MB at the peak,"
                                                         " above the start"),
    ]  # fmt: skip


def _next(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    check, choice = report.get("check") or {}, report.get("choice")
    steps = [
        ("Count right answers, on a few samples with labels:",
         "finepruning evaluate --model ... --personal DIR --data LABELLED"),
    ]  # fmt: skip
    steps.append(
        ("When your life changes, see whether it still fits, and take the new samples in:",
         "finepruning monitor DIR --data NEW; finepruning update DIR --data NEW"),
    )  # fmt: skip
    if not check.get("passed", True):
        steps.append(("Give more samples: what few say is vague.", ""))
        steps.append(("If you know which classes can come up, say so:", "--only-classes a,b,c"))
    if choice:
        steps.append(
            ("Let more answers change, or fewer:", f"--tolerance {2 * choice['tolerance']:g}")
        )
    return steps
