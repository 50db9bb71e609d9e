"""``finepruning export``: one file that other runtimes run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common, opening

HELP = "write a personal network as one file: ONNX, or a PyTorch program"


def add_options(parser: argparse.ArgumentParser) -> None:
    opening.add_options(parser)
    parser.add_argument("--to", required=True, metavar="FILE", help="new .onnx or .pt2 file")
    parser.add_argument(
        "--int8", action="store_true", help="8-bit integers, in the ranges of the data (ONNX)"
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..deploy.export import check_file, export

    check_file(args.to)
    found = opening.opened(args)
    names = common.class_names(args, found.loaded) or found.loaded.classes
    export(
        found.model, args.to, found.example, classes=names, preprocess=found.loaded.preprocess,
        int8=found.folder if args.int8 else None,
    )  # fmt: skip
    size = Path(args.to).stat().st_size
    summary: dict[str, Any] = {"file": args.to, "bytes": size, "int8": args.int8}
    said = "answers as PyTorch's on the data"
    if args.int8:
        summary["agree"] = _agreement(found, args.to)
        said = "8 bits"
        if summary["agree"] is not None:
            said += f"; {summary['agree']:.0%} of the first samples' answers as in 32"
    return summary, f"{args.to}: {size / 1e6:.1f} MB; {said}"


def _agreement(found: opening.Opened, file: str) -> float | None:
    """Of the first samples, the share whose largest output is the same; None: not one tensor."""
    import torch

    from ..deploy.runtime import Deployed

    x = found.example
    if not isinstance(x, torch.Tensor):
        return None
    with torch.inference_mode():
        wanted = found.model(x)
    if not isinstance(wanted, torch.Tensor) or wanted.ndim != 2:
        return None
    return float((Deployed(file).run(x.numpy()).argmax(1) == wanted.argmax(1).numpy()).mean())
