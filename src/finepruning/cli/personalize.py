"""``finepruning personalize``: prune and adapt a network to the person whose folder is given."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from . import common, options

HELP = "prune and adapt a network to a person"


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model_and_data(parser, "folder of the person's images or audio, unlabelled")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder to save in")
    parser.add_argument(
        "--sparsity", type=options.sparsity, default=0.7, help="share of weights to remove (0.7)"
    )
    parser.add_argument("--effort", choices=["fast", "best", "paper"], default="best")
    parser.add_argument(
        "--no-readout",
        dest="readout",
        action="store_false",
        default=None,
        help="leave the output layer's bias",
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    out = Path(args.out)
    # All that could waste an hour's work is looked at before the work.
    if out.exists() or out.is_symlink():
        raise FinepruningError(f"--out {out}: exists already; remove it or give another name")
    if not os.access(out.absolute().parent, os.W_OK):
        parent = out.absolute().parent
        raise FinepruningError(
            f"--out {out}: cannot write in {parent}; make it first, or go elsewhere"
        )
    kind = common.held_kind(args)

    from .. import open_folder, personalize

    device = common.device(args.device)
    loaded = common.load(args, kind)
    folder = open_folder(args.data, loaded, batch_size=args.batch_size, seed=args.seed)
    try:
        result = personalize(
            loaded.model.to(device),
            folder,
            sparsity=args.sparsity,
            effort=args.effort,
            readout=args.readout,
            seed=args.seed,
            device=device,
        )
    finally:  # where too little is left, it is these that are missing
        common.say_skipped(folder)
    result.save(out)
    common.say(f"saved in {out}")
    summary = {**common.about(folder), "out": str(out), "report": result.report.to_dict()}
    return summary, str(result.report)
