"""Observe: what the dense network does on the person's data, in one forward pass.

A trace of one sample says which layers run, how often and how large. The pass itself keeps, of each
layer, the outputs at sampled positions (what the pruned network will be fitted to), the second
moments of its inputs there, and the logits. Nothing grows with the samples but the logits.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._core import Moments
from ._errors import FinepruningError
from ._find import Found, intercepted
from ._layers import Layer
from ._padding import RealPositions, drawn
from .data.batches import Batch, logits_of

MAX_BATCHES = 128
"""Calibration batches at most: by then there are far more samples than positions are kept."""


@dataclass
class Trace:
    """What one sample's forward pass shows of the network."""

    calls: Counter[str] = field(default_factory=Counter)
    positions: Counter[str] = field(default_factory=Counter)
    largest: int = 0
    head: Layer | None = None
    outputs: int = 0
    readout_refused: str = ""

    def macs(self, layers: Iterable[Layer]) -> int:
        """Multiply-accumulates of all layers for the traced sample."""
        return sum(layer.size * self.positions[layer.name] for layer in layers)


@dataclass
class Kept:
    """The dense network's outputs ``y`` ``(G, N, O)`` of one batch at sampled positions."""

    size: tuple[int, int]
    """Samples and positions a sample, of which some were drawn."""
    sample: Tensor
    position: Tensor
    y: Tensor


@dataclass
class Observation:
    """What is known of the dense network on the person's data."""

    trace: Trace
    calibration: list[Batch] = field(default_factory=list)
    samples: int = 0
    outputs: dict[str, dict[int, Kept]] = field(default_factory=dict)
    inputs: dict[str, Spread] = field(default_factory=dict)
    repeated: dict[str, Moments] = field(default_factory=dict)
    logits: Tensor | None = None
    forward_seconds: float = 0.0

    @property
    def calibration_samples(self) -> int:
        """How many samples the layers are fitted to."""
        return sum(batch.size for batch in self.calibration)


@dataclass
class Spread:
    """Streaming moments, in float64, of a layer's inputs ``(G, D)`` and outputs ``(G, O)``."""

    dtype: torch.dtype = torch.float32
    x_count: int = 0
    y_count: int = 0
    x: Any = 0
    xx: Any = 0
    y: Any = 0
    yy: Any = 0

    def add(self, X: Tensor, Y: Tensor) -> None:
        """Add inputs ``(G, N, D)`` and outputs ``(G, N, O)``."""
        self.dtype = X.dtype
        X, Y = X.double(), Y.double()  # a mean far from zero would eat the digits of the variance
        self.x_count += X.shape[1]
        self.y_count += Y.shape[1]
        self.x, self.xx = self.x + X.sum(1), self.xx + (X * X).sum(1)
        self.y, self.yy = self.y + Y.sum(1), self.yy + (Y * Y).sum(1)

    def input_energy(self) -> Tensor:
        """Second moments of the inputs ``(G, D)``."""
        return (self.xx / self.x_count).to(self.dtype)

    def input_variance(self) -> Tensor:
        """Variances of the inputs ``(G, D)``."""
        variance = self.xx / self.x_count - (self.x / self.x_count) ** 2
        return variance.clip(0).to(self.dtype)

    def output_mean(self) -> Tensor:
        """Means of the outputs ``(G, O)``, in float64."""
        return self.y / self.y_count

    def output_variance(self) -> Tensor:
        """Variances of the outputs ``(G, O)``, in float64."""
        return (self.yy / self.y_count - self.output_mean() ** 2).clip(0)


def trace(model: nn.Module, found: Found, batch: Batch) -> Trace:
    """Run one sample and note every layer's calls, positions and activation bytes."""
    seen = Trace()
    last: list[tuple[Layer, Tensor]] = []

    def handle(layer: Layer, x: Tensor) -> Tensor:
        y = layer.run(x)
        samples, positions = layer.positions(x)
        seen.calls[layer.name] += 1
        seen.positions[layer.name] += samples * positions
        seen.largest = max(seen.largest, x.nbytes + y.nbytes)
        last[:] = [(layer, y.clone())]  # what follows may change it in place
        return y

    with torch.inference_mode(), intercepted(found, handle):
        output = logits_of(batch.take(0).call(model))
    if not isinstance(output, Tensor):
        seen.readout_refused = "the model's output holds no tensor of logits"
    elif output.ndim != 2:
        seen.readout_refused = f"the output has {output.ndim} dimensions, not (samples, classes)"
        if output.ndim == 3:  # tokens, frames: blanks and special tokens must stay
            seen.readout_refused += ": a vocabulary is no list of classes"
    elif output.shape[1] < 2:
        seen.readout_refused = "there is a single output"
    elif not last or not _is_head(*last[-1], output) or seen.calls[last[-1][0].name] > 1:
        seen.readout_refused = "the last layer's output is not the model's output"
    else:
        seen.head, seen.outputs = last[-1][0], output.shape[1]
    return seen


def _is_head(layer: Layer, y: Tensor, output: Tensor) -> bool:
    """Whether the model's output is the layer's, or a convolution's at its one position."""
    alike = y.shape[:2] == output.shape and y.numel() == output.numel()
    return alike and layer.matrix().shape[0] == 1 and torch.equal(y.flatten(1), output)


def observe(
    model: nn.Module,
    found: Found,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    positions: int,
    inputs_every: int,
    memory: float,
    seed: int,
    batch_count: int | None,
    step: Callable[[int], object],
) -> Observation:
    """Run the dense network once over all ``batches`` and keep what the later rooms need.

    The first batches whose activations fit in ``memory`` bytes (a seeded choice of all, where
    ``batch_count`` is known) become the calibration set; the rest only adds to the logits.
    """
    stream = iter(batches)
    first = next((b for b in stream if b.size), None)
    if first is None:
        raise FinepruningError("batches: there is no data; give at least two samples")
    seen = Observation(trace(model, found, first.to(device)))
    # Each calibration batch will have a thread of its own: not more than MAX_BATCHES of them.
    space = max(2, int(memory / max(1.0, 1.5 * seen.trace.largest)))
    room = max(2, min(space, MAX_BATCHES * first.size))
    if first.part:  # then the items' number says nothing of the batches'
        batch_count = None
    if batch_count is not None:
        batch_count = -(-batch_count // first.items)
    unit = first.weight / first.size
    chosen = _choose(first.size, room, batch_count, seed)
    generator = torch.Generator().manual_seed(seed)
    logits: list[Tensor] = []
    repeated = {name for name, calls in seen.trace.calls.items() if calls > 1}
    ahead, known = [first], first.size * (batch_count or 1)
    if batch_count is None:  # the calibration batches are kept anyway: read them, then count
        for batch in stream:
            ahead.append(batch)
            known += batch.size
            if known >= room:
                break
    expected = min(room, known)
    overhead = forward_seconds = 0.0
    current = -1  # number of the calibration batch that runs; -1: only its logits count
    filled = 0.0  # of the room, in samples as large as the first
    real = RealPositions(None)

    def handle(layer: Layer, x: Tensor) -> Tensor:
        nonlocal overhead
        y = layer.run(x)
        counted = real.of(layer, x)
        if current < 0:
            return y
        _synchronize(device)
        started = time.perf_counter()
        again = layer.name in repeated
        _keep(
            seen,
            layer,
            x,
            y,
            counted,
            current,
            positions / expected,
            inputs_every,
            generator,
            again,
        )
        _synchronize(device)
        overhead += time.perf_counter() - started
        return y

    with torch.inference_mode(), intercepted(found, handle):
        for number, batch in enumerate(chain(ahead, stream)):
            if not batch.size:
                continue
            seen.samples += batch.size
            fits = filled + batch.weight / unit <= space and len(seen.calibration) < MAX_BATCHES
            if (number in chosen if chosen else fits) or not seen.calibration:
                current = len(seen.calibration)
                seen.calibration.append(batch)
                filled += batch.weight / unit
            batch = batch.to(device)
            real = RealPositions(batch.mask)
            started = time.perf_counter()
            output = logits_of(batch.call(model))
            _synchronize(device)
            forward_seconds += time.perf_counter() - started
            current, real = -1, RealPositions(None)
            if seen.trace.head is not None:
                logits.append(output.float().cpu())
            step(batch.items)
    seen.forward_seconds = forward_seconds - overhead
    if seen.samples < 2:
        raise FinepruningError("batches: one sample says nothing of what varies; give at least two")
    seen.logits = torch.cat(logits) if logits else None
    return seen


def _choose(size: int, room: int, batch_count: int | None, seed: int) -> set[int]:
    """Numbers of the calibration batches; empty: take the first that fit."""
    if batch_count is None or size * batch_count <= room:
        return set()
    order = torch.randperm(batch_count, generator=torch.Generator().manual_seed(seed))
    return set(order[: max(1, room // size)].tolist())


def _keep(
    seen: Observation,
    layer: Layer,
    x: Tensor,
    y: Tensor,
    real: Tensor | None,
    batch: int,
    per_sample: float,
    inputs_every: int,
    generator: torch.Generator,
    repeated: bool,
) -> None:
    if batch in seen.outputs.get(layer.name, {}):
        return  # called again on this data alone: the layer is fitted to its first call
    if not x.numel():
        return
    samples, positions = size = layer.positions(x)
    count = min(positions, math.ceil(per_sample * seen.calibration[batch].size / max(1, samples)))
    if real is not None:
        count = min(count, int(real.sum(1).max()))
    # Systematic sampling: evenly spaced from a random start, so never the same position twice.
    start = torch.rand(samples, 1, generator=generator, dtype=torch.float64)
    if real is None:
        position = ((torch.arange(count) + start) * (positions / count)).long()
        position = position.clamp(max=positions - 1).reshape(-1).to(x.device)
        sample = torch.arange(samples).repeat_interleave(count).to(x.device)
    else:
        sample, position = drawn(real, count, start)
    Y = precise(layer.rows(y, sample, position))
    if not bool(Y.isfinite().all()):
        raise FinepruningError(
            f"layer {layer.name!r}: its outputs hold NaN or infinite values;"
            " check the model's weights, dtype and input scaling"
        )
    # Gathering the inputs costs more than the outputs, and their second moments need fewer samples.
    every = 1 if repeated else min(inputs_every, count)  # at least one position a sample
    X = precise(layer.columns(x, sample[::every], position[::every]))
    seen.inputs.setdefault(layer.name, Spread()).add(X, Y)
    if repeated:
        seen.repeated.setdefault(layer.name, Moments()).add(X, Y)
        seen.outputs.setdefault(layer.name, {})
    else:
        seen.outputs.setdefault(layer.name, {})[batch] = Kept(size, sample, position, Y)


def precise(value: Tensor) -> Tensor:
    """``value`` in float32, or float64 where it is already: statistics are never kept in half."""
    return value if value.dtype == torch.float64 else value.float()


def as_array(value: Tensor) -> np.ndarray:
    """A tensor as a NumPy array on the CPU."""
    return value.detach().cpu().numpy()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
