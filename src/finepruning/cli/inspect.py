"""``finepruning inspect``: the report that was saved with an artifact."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "show what personalize did and what it cost"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    parser.add_argument("--layers", action="store_true", help="all of it, layer by layer")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import read_report
    from ..report.text import format_report, summary

    report = read_report(args.personal)
    return report, format_report(report) if args.layers else summary(report)
