"""Prune: one more forward pass, all samples in lock-step, each layer mended before it runs.

Every layer sees inputs that carry the damage done upstream, is fitted to what the dense network
gave at the same positions, and hands on what the pruned network really computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ._config import Config
from ._core import (
    QUICK,
    THOROUGH,
    Moments,
    compensate,
    few,
    fitted_bias,
    gain,
    gram_macs,
    saliency,
    top,
    unexplained,
)
from ._find import Found
from ._flow import flow
from ._layers import Layer
from ._memory import release_free_memory
from ._neighbours import Agreement, agreed
from ._observe import Observation, precise
from ._scratch import Scratch
from .data.batches import Batch

REPAIR = 0.5
"""Exponent of the gain after compensation: least squares shrinks variances, and half of that is its
optimum. 1 restores the variance in full, as ``fast`` does."""

TRIM_EVERY = 8
"""Layers between two returns of freed memory: each costs the pages that are asked for again."""


@dataclass
class Pruned:
    """What was done to one layer."""

    error: float | None
    """Share of the variance of the outputs wanted, the dense ones, that is missed on the
    calibration data; None: not measured. What is wanted of the last layer, neighbours have had a
    say in."""
    macs: float
    """Multiply-accumulates that its statistics and its solve took."""
    agreement: Agreement | None = None
    """What neighbours had to say, where they were asked."""


@dataclass
class Pruning:
    """What was done to a network."""

    layers: dict[str, Pruned]
    seconds: float
    """Wall clock of the statistics and solves."""


Fit = Callable[
    [Layer, Mapping[int, Tensor], Observation, int, Tensor | None, Config],
    tuple[Tensor, Tensor | None, Pruned],
]
"""Fits one layer: from the inputs of each batch, what was observed, the weights to keep and the
silent rows to its matrix ``(G, O, D)`` and bias (None: leave it)."""
Select = Callable[[Layer, Observation, int, Tensor | None], Tensor]
"""A layer's matrix ``(G, O, D)`` with all but some weights at zero."""


def prune(
    model: nn.Module,
    found: Found,
    seen: Observation,
    keep: Mapping[str, int],
    silent: Mapping[str, Tensor],
    config: Config,
    device: torch.device,
    step: Callable[[int], object],
    fit: Fit | None = None,
) -> Pruning:
    """Prune the layers named in ``keep`` in place.

    ``silent`` names output rows of a layer that go whole; ``keep`` counts what stays of the others.
    ``fit`` replaces the fit that ``config.effort`` asks for, so that others can be compared in the
    same pass.
    """
    if fit is None:
        fit = compensated if config.effort == "best" else score_and_repair(largest)
    done: dict[str, Pruned] = {}
    seconds = 0.0

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        nonlocal seconds
        if layer.name not in keep:
            return
        started = time.perf_counter()
        rows = silent.get(layer.name)
        inputs = {batch: x for batch, x in inputs.items() if _matches(layer, seen, batch, x)}
        if inputs or layer.name in seen.repeated:
            matrix, bias, report = fit(layer, inputs, seen, keep[layer.name], rows, config)
            layer.write(matrix, bias)
        else:  # only the dense network calls it: the damage upstream leads past it
            layer.write(largest(layer, seen, keep[layer.name], rows), None)
            report = Pruned(None, 0.0)
        done[layer.name] = report
        if len(done) % TRIM_EVERY == 1:
            release_free_memory()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds += time.perf_counter() - started
        step(1)

    forwards = [_forward(model, batch, device) for batch in seen.calibration]
    expected = {name: set(kept) for name, kept in seen.outputs.items()}
    with torch.no_grad():
        flow(found, forwards, visit, expected, Scratch(model))
        for layer in found.layers:
            if layer.name not in done:
                visit(layer, {})
    return Pruning(done, seconds)


def _matches(layer: Layer, seen: Observation, batch: int, x: Tensor) -> bool:
    """Whether the dense network called the layer on this batch too, with as many positions."""
    kept = seen.outputs[layer.name].get(batch)
    return kept is not None and kept.size == layer.positions(x)


def largest(layer: Layer, seen: Observation, keep: int, silent: Tensor | None) -> Tensor:
    """The layer's matrix with all but the ``keep`` weights of most output energy at zero."""
    W = precise(layer.matrix())
    scores = saliency(W, seen.inputs[layer.name].input_energy())
    if silent is not None:
        scores = scores.masked_fill(silent[None, :, None], -1.0)
    return W * top(scores, keep)


def _forward(model: nn.Module, batch: Batch, device: torch.device) -> Callable[[], None]:
    def run() -> None:
        batch.to(device).call(model)  # what comes out is not needed: every layer has been visited

    return run


def compensated(
    layer: Layer,
    inputs: Mapping[int, Tensor],
    seen: Observation,
    keep: int,
    silent: Tensor | None,
    config: Config,
) -> tuple[Tensor, Tensor | None, Pruned]:
    """The fit of ``best``: what the dense network gave, from inputs that carry the damage."""
    W = precise(layer.matrix())
    G, rows, D = W.shape
    repeated = seen.repeated.get(layer.name)
    kept = {} if repeated else {batch: seen.outputs[layer.name].pop(batch) for batch in inputs}
    N = repeated.count if repeated else sum(k.y.shape[1] for k in kept.values())
    # A thorough fit where it costs less than the layer's own forward pass over these samples.
    forward = seen.calibration_samples * seen.trace.positions[layer.name] * W.numel()
    schedule = THOROUGH if THOROUGH.products * W.numel() * D <= forward else QUICK
    # H written out, or the samples themselves where they are fewer: what takes less.
    few_macs = 2 * N * D * schedule.products * rows
    many = N >= D or N * gram_macs(D) + D * D * schedule.products * rows <= few_macs
    if repeated or many:
        moments = repeated or Moments()
        for batch, k in kept.items():
            moments.add(precise(layer.columns(inputs[batch], k.sample, k.position)), k.y)
        means, (H, C, variance) = moments.means(), moments.covariances()
        macs = moments.macs() + G * D * D * schedule.products * rows
    else:
        X = [precise(layer.columns(inputs[b], k.sample, k.position)) for b, k in kept.items()]
        means, (H, C, variance) = few(torch.cat(X, 1), torch.cat([k.y for k in kept.values()], 1))
        macs = G * (N * D * rows + few_macs)
    live = slice(None) if silent is None else ~silent
    C, variance = C[:, :, live], variance[:, live]
    # Fewer samples than inputs over-fit: hold on to the generic weights the more.
    ridge = config.ridge * max(1.0, D / N)
    fitted, _, now = compensate(W[:, live], H, C, keep, ridge, schedule)
    scale = gain(now, variance) ** REPAIR
    error = unexplained(scale**2 * now, scale * (fitted * C.mT).sum(-1), variance)
    matrix = torch.zeros_like(W)
    matrix[:, live] = fitted * scale[..., None]
    return matrix, fitted_bias(matrix, *means).reshape(-1), Pruned(error, macs)


def with_neighbours(head: Layer, shift: Tensor, most: float) -> Fit:
    """The fit of ``best``, with neighbours' answers in what the last layer is fitted to.

    ``shift`` ``(K,)`` is the read-out's, ``most`` what a neighbour weighs at most.
    """

    def fit(
        layer: Layer,
        inputs: Mapping[int, Tensor],
        seen: Observation,
        keep: int,
        silent: Tensor | None,
        config: Config,
    ) -> tuple[Tensor, Tensor | None, Pruned]:
        if layer is not head or not inputs:
            return compensated(layer, inputs, seen, keep, silent, config)
        kept = [seen.outputs[layer.name][batch] for batch in inputs]
        xs = zip(inputs.values(), kept, strict=True)
        features = torch.cat([layer.columns(x, k.sample, k.position)[0] for x, k in xs])
        logits = torch.cat([k.y[0] for k in kept])
        change, agreement = agreed(logits + shift.to(logits), features, most)
        wanted = torch.split(logits + change, [k.y.shape[1] for k in kept])
        for k, y in zip(kept, wanted, strict=True):
            k.y = y[None]
        matrix, bias, done = compensated(layer, inputs, seen, keep, silent, config)
        return matrix, bias, replace(done, macs=done.macs + agreement.macs, agreement=agreement)

    return fit


def score_and_repair(select: Select) -> Fit:
    """A fit that only chooses weights and brings each output's mean and variance back."""

    def fit(
        layer: Layer,
        inputs: Mapping[int, Tensor],
        seen: Observation,
        keep: int,
        silent: Tensor | None,
        config: Config,
    ) -> tuple[Tensor, Tensor | None, Pruned]:
        W, dense = select(layer, seen, keep, silent), seen.inputs[layer.name]
        # Moments of the pruned outputs beside the dense ones: here a layer's "inputs" are its
        # own outputs.
        count, mean, square, cross = 0, *(torch.zeros_like(dense.output_mean()) for _ in range(3))
        repeated = seen.repeated.get(layer.name)
        if repeated is not None:
            H, C, _ = repeated.covariances()
            mean = (W @ repeated.means()[0][..., None])[..., 0]
            now, covariance = ((W @ H) * W).sum(-1), (W * C.mT).sum(-1)
            macs = repeated.macs() + W.numel() * W.shape[2]
        else:
            for batch, x in inputs.items():
                kept = seen.outputs[layer.name].pop(batch)
                y = (precise(layer.columns(x, kept.sample, kept.position)) @ W.mT).double()
                count += y.shape[1]
                mean, square, cross = (
                    mean + y.sum(1),
                    square + (y * y).sum(1),
                    cross + (y * kept.y).sum(1),
                )
            macs, mean = count * W.numel(), mean / count
            now, covariance = square / count - mean**2, cross / count - mean * dense.output_mean()
        variance = dense.output_variance()
        scale = gain(now, variance)
        error = unexplained(scale**2 * now, scale * covariance, variance)
        bias = (dense.output_mean() - scale * mean).to(W.dtype).reshape(-1)
        return W * scale[..., None].to(W.dtype), bias, Pruned(error, macs)

    return fit
