"""Trace: what one sample shows of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, logits_of
from ..network.engine import Engine
from ..network.find import Found
from ..network.functional import functional_places, note_uses
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


def with_functions(
    engine: Engine, found: Found, batch: Batch, traced: Trace
) -> tuple[Found, dict[str, set[str]]]:
    """The same layers, with those intercepted whose weight a function is handed instead of a call.

    Beside it, for each layer that is not called, the names of the functions that are handed its
    weight; an empty name is one that is intercepted.
    """
    uncalled = {layer.name for layer in found.layers if not traced.calls.get(layer.name)}
    uses: dict[str, set[str]] = {name: set() for name in uncalled}
    if not uncalled:
        return found, uses

    def wire(module: Any, taps: tuple[Layer, ...], call: Any) -> None:
        note_uses(module, taps[0], uses[taps[0].name])

    places = functional_places(found.places, uncalled, wire)
    for _ in engine.stream([batch.take(0)], (*found.places, *places)):
        pass
    intercepted = {name for name, functions in uses.items() if functions == {""}}
    return replace(
        found, places=(*found.places, *functional_places(found.places, intercepted))
    ), uses


def why_uncalled(functions: Collection[str]) -> str:
    """Why a layer that the data does not reach is left alone."""
    names = sorted(name for name in functions if name)
    if names:
        return f"its weight is handed to {', '.join(names)}, instead of a call of the layer"
    return "never called on the calibration data"


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
