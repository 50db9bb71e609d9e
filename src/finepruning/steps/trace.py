"""Trace: what one sample shows of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.batches import Batch, logits_of
from ..network.engine import Engine
from ..network.find import Found
from ..network.functional import functional_places, note_uses
from ..network.kinds import kind_of
from ..network.layers import Layer
from ..network.taps import has_own_forward


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
    """The layer whose output is the network's, but for what ``end`` says."""
    end: str
    """What stands behind it: nothing, ``softmax``, ``log_softmax`` or ``sigmoid``."""
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
    head, end = None, ""
    if not refused:
        head, end = _head(last, output, calls)
        refused = "" if head else "the last layer's output is not the model's output"
    outputs = output.shape[1] if head else 0
    return Trace(calls, positions, largest, head, end, outputs, refused)


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


def why_uncalled(layer: Layer, functions: Collection[str]) -> str:
    """Why a layer that the data does not reach is left alone."""
    kind = kind_of(layer.module)
    own = kind is not None and has_own_forward(layer.module, kind.base)
    first = f"{type(layer.module).__name__} has a forward of its own; " if own else ""
    names = sorted(name for name in functions if name)
    if names:
        return f"{first}its weight is handed to {', '.join(names)}, instead of a call of the layer"
    return first + "never called on the calibration data"


def _not_logits(output: Any) -> str:
    """Why a model's output cannot be read out; empty: it can."""
    if not isinstance(output, Tensor):
        return "the model's output holds no tensor of logits"
    if output.ndim != 2:
        reason = f"the output has {output.ndim} dimensions, not (samples, classes)"
        # Tokens, frames: blanks and special tokens must stay.
        return reason + ": a vocabulary is no list of classes" * (output.ndim == 3)
    return "there is a single output" if output.shape[1] < 2 else ""


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "softmax": lambda y: y.softmax(1),
    "log_softmax": lambda y: y.log_softmax(1),
    "sigmoid": torch.sigmoid,
}
"""What may stand behind the last layer and leaves the order of its outputs."""


def _head(
    last: tuple[Layer, Tensor] | None, output: Tensor, calls: Mapping[str, int]
) -> tuple[Layer | None, str]:
    """The last layer, or a convolution at its one position, where the model's output is its own or
    what one of ``ENDS`` makes of it; and which."""
    if last is None:
        return None, ""
    layer, y = last
    alike = y.shape[:2] == output.shape and y.numel() == output.numel()
    if not alike or layer.matrix().shape[0] != 1 or calls[layer.name] != 1:
        return None, ""
    y = y.flatten(1)
    for end, of in ENDS.items():
        made = of(y)
        same = torch.equal(made, output) if not end else torch.allclose(made, output, atol=1e-4)
        if same:
            return layer, end
    return None, ""
