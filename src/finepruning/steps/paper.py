"""The published rule alone, for comparison: magnitude weighted by activity, in steps, no repair.

Source: Bingham, Zonouz and Aran 2025 (Patterns 6(5) 101242, arXiv 2602.18507). What the paper
leaves open, and what is done here, is said in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arrays import TINY, top
from ..core.options import number
from ..data.batches import Batch
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer, precise
from ..network.positions import RealPositions, drawn


@dataclass(frozen=True)
class PaperOptions:
    """What the paper leaves open."""

    steps: int = number(7, 1)
    """The target is reached in this many equal steps; activity is measured anew before each."""
    positions: int = number(8000, 1)
    """Positions at which activity is measured, over all samples together."""


def prune_by_activity(
    engine: Engine,
    found: Found,
    batches: Sequence[Batch],
    keep: int,
    options: PaperOptions,
    step: Callable[[int], object],
) -> None:
    """Zero all but ``keep`` weights of the layers of the engine's network.

    The score of a weight is ``|w| * mean |x|`` over the person's data, ``x`` its input in the
    network as pruned so far; the lowest scores of the whole network go.
    """
    layers = found.layers
    total = sum(layer.size for layer in layers)
    masks = {layer.name: torch.ones_like(layer.matrix(), dtype=torch.bool) for layer in layers}
    activity: dict[str, Tensor] = {}
    for i in range(1, options.steps + 1):
        # A layer that the network pruned so far no longer calls keeps the activity that it had.
        activity |= _mean_absolute_inputs(engine, found, batches, options.positions, step)
        scores = [
            precise(layer.matrix()).abs() * activity[layer.name][:, None, :] * masks[layer.name]
            for layer in layers
        ]
        # Weights of zero score that are still there go after those that went before.
        flat = torch.cat(
            [(s + masks[la.name] * TINY).flatten() for s, la in zip(scores, layers, strict=True)]
        )
        left = top(flat, total - round((total - keep) * i / options.steps))
        for layer, part in zip(layers, left.split([la.size for la in layers]), strict=True):
            masks[layer.name] = part.reshape(masks[layer.name].shape)
            layer.write(layer.matrix() * masks[layer.name], None)


def _mean_absolute_inputs(
    engine: Engine,
    found: Found,
    batches: Sequence[Batch],
    positions: int,
    step: Callable[[int], object],
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    samples_in_all = sum(batch.size for batch in batches)
    batch, real = batches[0], RealPositions(None)

    def announced() -> Iterator[Batch]:
        nonlocal batch, real
        for batch in batches:
            real = RealPositions(None if batch.mask is None else batch.mask.to(engine.device))
            yield batch

    def watch(layer: Layer, x: Tensor, y: Tensor) -> None:
        samples, size = layer.positions(x)
        per_sample = max(1, round(positions / samples_in_all * batch.size / max(1, samples)))
        position = torch.arange(0, size, max(1, size // per_sample), device=x.device)
        sample = torch.arange(samples, device=x.device).repeat_interleave(len(position))
        position = position.repeat(samples)
        counted = real.of(layer, x)
        if counted is not None:
            sample, position = drawn(counted, per_sample, torch.zeros(samples, 1))
        columns = precise(layer.columns(x, sample, position)).abs()
        sums[layer.name] = sums.get(layer.name, 0) + columns.sum(1)
        counts[layer.name] = counts.get(layer.name, 0) + columns.shape[1]

    for _ in engine.stream(announced(), found.places, watch):
        step(1)
    return {name: sums[name] / counts[name] for name in sums}
