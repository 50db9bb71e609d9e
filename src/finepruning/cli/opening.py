"""What ``shrink``, ``export`` and ``bench`` open: a personal network, or a small one."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import FinepruningError
from . import common, options

if TYPE_CHECKING:
    from torch import nn

    from .. import Loaded

SMALL = "shapes.json"
"""What tells a small network's folder."""


@dataclass(frozen=True)
class Opened:
    """A network that a folder holds."""

    model: nn.Module
    loaded: Loaded
    """The base, and how inputs are prepared."""
    folder: Any
    """Batches of the person's samples."""
    example: Any
    """The first of them."""
    plain: dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("personal", metavar="DIR", help="what personalize or shrink saved")
    what = "folder of the person's images or audio: a few show what the network takes"
    options.add_model_and_data(parser, what, known=True)
    parser.add_argument("--classes", metavar="FILE", help="names of all outputs, one a line")


def opened(args: argparse.Namespace) -> Opened:
    """The network in ``DIR``, and what it takes."""
    from .. import load, open_folder
    from ..artifact.layout import read_about
    from ..deploy.shrink import load_small, source_of

    small = Path(args.personal, SMALL).is_file()
    about = source_of(args.personal) if small else read_about(args.personal)
    options.as_before(args, about.get("source"))
    loaded = common.load(args, common.held_kind(args))
    given = loaded.model.eval()
    model = load_small(args.personal, given) if small else load(args.personal, given)
    folder = open_folder(args.data, loaded, batch_size=args.batch_size)
    first = next(iter(folder), None)
    if first is None:
        raise FinepruningError(f"{args.data}: nothing in it can be used")
    return Opened(model, loaded, folder, first, about.get("plain", {}))
