"""Pixels: in how many the network still answers what it answers in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .._errors import FinepruningError
from ..core.readout import read_out
from ..data.batches import logits_of, read_batches


@dataclass(frozen=True)
class Tried:
    """One number of pixels."""

    pixels: int
    """A side."""
    stays: float
    """Share of the samples that are answered as in all pixels, each time with a read-out."""
    macs: float
    """Share of the multiply-accumulates."""


def sizes_below(whole: int) -> list[int]:
    """Sides of fewer pixels, down to less than half of ``whole``.

    >>> sizes_below(224), sizes_below(32)
    ([192, 160, 128, 96], [28, 24, 20, 16, 12])
    """
    step = 32 if whole >= 128 else 4
    return [side for side in range(whole - 1, 0, -1) if side % step == 0 and side > 0.35 * whole]


def fewest_pixels(
    model: nn.Module,
    pictures: Callable[[int], Iterable[object]],
    whole: int,
    tolerance: float,
) -> list[Tried]:
    """The numbers of pixels tried, most first; the last one that may be used is ``chosen``.

    ``pictures(side)`` are the person's samples, unlabelled, in so many pixels. Fewer are tried
    until more than a share ``tolerance`` of the answers change, or the network takes no fewer.
    """
    wanted = _answers(model, pictures(whole))
    tried = [Tried(whole, 1.0, 1.0)]
    for side in sizes_below(whole):
        try:
            found = _answers(model, pictures(side))
        except FinepruningError:  # it is made for one size
            break
        stays = float((found == wanted).mean())
        tried.append(Tried(side, stays, (side / whole) ** 2))
        if stays < 1 - tolerance:
            break
    return tried


def chosen(tried: list[Tried], tolerance: float) -> int:
    """The fewest pixels in which no more than a share ``tolerance`` of the answers change."""
    return min(one.pixels for one in tried if one.stays >= 1 - tolerance)


def _answers(model: nn.Module, batches: Iterable[object]) -> np.ndarray:
    """Classes ``(n,)`` that the samples are answered with, read out."""
    logits: list[Tensor] = []
    with torch.no_grad():
        for batch in read_batches(batches):
            found = logits_of(batch.to(next(model.parameters()).device).call(model))
            if not isinstance(found, Tensor) or found.ndim != 2:
                raise FinepruningError("pixels: auto is for networks that give one class a sample")
            logits.append(found.double().cpu())
    every = torch.cat(logits).numpy()
    return np.asarray((every + read_out(every).shift).argmax(1))
