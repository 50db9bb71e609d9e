"""What is kept of a person's samples, for each personal network that is in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from ..steps.statistics import Statistics
from .statistics import read_statistics


@dataclass(frozen=True)
class Past:
    """A personal network, and what is kept of the samples that it was made from."""

    model: nn.Module
    statistics: Statistics
    dense: bool = False
    """Whether its weights are the dense ones, and are to stay so."""


_KEPT: WeakKeyDictionary[nn.Module, Statistics | tuple[Path, bytes | None]] = WeakKeyDictionary()


def remember(model: nn.Module, statistics: Statistics | tuple[Path, bytes | None]) -> None:
    """Note what is kept for ``model``, or the folder that holds it and its key, as long as it
    lives."""
    _KEPT[model] = statistics


def kept(model: nn.Module) -> Statistics | None:
    """What is kept for ``model``; None: nothing is known."""
    found = _KEPT.get(model)
    return read_statistics(*found) if isinstance(found, tuple) else found
