"""``finepruning inspect``: the report that was saved with an artifact."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

HELP = "show what personalize did and what it cost"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    parser.add_argument("--layers", action="store_true", help="all of it, layer by layer")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import read_report
    from ..artifact.sizes import sizes_of
    from ..report.text import format_report, labelled, summary

    report = read_report(args.personal)
    text = format_report(report) if args.layers else summary(report)
    sizes = sizes_of(args.personal)
    lines = labelled("artifact", sizes.line(report["weights"]), 2)
    return {**report, "artifact": asdict(sizes)}, "\n".join([text, *lines])
