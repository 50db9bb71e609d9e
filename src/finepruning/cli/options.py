"""The options that commands share, and how their values are read."""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError

if TYPE_CHECKING:
    from .. import Loaded

IMAGE_OPTIONS = ("resize", "crop", "mean", "std", "channels", "interpolation")
AUDIO_OPTIONS = ("rate", "seconds", "front_end")


def add_model_and_data(
    parser: argparse.ArgumentParser,
    data: str,
    *,
    known: bool = False,
    flag: str = "--data",
    metavar: str = "FOLDER",
) -> None:
    """``known``: what is not given is as it was when the artifact was made; ``flag``: what the
    data is given by."""
    forms = "torchvision:NAME, timm:NAME, FILE.py:function, or a Hugging Face folder or id"
    parser.add_argument("--model", required=not known, help=forms + " (as it was)" * known)
    parser.add_argument("--weights", metavar="FILE", help="checkpoint: safetensors, pt or pth")
    required = flag in ("--data", "--manifest")
    parser.add_argument(flag, dest="data", required=required, metavar=metavar, help=data)
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    images = parser.add_argument_group("images", "instead of the model's own preprocessing")
    images.add_argument("--resize", type=size, metavar="N", help="shorter side, HxW, or none")
    images.add_argument("--crop", type=size, metavar="N", help="centre: side, HxW, or none")
    images.add_argument("--mean", type=floats, nargs="+", action=_Tuple, metavar="X")
    images.add_argument("--std", type=floats, nargs="+", action=_Tuple, metavar="X")
    images.add_argument("--channels", type=int, choices=[1, 3], help="grey or RGB")
    images.add_argument("--interpolation", metavar="NAME", help="bilinear, bicubic, ...")
    audio = parser.add_argument_group("audio", "instead of the model's own front end")
    audio.add_argument(
        "--front-end", metavar="FILE.py:FUNCTION", help="from a waveform to the network's input"
    )
    audio.add_argument("--rate", type=positive, metavar="HZ", help="that the front end takes")
    audio.add_argument(
        "--seconds", type=seconds, metavar="S", help="longer recordings are cut (30)"
    )


SOURCE = ("model", "weights", "classes", *IMAGE_OPTIONS, *AUDIO_OPTIONS)
"""What says where a network is from and what it takes."""
PLACES = ("weights", "classes")


def source(args: argparse.Namespace) -> dict[str, Any]:
    """Where the network is from and what it takes, to be saved; files by their full path."""
    given = {name: getattr(args, name, None) for name in SOURCE}
    found = {name: value for name, value in given.items() if value is not None}
    for name in PLACES:
        if name in found:
            found[name] = os.path.abspath(found[name])
    for name in ("model", "front_end"):  # a name, a folder, or FILE.py:function
        file, colon, function = str(found.get(name, "")).partition(":")
        if os.path.exists(file):
            found[name] = os.path.abspath(file) + colon + function
    return found


def saved_source(args: argparse.Namespace, loaded: Loaded) -> dict[str, Any]:
    """The same, and what tells months later whether it is the same: the checkpoint's SHA-256, the
    commit on a hub, and how inputs were prepared."""
    from pathlib import Path

    from ..artifact.seal import digest_of

    found = source(args)
    if args.weights is not None:
        found["weights_sha256"] = digest_of(Path(args.weights))
    commit = getattr(getattr(loaded.model, "config", None), "_commit_hash", None)
    if commit is not None:
        found["revision"] = str(commit)
    prepared = str(loaded.front or loaded.preprocess)
    found["inputs"] = "the model's own code" if " at 0x" in prepared else prepared
    return found


def as_before(args: argparse.Namespace, source: Any) -> None:
    """Fill in what is not given with what was saved."""
    if not isinstance(source, dict) or not isinstance(source.get("model"), str):
        if args.model is None:
            raise FinepruningError("--model: not known of this artifact; give it, as before")
        return
    if args.model is None:
        for name, value in source.items():
            if name in SOURCE and getattr(args, name, None) is None:
                setattr(args, name, tuple(value) if isinstance(value, list) else value)


def given_images(args: argparse.Namespace) -> dict[str, Any]:
    """The image options that were given, by the names of the API; ``none`` is None there."""
    given = {name: getattr(args, name) for name in IMAGE_OPTIONS}
    return {k: None if v == "none" else v for k, v in given.items() if v is not None}


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(x for group in values for x in group))


def floats(text: str) -> list[float]:
    return [float(part) for part in text.replace(",", " ").split()]


def size(text: str) -> int | tuple[int, int] | str:
    if text == "none":
        return text
    sides = [positive(side) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise ValueError
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return value


def seconds(text: str) -> float:
    if not 0.1 <= (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give a number of 0.1 or more")
    return value


def sparsity(text: str) -> float | str:
    if text == "auto":
        return text
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 0 up to, not including, 1")
    return value


def share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number from 0 to 1")
    return value


def part(text: str) -> float:
    """A share of what is there, as ``0.5`` or ``0.5x``."""
    value = float(text.removesuffix("x"))
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give more than 0, at most 1, such as 0.5")
    return value


def bytes_(text: str) -> float:
    """A size, as ``10MB`` or ``800KB``."""
    number, unit = text.upper().removesuffix("B"), 1.0
    for letter, factor in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number.endswith(letter):
            number, unit = number[:-1], factor
    if (value := float(number) * unit) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a size, such as 10MB")
    return value


def pixels(text: str) -> int | str:
    """A number of pixels, or ``auto``."""
    return text if text == "auto" else positive(text)


def words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
