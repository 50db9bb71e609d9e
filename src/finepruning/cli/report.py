"""``finepruning report``: a page of what personalize did, to be opened in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from . import common

HELP = "write a page about what personalize did"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    parser.add_argument("--out", metavar="FILE", help="of the page (DIR/report.html)")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import read_report
    from ..report.page import page

    out = Path(args.out) if args.out is not None else Path(args.personal) / "report.html"
    report = read_report(args.personal)
    text = page(report)
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise FinepruningError(f"--out {out}: cannot be written: {error.strerror}") from error
    common.say(f"open {out} in a browser")
    return {"page": str(out), "bytes": len(text.encode())}, str(out)
