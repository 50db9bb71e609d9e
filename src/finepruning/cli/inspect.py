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
    from ..artifact.layout import read_about
    from ..artifact.sizes import sizes_of
    from ..report.text import format_report, labelled, summary

    about = read_about(args.personal)
    report, source = about["report"], about.get("source")
    text = format_report(report) if args.layers else summary(report)
    sizes = sizes_of(args.personal)
    lines = labelled("artifact", sizes.line(report["weights"]), 2)
    lines += labelled("base", _base(about["base"], source if isinstance(source, dict) else {}), 2)
    artifact = {**asdict(sizes), "base": about["base"], "source": source}
    return {**report, "artifact": artifact}, "\n".join([text, *lines])


def _base(fingerprint: str, source: dict[str, Any]) -> str:
    """Which network it belongs to, in words."""
    parts = [str(source.get("model", "unknown"))]
    if "weights" in source:
        digest = str(source.get("weights_sha256", ""))[:12]
        parts.append(f"weights {source['weights']}{f' (SHA-256 {digest}...)' * bool(digest)}")
    if "revision" in source:
        parts.append(f"revision {source['revision']}")
    if "inputs" in source:
        parts.append(str(source["inputs"]))
    return "; ".join([*parts, f"fingerprint {fingerprint[:12]}..."])
