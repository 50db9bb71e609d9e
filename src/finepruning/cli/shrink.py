"""``finepruning shrink``: a personal network without the channels that nothing reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from ..artifact.layout import check_place
from . import common, opening, options

HELP = "make a personal network smaller: channels that nothing reads are taken out"


def add_options(parser: argparse.ArgumentParser) -> None:
    opening.add_options(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder to save in")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..deploy.shrink import shrink

    try:
        check_place(Path(args.out))
    except FinepruningError as error:
        raise FinepruningError(f"--out {error}") from error
    found = opening.opened(args)
    small = shrink(found.model, found.example, plain=found.plain)
    small.save(args.out, source=options.saved_source(args, found.loaded))
    before = sum(p.numel() for p in found.model.parameters())
    summary = {
        "out": args.out, "params": {"before": before, "after": small.params},
        "removed": dict(small.removed), "left": dict(small.left),
    }  # fmt: skip
    common.say(f"saved in {args.out}")
    return summary, _text(summary)


def _text(summary: dict[str, Any]) -> str:
    before, after = summary["params"]["before"], summary["params"]["after"]
    channels = sum(summary["removed"].values())
    lines = [
        f"parameters  {before:,} -> {after:,} ({after / before:.0%})",
        f"channels    {channels:,} taken out, of {len(summary['removed'])} groups",
    ]
    if not channels:
        lines.append("            none is unread: personalise with --macs 0.5 to remove whole ones")
    left = [*summary["left"].items()]
    lines += [f"left whole  {name}: {why}" for name, why in left[:4]]
    if len(left) > 4:
        lines.append(f"            and {len(left) - 4} more (--format json names all)")
    return "\n".join(lines)
