"""Trace: what one sample shows of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, logits_of
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer


@dataclass(frozen=True)
class Trace:
    """What one sample's forward pass shows of the network."""

    calls: Mapping[str, int]
    """Of each layer."""
    positions: Mapping[str, int]
    """Output positions of each layer, over all its calls."""
    largest: int
    """Bytes of inputs and outputs of the layer that has most of them."""
    head: Layer | None
    """The layer whose output is the network's."""
    outputs: int
    readout_refused: str

    def macs(self, layers: Iterable[Layer]) -> int:
        """Multiply-accumulates of all layers for the traced sample."""
        return sum(layer.size * self.positions.get(layer.name, 0) for layer in layers)


def trace(engine: Engine, found: Found, batch: Batch) -> Trace:
    """Run the first sample of ``batch`` and note every layer's calls, positions and bytes."""
    calls: Counter[str] = Counter()
    positions: Counter[str] = Counter()
    largest, last = 0, None

    def watch(layer: Layer, x: Tensor, y: Tensor) -> None:
        nonlocal largest, last
        samples, each = layer.positions(x)
        calls[layer.name] += 1
        positions[layer.name] += samples * each
        largest = max(largest, x.nbytes + y.nbytes)
        last = (layer, y.clone())  # what follows may change it in place

    (passed,) = engine.stream([batch.take(0)], found.places, watch)
    output = logits_of(passed.output)
    refused = _not_logits(output)
    head = None
    if not refused:
        head = _head(last, output, calls)
        refused = "" if head else "the last layer's output is not the model's output"
    outputs = output.shape[1] if head else 0
    return Trace(calls, positions, largest, head, outputs, refused)


def _not_logits(output: Any) -> str:
    """Why a model's output cannot be read out; empty: it can."""
    if not isinstance(output, Tensor):
        return "the model's output holds no tensor of logits"
    if output.ndim != 2:
        reason = f"the output has {output.ndim} dimensions, not (samples, classes)"
        # Tokens, frames: blanks and special tokens must stay.
        return reason + ": a vocabulary is no list of classes" * (output.ndim == 3)
    return "there is a single output" if output.shape[1] < 2 else ""


def _head(
    last: tuple[Layer, Tensor] | None, output: Tensor, calls: Mapping[str, int]
) -> Layer | None:
    """The last layer, where the model's output is its own, or a convolution's at its one
    position."""
    if last is None:
        return None
    layer, y = last
    alike = y.shape[:2] == output.shape and y.numel() == output.numel()
    own = alike and layer.matrix().shape[0] == 1 and torch.equal(y.flatten(1), output)
    return layer if own and calls[layer.name] == 1 else None
