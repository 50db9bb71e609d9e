"""What commands share: the model and the folder that the options name, and messages about them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from .options import AUDIO_OPTIONS, IMAGE_OPTIONS, given_images

if TYPE_CHECKING:
    from .. import AudioFolder, ImageFolder, Loaded, Result
    from ..artifact.layout import Values
    from ..data.folder import Kind


def say(message: str) -> None:
    """Print a line on stderr."""
    print(f"finepruning: {printable(message)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The same with all that a terminal would obey, as a file's name may hold it, written out."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


@contextmanager
def messages_aside() -> Iterator[None]:
    """Whatever is printed within goes to stderr, from other programs and libraries too."""
    sys.stdout.flush()
    own = sys.stdout if sys.stdout is sys.__stdout__ else None  # else it is none of the system's
    ours = os.dup(own.fileno()) if own is not None else -1
    try:
        if own is not None:
            os.dup2(2, own.fileno())
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if own is not None:
            os.dup2(ours, own.fileno())
            os.close(ours)


def held_kind(args: argparse.Namespace) -> Kind:
    """Whether the folder holds images or audio; options that mean nothing there are refused."""
    from ..data.pictures import IMAGES
    from ..hub import folders

    kind = folders.held_kind(args.data)
    for name in AUDIO_OPTIONS if kind is IMAGES else IMAGE_OPTIONS:
        if getattr(args, name, None) is not None:
            raise FinepruningError(
                f"--{name.replace('_', '-')}: {args.data} holds {kind.plural}; leave it out"
            )
    return kind


def load(args: argparse.Namespace, kind: Kind) -> Loaded:
    """Load the model; the command's options go before what it says of its inputs."""
    from .. import load_model
    from ..data.pictures import IMAGES
    from ..hub.folders import check_kind

    loaded = load_model(args.model, args.weights)
    check_kind(loaded, kind, args.data)
    if kind is IMAGES:
        return _with_images(args, loaded)
    return _with_audio(args, loaded)


def _with_images(args: argparse.Namespace, loaded: Loaded) -> Loaded:
    from .. import Preprocess

    loaded = loaded.preparing_images(**given_images(args))
    own = not isinstance(loaded.preprocess, Preprocess)
    shown = "prepared by the model's own code" if own else loaded.preprocess
    note = " (assumed; change with --resize --crop --mean --std)" if loaded.assumed else ""
    say(f"images: {shown}{note}")
    return loaded


def _with_audio(args: argparse.Namespace, loaded: Loaded) -> Loaded:
    loaded = loaded.preparing_audio(args.front_end, rate=args.rate, seconds=args.seconds)
    note = " (assumed; change with --front-end and --rate)" if loaded.assumed else ""
    say(f"audio: {loaded.front}{note}")
    return loaded


def class_names(args: argparse.Namespace, loaded: Loaded) -> tuple[str, ...] | None:
    """What the outputs are called, for the report."""
    from ..scoring.classes import read_classes

    table = read_classes(args.classes) if args.classes is not None else loaded.classes
    if not isinstance(table, dict):
        return None if table is None else tuple(table)
    named = {index: name for name, index in table.items()}
    return tuple(named.get(k, str(k)) for k in range(max(named, default=-1) + 1))


def say_result(result: Result) -> None:
    """What a user should know at once of what was done."""
    for line in result.report.warnings:
        say(f"warning: {line}")
    check = result.report.check
    if not check["passed"]:
        beside = ", with the read-out" * result.report.readout["applied"]
        say(f"the dense weights are returned{beside}: {check['reason']}")


def device(name: str) -> str:
    """The device that ``--device`` names."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise FinepruningError("--device cuda: PyTorch sees no CUDA device; give --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def about(folder: ImageFolder | AudioFolder) -> dict[str, Any]:
    """What a result says of its data."""
    skipped = [{"path": str(path), "reason": reason} for path, reason in folder.skipped]
    return {"data": str(folder.root), folder.kind.counted: folder.files, "skipped": skipped}


def say_skipped(folder: ImageFolder | AudioFolder) -> None:
    """Name the files that could not be used."""
    from ..data.folder import describe_skipped

    if folder.skipped:
        say(f"{folder.files} {folder.kind.counted}; {describe_skipped(folder.skipped, limit=10)}")


def say_stored(
    out: Path, loaded: Loaded, result: Result, folder: ImageFolder | AudioFolder, values: Values
) -> dict[str, Any] | None:
    """Where not all bits of the weights are ``stored``: how many answers to the person's samples
    are the same as those of the network that was fitted."""
    if values == "exact":
        return None
    from .. import load
    from ..scoring.stored import stays

    found = stays(result.model, load(out, loaded.model), folder)
    if found is None:
        return None
    say(f"stored as {values}: {found.line(result.report.task == 'values')}")
    return {"values": values, **asdict(found)}
