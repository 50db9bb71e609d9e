"""``finepruning report``: a page of what personalize did, to be opened in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._errors import FinepruningError
from . import common, options

HELP = "write a page about what personalize did"
MOST = 12
"""Samples that are shown."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize saved")
    parser.add_argument("--out", metavar="FILE", help="of the page (DIR/report.html)")
    options.add_model_and_data(
        parser,
        "show some of your own pictures or clips from there, those first whose answers have"
        " changed: such a page is for you alone",
        known=True,
        flag="--with-samples",
    )
    parser.add_argument("--classes", metavar="FILE", help="names of all outputs, one a line")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from .. import read_report
    from ..report.page import page

    out = Path(args.out) if args.out is not None else Path(args.personal) / "report.html"
    report = read_report(args.personal)
    text = page(report, _samples(args) if args.data is not None else ())
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise FinepruningError(f"--out {out}: cannot be written: {error.strerror}") from error
    common.say(f"open {out} in a browser")
    return {"page": str(out), "bytes": len(text.encode())}, str(out)


def _samples(args: argparse.Namespace) -> list[dict[str, str]]:
    """Some of the person's samples, with what they were and are answered with."""
    import torch

    from .. import load, open_folder
    from ..artifact.layout import read_about
    from ..report.samples import medium
    from ..scoring.accuracy import predict

    options.as_before(args, read_about(args.personal).get("source"))
    kind = common.held_kind(args)
    device = common.device(args.device)
    loaded = common.load(args, kind)
    folder = open_folder(args.data, loaded, batch_size=1)
    names = common.class_names(args, loaded)
    models = [loaded.model.to(device), load(args.personal, loaded.model).to(device)]
    answers: list[list[str]] = []
    with torch.inference_mode():
        for batch in folder:
            said = [predict(model, batch, device)[0] for model in models]
            answers.append([_name(int(s.argmax()), names) for s in said])
    if len(answers) != len(folder.paths):
        raise FinepruningError(
            f"--with-samples {args.data}: some recordings are longer than one window, and have no"
            " single answer; give a folder of short ones"
        )
    shown = sorted(zip(answers, folder.paths, strict=True), key=lambda one: one[0][0] == one[0][1])
    return [
        {"media": medium(path), "before": before, "after": after}
        for (before, after), path in shown[:MOST]
    ]


def _name(k: int, names: tuple[str, ...] | None) -> str:
    return str(k) if names is None or k >= len(names) else names[k]
