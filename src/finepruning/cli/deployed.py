"""``finepruning run``: what an exported network answers, by ONNX Runtime and without PyTorch."""

from __future__ import annotations

import argparse
from typing import Any

from . import common

HELP = "answer for a folder with an exported network; needs no PyTorch"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.onnx", help="what export wrote")
    parser.add_argument(
        "--data", required=True, metavar="FOLDER",
        help="images; or .npy files, each a sample as the network takes it",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=8, metavar="N")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from ..deploy.runtime import Deployed

    deployed = Deployed(args.file)
    found = [*deployed.predict(args.data, args.batch_size)]
    for path, why in deployed.skipped[:10]:
        common.say(f"skipped {path}: {why}")
    rows = [
        {"file": str(p.path), "output": p.output, "class": p.name, "share": p.share} for p in found
    ]
    lines = [f"{p.path}  {p.name or p.output}  {p.share:.0%}" for p in found]
    return {"predictions": rows, "skipped": len(deployed.skipped)}, "\n".join(lines)
