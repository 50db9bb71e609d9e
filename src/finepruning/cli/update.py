"""``finepruning update``: take new samples in, without the earlier ones."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from . import common, options

HELP = "take new data into a personal network, from what was kept of the earlier"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    options.add_model_and_data(parser, "folder of new images or audio, unlabelled", known=True)
    parser.add_argument("--out", metavar="NEW", help="new folder to save in (DIR is replaced)")
    parser.add_argument(
        "--sparsity", type=options.sparsity, help="share of weights to remove, or auto (as it was)"
    )
    parser.add_argument("--classes", metavar="FILE", help="names of all outputs, one a line")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import open_folder, read_report, update
    from ..artifact.layout import read_about

    there = Path(args.personal)
    out = there if args.out is None else Path(args.out)
    if args.out is not None and (out.exists() or out.is_symlink()):
        raise FinepruningError(f"--out {out}: exists already; remove it or give another name")
    if not os.access(out.absolute().parent, os.W_OK):
        raise FinepruningError(f"{out}: cannot write in {out.absolute().parent}; give --out")
    about = read_about(there)
    options.as_before(args, about.get("source"))
    kind = common.held_kind(args)
    device = common.device(args.device)
    loaded = common.load(args, kind)
    folder = open_folder(args.data, loaded, batch_size=args.batch_size)
    before = read_report(there)
    try:
        result = update(
            there, loaded.model.to(device), folder, sparsity=args.sparsity, device=device
        )
    finally:  # where too little is left, it is these that are missing
        common.say_skipped(folder)
    common.say_result(result)
    report = result.report.to_dict()
    for line in _what_changed(before, report):
        common.say(line)
    values = about.get("values", "exact")
    result.save(
        out, replace=args.out is None, source=options.saved_source(args, loaded), values=values,
        base=loaded.model,
    )  # fmt: skip
    common.say(f"saved in {out}")
    stored = common.say_stored(out, loaded, result, folder, values)
    summary = {**common.about(folder), "out": str(out), "stored": stored, "report": report}
    return summary, str(result.report)


def _what_changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Classes that have come and gone, and another device."""
    lines = []
    if (now.get("update") or {}).get("aligned"):
        lines.append("the samples are from another device: the batch norms are aligned with it")
    one, two = (
        [str(c["name"]) for c in (report.get("classes") or {}).get("in_use", ())]
        for report in (before, now)
    )
    for word, names in (
        ("come", [n for n in two if n not in one]),
        ("gone", [n for n in one if n not in two]),
    ):
        if names:
            lines.append(f"classes that have {word}: {', '.join(names)}")
    return lines
