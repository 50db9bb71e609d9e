"""``finepruning monitor``: whether new samples are still like those of the personal network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common, options

HELP = "tell whether new data is unlike what a network was made personal with"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    options.add_model_and_data(parser, "folder of new images or audio, unlabelled", known=True)
    parser.add_argument(
        "--false-alarms", type=options.share, metavar="SHARE",
        help="how often ordinary data may be taken for a change (0.05)",
    )  # fmt: skip
    parser.add_argument("--classes", metavar="FILE", help="names of all outputs, one a line")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import load, monitor, open_folder
    from ..artifact.layout import read_about

    there = Path(args.personal)
    options.as_before(args, read_about(there).get("source"))
    kind = common.held_kind(args)
    device = common.device(args.device)
    loaded = common.load(args, kind)
    folder = open_folder(args.data, loaded, batch_size=args.batch_size)
    model = load(there, loaded.model).to(device)
    watch = monitor(
        model, there, false_alarms=args.false_alarms, device=device,
        class_names=common.class_names(args, loaded),
    )  # fmt: skip
    try:
        drift = watch.see(folder)
    finally:
        common.say_skipped(folder)
    return {**common.about(folder), **drift.to_dict()}, str(drift).replace("DIR", str(there))
