"""Trace: what one sample shows of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import FinepruningError
from ..data.batches import Batch, logits_of
from ..network.closer import look_closer
from ..network.engine import Engine
from ..network.find import Found, find_layers
from ..network.layers import Layer
from ..network.shifts import find_norms_behind


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
    """The layer whose bias moves the network's outputs, but for what ``end`` says."""
    direct: bool
    """Whether its outputs are the network's, and nothing stands between."""
    gain: Tensor
    """How far each of the outputs is moved by the bias of one of the head's ``(K,)``."""
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
    order: dict[str, Layer] = {}

    def watch(layer: Layer, x: Tensor, y: Tensor) -> None:
        nonlocal largest, last
        order[layer.name] = layer
        samples, each = layer.positions(x)
        calls[layer.name] += 1
        positions[layer.name] += samples * each
        largest = max(largest, x.nbytes + y.nbytes)
        last = (layer, y.clone())  # what follows may change it in place

    sample = batch.take(0)
    (passed,) = engine.stream([sample], found.places, watch)
    output = logits_of(passed.output)
    refused = _not_logits(output)
    head, end, gain, direct = None, "", torch.ones(0), False
    if not refused:
        head, end = _head(last, output, calls)
        direct, gain = head is not None, torch.ones(output.shape[1], dtype=torch.float64)
        if head is None or head.bias is None:
            able = [layer for layer in order.values() if _may_move(layer, output, calls)]
            head, end, gain = probed(engine, sample, able[-MOST:][::-1], output.double().cpu())
            direct = direct and head is not None and last is not None and head is last[0]
        refused = (
            ""
            if head
            else "the last layer's output is not the model's output, nor a multiple or mean of it"
        )
    outputs = output.shape[1] if head else 0
    return Trace(calls, positions, largest, head, direct, gain, end, outputs, refused)


def looked_at(
    engine: Engine, found: Found, batch: Batch
) -> tuple[Found, Trace, dict[str, set[str]]]:
    """The layers that the network turns out to have, what the first sample shows of them, and by
    which functions the weights of others are used."""
    traced = trace(engine, found, batch)
    closer, uses, again = look_closer(engine, found, batch, traced.calls.keys())
    if again:
        fresh = find_layers(engine.model)
        closer, uses, _ = look_closer(engine, fresh, batch, trace(engine, fresh, batch).calls)
    if closer is not found:
        traced = trace(engine, closer, batch)
    find_norms_behind(engine, closer, batch.take(0))
    return closer, traced, uses


def explained(engine: Engine, batch: Batch, error: FinepruningError) -> FinepruningError:
    """What is to be said of an ``error`` that a single sample has met: where the network takes the
    whole batch, the inputs are not to blame."""
    cause = error.__cause__
    if batch.size < 2 or cause is None:
        return error
    try:
        engine.probe(batch)
    except FinepruningError:
        return error
    return FinepruningError(
        f"model: takes {batch.size} samples at once, but not a single one ({type(cause).__name__}:"
        f" {' '.join(str(cause).split())[:200]}); mend what needs several, such as squeeze()"
        " without a dimension, a batch norm without statistics, or a state of fixed size"
    )


def _not_logits(output: Any) -> str:
    """Why a model's output cannot be read out; empty: it can."""
    if not isinstance(output, Tensor):
        return "the model's output holds no tensor of logits"
    if output.ndim != 2:
        reason = f"the output has {output.ndim} dimensions, not (samples, classes)"
        # Tokens, frames: blanks and special tokens must stay.
        return reason + ": a vocabulary is no list of classes" * (output.ndim == 3)
    return "there is a single output" if output.shape[1] < 2 else ""


MOST = 4
"""Layers that are tried as the one whose bias moves the outputs, from the last one back."""


def _may_move(layer: Layer, output: Tensor, calls: Mapping[str, int]) -> bool:
    groups, outputs, _ = layer.matrix().shape
    alone = groups == 1 and outputs == output.shape[1] and calls[layer.name] == 1
    return alone and layer.bias_name in layer.module._parameters


def probed(
    engine: Engine, sample: Batch, layers: Iterable[Layer], output: Tensor
) -> tuple[Layer | None, str, Tensor]:
    """The layer whose bias moves the outputs ``(1, K)`` by as much, or so many times; what stands
    behind it, and how many times ``(K,)``.

    So a scale is seen through, an average of two heads, one of all positions, the choice of the
    last token. Two shifts are tried, which must act alike.
    """
    K = output.shape[1]
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        bias = torch.zeros(K) if layer.bias is None else layer.bias.double().cpu()
        for end in (end for end, suits in SUITS.items() if suits(output)):
            before = READ[end](output)
            spread = 1.0 if end else max(1.0, float(before.std()))
            # Small ones alone would find everything linear; of large ones probabilities vanish.
            sizes = spread * torch.tensor([[1.0], [10.0]]) * (0.1 if end else 1.0)
            shifts = sizes * torch.randn(2, K, generator=generator, dtype=torch.float64)
            try:
                moved = [
                    READ[end](
                        logits_of(engine.probe(sample, lent=[(layer, bias + by)])).double().cpu()
                    )
                    - before
                    for by in shifts
                ]
            except FinepruningError:
                break
            gain = _gain(torch.cat(moved), shifts, "softmax" in end)
            if gain is not None:
                return layer, end, gain
    return None, "", torch.ones(K)


def _gain(moved: Tensor, shifts: Tensor, relative: bool) -> Tensor | None:
    """The factors ``(K,)`` by which both of ``shifts`` ``(2, K)`` have ``moved`` the outputs; None:
    there are none. ``relative``: what is added to all outputs alike does not show."""
    if not moved.isfinite().all():
        return None
    if relative:
        moved = moved - moved.mean(1, keepdim=True)
        shifts = shifts - shifts.mean(1, keepdim=True)
        gain = ((moved * shifts).sum() / (shifts**2).sum()).expand(moved.shape[1])
    else:
        gain = (moved * shifts).sum(0) / (shifts**2).sum(0)
    apart = (moved - gain * shifts).abs().max()
    acts = bool((gain.abs() > SLIGHT).all()) and bool(apart <= ALIKE * moved.abs().max())
    return gain.clone() if acts else None


SLIGHT = 1e-3
"""A factor that is too small to divide by."""
ALIKE = 1e-3
"""How far two shifts may act apart: rounding."""

READ: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "log_softmax": lambda y: y,
    "softmax": lambda y: y.clamp(min=1e-30).log(),
    "sigmoid": lambda y: y.clamp(1e-6, 1 - 1e-6).logit(),
}
"""The logits of an output, but for what is added to all of them alike."""
SUITS: dict[str, Callable[[Tensor], bool]] = {
    "": lambda y: True,
    "log_softmax": lambda y: bool(((y.exp().sum(1) - 1).abs() < 1e-3).all()),
    "softmax": lambda y: bool((y >= 0).all() and ((y.sum(1) - 1).abs() < 1e-3).all()),
    "sigmoid": lambda y: bool((y > 0).all() and (y < 1).all()),
}

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
