"""``finepruning personalize``: prune and adapt a network to the person whose folder is given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from ..artifact.layout import VALUES, check_place, check_space
from . import common, options

if TYPE_CHECKING:
    from .. import Config, Loaded

HELP = "prune and adapt a network to a person"


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model_and_data(parser, "folder of the person's images or audio, unlabelled")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder to save in")
    add_choices(parser)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """What is to be done with the network."""
    parser.add_argument(
        "--values", choices=VALUES, default="exact",
        help="what is stored of the weights that stay: exact; fewer bits; differences to the"
             " base's, coded; mask: none, gains alone (exact)",
    )  # fmt: skip
    parser.add_argument(
        "--sparsity", type=options.sparsity,
        help="share of weights to remove, or auto: as much as few answers change by (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=options.share,
        help="of all answers, the share that may change where the sparsity is auto (0.12: of"
        " 100 answers, 12)",
    )  # fmt: skip
    parser.add_argument(
        "--macs", type=options.part, metavar="SHARE",
        help="remove whole channels, until this share of the multiply-accumulates is left (0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--params", type=options.part, metavar="SHARE", help="the same of the weights"
    )
    parser.add_argument(
        "--latency", type=options.part, metavar="SHARE",
        help="the same of the time that one sample takes on this machine",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=options.bytes_, metavar="10MB",
        help="the same, until the weights take so much in 32 bits (in 8, a quarter of it)",
    )  # fmt: skip
    parser.add_argument(
        "--pixels", type=options.pixels, metavar="N",
        help="the same part of each picture in N by N pixels; auto: in as few as no more answers"
        " than --tolerance change by, before anything is pruned",
    )  # fmt: skip
    parser.add_argument("--effort", choices=["fast", "best", "paper"], default="best")
    parser.add_argument(
        "--no-readout",
        dest="readout",
        action="store_false",
        default=None,
        help="leave the output layer's bias",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--task", choices=["auto", "classes", "labels", "values", "tokens"],
        help="what the outputs are: one answer a sample, many, numbers, a vocabulary (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--only-classes", metavar="A,B,...", type=options.words,
        help="the only classes that can come up, names or numbers; no other is answered any more",
    )  # fmt: skip
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of all outputs, one a line, for --only-classes and the report",
    )
    parser.add_argument(
        "--norms", type=options.share, metavar="SHARE",
        help="of this person's statistics in batch norms, on another device than the network's"
        " (0; try 0.25)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-nothing", action="store_true",
        help="write nothing that later updates and the monitor need",
    )  # fmt: skip
    parser.add_argument(
        "--no-check", dest="check", action="store_false", default=None,
        help="return the personal network even where it does not seem to help",
    )  # fmt: skip


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    out = Path(args.out)
    # All that could waste an hour's work is looked at before the work.
    try:
        if args.out.strip() == "":
            raise FinepruningError("give a name")
        check_place(out)
    except FinepruningError as error:
        raise FinepruningError(f"--out {error}") from error
    check_choices(args)
    kind = common.held_kind(args)

    from .. import open_folder, personalize

    device = common.device(args.device)
    loaded = common.load(args, kind)
    check_space(out, sum(p.nbytes for p in loaded.model.parameters()))
    if args.pixels is not None:
        loaded = in_pixels(args, loaded, device)
    folder = open_folder(args.data, loaded, batch_size=args.batch_size, seed=args.seed)
    try:
        result = personalize(
            loaded.model.to(device), folder, config=config_of(args, loaded), device=device
        )
    finally:  # where too little is left, it is these that are missing
        common.say_skipped(folder)
    common.say_result(result)
    result.save(
        out, source=options.saved_source(args, loaded), values=args.values, base=loaded.model
    )
    common.say(f"saved in {out}")
    stored = common.say_stored(out, loaded, result, folder, args.values)
    report = result.report.to_dict()
    summary = {**common.about(folder), "out": str(out), "stored": stored, "report": report}
    return summary, str(result.report)


def check_choices(args: argparse.Namespace) -> None:
    """Raise :class:`FinepruningError` where choices exclude each other, or need what is missing."""
    auto = args.sparsity in (None, "auto") or args.pixels == "auto"
    if args.tolerance is not None and not auto:
        raise FinepruningError(
            f"--tolerance {args.tolerance:g}: says how a sparsity is chosen, and --sparsity"
            f" {args.sparsity:g} is given; leave one out"
        )
    if args.values != "exact":
        from ..artifact.coding import coder

        coder()  # or one line that names what is missing


def in_pixels(args: argparse.Namespace, loaded: Loaded, device: str) -> Loaded:
    """The same network, with pictures in fewer pixels; the choice is saved as if it was given."""
    from .. import Config, Preprocess, open_folder
    from ..deploy.pixels import chosen, fewest_pixels

    before = loaded.preprocess
    if not loaded.takes_images or not isinstance(before, Preprocess) or before.crop is None:
        raise FinepruningError(
            f"--pixels {args.pixels}: {loaded.called} takes no pictures of one size; leave it out,"
            " or give --resize and --crop"
        )
    whole = max(before.crop) if isinstance(before.crop, tuple) else before.crop

    def at(side: int) -> Loaded:
        small = before.scaled(side / whole)
        return loaded.preparing_images(resize=small.resize, crop=small.crop)

    side = args.pixels
    if side == "auto":
        if args.task not in (None, "auto", "classes"):
            raise FinepruningError(
                f"--pixels auto: is judged by classes, and --task is {args.task}; give a number"
            )
        tolerance = Config().choice.tolerance if args.tolerance is None else args.tolerance
        tried = fewest_pixels(
            loaded.model.to(device),
            lambda n: open_folder(args.data, at(n), batch_size=args.batch_size, seed=args.seed),
            whole,
            tolerance,
        )
        for one in tried[1:]:
            common.say(
                f"pixels: {one.pixels}: {one.stays:.0%} of the answers stay, {one.macs:.0%} of the"
                " multiply-accumulates"
            )
        side = chosen(tried, tolerance)
    made = at(side)
    assert isinstance(made.preprocess, Preprocess)
    args.resize, args.crop = made.preprocess.resize or "none", made.preprocess.crop
    common.say(f"images: {made.preprocess}")
    return made


def config_of(args: argparse.Namespace, loaded: Loaded) -> Config:
    from .. import Config

    task = {"kind": args.task, "classes": _only_classes(args, loaded)}
    if args.classes is not None and args.task is None:
        task["kind"] = "classes"
    task["names"] = common.class_names(args, loaded)
    structure = {"macs": args.macs, "params": args.params, "latency": args.latency}
    if args.size is not None:
        if args.params is not None:
            raise FinepruningError("--size and --params: give one of them")
        from ..deploy.shrink import share_for

        structure["params"] = share_for(loaded.model, args.size)
    return Config(
        structure={name: value for name, value in structure.items() if value is not None},
        sparsity="auto" if args.sparsity is None else args.sparsity, choice=args.tolerance,
        effort=args.effort, seed=args.seed, readout=args.readout,
        fit={"method": "gains"} if args.values == "mask" else None,
        norms=args.norms, check=args.check, observe={"rank": 0} if args.keep_nothing else None,
        task={name: value for name, value in task.items() if value is not None},
    )  # fmt: skip


def _only_classes(args: argparse.Namespace, loaded: Loaded) -> tuple[int, ...] | None:
    """Numbers of the classes that are named as the only ones."""
    from ..scoring.classes import match_classes, read_classes

    given = args.only_classes
    if given is None or all(name.isdecimal() for name in given):
        return None if given is None else tuple(map(int, given))
    table = read_classes(args.classes) if args.classes is not None else loaded.classes
    if table is None:
        raise FinepruningError(
            f"--only-classes {given[0]}: the model's classes have no names; give --classes FILE"
            " (one name a line, in the order of the outputs), or numbers"
        )
    outputs = 1 + max(table.values()) if isinstance(table, dict) else len(table)
    return tuple(match_classes(given, outputs, names=loaded.classes, file=args.classes).values())
