"""The published rule alone, for comparison: magnitude weighted by activity, in steps, no repair.

Source: Bingham, Zonouz and Aran 2025 (Patterns 6(5) 101242, arXiv 2602.18507). What the paper
leaves open, and what is done here, is said in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._core import TINY, top
from ._find import Found, intercepted
from ._layers import Layer
from ._observe import precise
from ._padding import RealPositions, drawn
from .data.batches import Batch

STEPS = 7
"""The target is reached in this many equal steps; activity is measured anew before each."""


def prune_by_activity(
    model: nn.Module,
    found: Found,
    batches: list[Batch],
    layers: list[Layer],
    keep: int,
    device: torch.device,
    positions: int,
    step: Callable[[int], object],
) -> None:
    """Zero all but ``keep`` weights of ``layers``, in place.

    The score of a weight is ``|w| * mean |x|`` over the person's data, ``x`` its input in the
    network as pruned so far; the lowest scores of the whole network go.
    """
    total = sum(layer.size for layer in layers)
    masks = {layer.name: torch.ones_like(layer.matrix(), dtype=torch.bool) for layer in layers}
    activity: dict[str, Tensor] = {}
    for i in range(1, STEPS + 1):
        # A layer that the network pruned so far no longer calls keeps the activity that it had.
        activity |= _mean_absolute_inputs(model, found, batches, device, positions, step)
        scores = [
            precise(layer.matrix()).abs() * activity[layer.name][:, None, :] * masks[layer.name]
            for layer in layers
        ]
        # Weights of zero score that are still there go after those that went before.
        flat = torch.cat(
            [(s + masks[la.name] * TINY).flatten() for s, la in zip(scores, layers, strict=True)]
        )
        left = top(flat, total - round((total - keep) * i / STEPS))
        for layer, part in zip(layers, left.split([la.size for la in layers]), strict=True):
            masks[layer.name] = part.reshape(masks[layer.name].shape)
            layer.write(layer.matrix() * masks[layer.name], None)


def _mean_absolute_inputs(
    model: nn.Module,
    found: Found,
    batches: list[Batch],
    device: torch.device,
    positions: int,
    step: Callable[[int], object],
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    real = RealPositions(None)
    samples_in_all = sum(batch.size for batch in batches)

    def handle(layer: Layer, x: Tensor) -> Tensor:
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
        return layer.run(x)

    with torch.inference_mode(), intercepted(found, handle):
        for batch in batches:
            batch = batch.to(device)
            real = RealPositions(batch.mask)
            batch.call(model)
            step(1)
    return {name: sums[name] / counts[name] for name in sums}
