"""``finepruning evaluate``: the dense network and the person's on labelled data, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from . import common, options

if TYPE_CHECKING:
    from torch import nn

    from .. import Evaluation, Loaded

HELP = "count correct answers on labelled data"


def add_options(parser: argparse.ArgumentParser) -> None:
    options.add_model_and_data(parser, "folder with one folder of images or audio for each class")
    parser.add_argument("--personal", metavar="DIR", help="what personalize saved")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="what the class folders mean: text, line number = output; or JSON {folder: output}",
    )
    parser.add_argument(
        "--transcripts",
        metavar="FILE",
        help="of the recordings: csv, tsv or txt of name and text; else NAME.txt beside NAME.wav",
    )


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    kind = common.held_kind(args)
    if args.personal is not None and not Path(args.personal).is_dir():
        raise FinepruningError(f"--personal {args.personal}: no such folder")
    device = common.device(args.device)
    loaded = common.load(args, kind)
    models = {"dense": loaded.model.to(device)}
    if args.personal is not None:
        from .. import load

        models["personal"] = load(args.personal, loaded.model).to(device)
    if loaded.writes:
        return _transcripts(args, loaded, models, device)
    return _answers(args, loaded, models, device)


def _answers(
    args: argparse.Namespace, loaded: Loaded, models: dict[str, nn.Module], device: str
) -> tuple[dict[str, Any], str]:
    import torch

    from .. import class_folders, evaluate, match_classes, open_folder
    from ..scoring.accuracy import predict

    names = class_folders(args.data)
    # How many outputs there are, only the network knows: ask it with one sample.
    probe = open_folder(args.data, loaded, labels=dict.fromkeys(names, 0), batch_size=1)
    first = next(iter(probe))[0]
    with torch.inference_mode():
        outputs = predict(loaded.model, first, device).shape[1]
    labels = match_classes(names, outputs, names=loaded.classes, file=args.classes)
    folder = open_folder(args.data, loaded, labels=labels, batch_size=args.batch_size)
    found = {name: evaluate(model, folder, device=device) for name, model in models.items()}
    common.say_skipped(folder)
    summary = {**common.about(folder), **{name: e.to_dict() for name, e in found.items()}}
    return summary, _table(found, outputs)


def _transcripts(
    args: argparse.Namespace, loaded: Loaded, models: dict[str, nn.Module], device: str
) -> tuple[dict[str, Any], str]:
    from .. import AudioFolder, evaluate_transcripts, find_texts
    from ..scoring.transcripts import format_transcriptions

    if loaded.reader is None:
        raise FinepruningError(
            f"--model {args.model}: brings no tokenizer, so that its tokens cannot be read;"
            " save the tokenizer in the model's folder"
        )
    texts = find_texts(args.data, args.transcripts)
    folder = AudioFolder(args.data, loaded.front, batch_size=args.batch_size, texts=texts)
    found = {
        name: evaluate_transcripts(model, loaded.reader, folder, device=device)
        for name, model in models.items()
    }
    common.say_skipped(folder)
    summary = {**common.about(folder), **{name: t.to_dict() for name, t in found.items()}}
    return summary, format_transcriptions(found)


def _table(found: dict[str, Evaluation], outputs: int) -> str:
    told = len(next(iter(found.values())).classes)
    rows = [["", f"all {outputs} outputs", f"told the {told} classes", "ms a sample"]]
    for name, e in found.items():
        cells = [(e.correct, e.interval), (e.told_correct, e.told_interval)]
        rows.append(
            [name]
            + [f"{k}/{e.n} = {k / e.n:.1%} [{low:.1%}, {high:.1%}]" for k, (low, high) in cells]
            + [f"{1000 * e.latency:.1f}"]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines) + "\n[95 % Wilson interval]"
