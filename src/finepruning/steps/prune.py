"""Prune: one more forward pass, all samples in lock-step, each layer mended before it runs.

Every layer sees inputs that carry the damage done upstream, is fitted to what the dense network
gave at the same positions, and hands on what the pruned network really computes.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import LowRank
from ..core.evidence import Evidence, Sampled
from ..core.fit import Fit, FitOptions, Solution, fit, largest
from ..core.moments import Gram
from ..core.neighbours import Agreement, NeighbourOptions, agreed
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer, precise, version
from .observe import Observation


@dataclass(frozen=True)
class Teaching:
    """What the last layer is to answer beside the dense logits: what neighbours say."""

    head: Layer
    shift: Tensor
    """The read-out's ``(K,)``."""
    options: NeighbourOptions


@dataclass(frozen=True)
class Pruned:
    """What was done to one layer."""

    error: float | None
    """Share of the variance of the outputs wanted, the dense ones, that is missed on the
    calibration data; None: not measured. What is wanted of the last layer, neighbours have had a
    say in."""
    macs: float
    """Multiply-accumulates that its statistics and its solve took."""


@dataclass(frozen=True)
class Pruning:
    """What was done to a network."""

    layers: Mapping[str, Pruned]
    agreement: Agreement | None
    """What neighbours had to say, where they were asked."""
    seconds: float
    """Wall clock of the statistics and solves."""


def prune(
    engine: Engine,
    found: Found,
    seen: Observation,
    keep: Mapping[str, int],
    silent: Mapping[str, Tensor],
    options: FitOptions,
    *,
    step: Callable[[int], object],
    teaching: Teaching | None = None,
    fit: Fit = fit,
) -> Pruning:
    """Prune the layers named in ``keep`` of the engine's network.

    ``silent`` names output rows of a layer that go whole; ``keep`` counts what stays of the others.
    ``fit`` is how a layer is fitted, so that others can be compared in the same pass.
    """
    visitor = _Visitor(found, seen, keep, silent, options, teaching, fit, step, engine.synchronize)
    expected = {name: set(evidence.sampled) for name, evidence in seen.evidence.items()}
    engine.lock_step(seen.calibration, found.places, visitor.visit, expected)
    for layer in found.layers:
        if layer.name not in visitor.done:
            visitor.visit(layer, {})
    return Pruning(visitor.done, visitor.agreement, visitor.seconds)


@dataclass
class _Visitor:
    """Fits each layer as the batches come to it."""

    found: Found
    seen: Observation
    keep: Mapping[str, int]
    silent: Mapping[str, Tensor]
    options: FitOptions
    teaching: Teaching | None
    fit: Fit
    step: Callable[[int], object]
    synchronize: Callable[[], None]

    def __post_init__(self) -> None:
        self.done: dict[str, Pruned] = {}
        self.agreement: Agreement | None = None
        self.seconds = 0.0
        self._shared = _Shared()

    def visit(self, layer: Layer, inputs: dict[int, Tensor]) -> None:
        if layer.name not in self.keep:
            return
        started = time.perf_counter()
        solution = self._solve(layer, inputs)
        bias = solution.bias
        layer.write(solution.weights, None if bias is None else bias.reshape(-1))
        self.done[layer.name] = Pruned(solution.error, solution.macs)
        self.synchronize()
        self.seconds += time.perf_counter() - started
        self.step(1)

    def _solve(self, layer: Layer, inputs: Mapping[int, Tensor]) -> Solution:
        W, evidence = precise(layer.matrix()), self.seen.evidence[layer.name]
        rows = self.silent.get(layer.name)
        inputs = {batch: x for batch, x in inputs.items() if _matches(layer, evidence, batch, x)}
        evidence = evidence.seen_by(
            {batch: partial(_columns, layer, x) for batch, x in inputs.items()}
        )
        teaching, taught = self.teaching, 0.0
        if teaching is not None and layer is teaching.head and inputs:
            evidence, self.agreement = _taught(teaching, evidence)
            taught = self.agreement.macs
        # Only the dense network calls it, and the damage upstream leads past it: nothing to fit to.
        way = self.fit if inputs or evidence.joint is not None else largest
        if rows is not None:
            way = without(~rows, way)
        sight = _Sight.of(layer, evidence, inputs)
        evidence = replace(evidence, gram=self._shared.known(sight))
        solution = way(W, evidence, self.keep[layer.name], self.options)
        self._shared.note(sight, solution.gram)
        return replace(solution, macs=solution.macs + taught)


def _matches(layer: Layer, evidence: Evidence, batch: int, x: Tensor) -> bool:
    """Whether the dense network called the layer on this batch too, with as many positions."""
    sampled = evidence.sampled.get(batch)
    return sampled is not None and sampled.size == layer.positions(x)


def _columns(layer: Layer, x: Tensor, sampled: Sampled) -> Tensor:
    return precise(layer.columns(x, sampled.sample, sampled.position))


def without(live: Tensor, way: Fit) -> Fit:
    """A fit of the ``live`` rows ``(O,)`` alone; the others are zero, with their mean as bias."""

    def fit_live(W: Tensor, evidence: Evidence, keep: int, options: FitOptions) -> Solution:
        found = way(W[:, live], evidence.rows(live), keep, options)
        weights = torch.zeros_like(W)
        weights[:, live] = found.weights
        if found.bias is None:
            return replace(found, weights=weights)
        bias = evidence.outputs.mean.to(W.dtype)
        bias[:, live] = found.bias
        return replace(found, weights=weights, bias=bias)

    return fit_live


def _taught(teaching: Teaching, evidence: Evidence) -> tuple[Evidence, Agreement]:
    """The same evidence, with neighbours' answers in what the last layer is fitted to."""
    parts = [*evidence.sampled.values()]
    features = torch.cat([part.x()[0] for part in parts if part.x is not None])
    logits = torch.cat([part.y[0] for part in parts])
    read = (logits + teaching.shift.to(logits)).cpu().double().numpy()
    change, agreement = agreed(read, features.cpu().double().numpy(), teaching.options)
    wanted = logits + torch.from_numpy(np.ascontiguousarray(change)).to(logits)
    split = torch.split(wanted, [part.kept.shape[1] for part in parts])
    sampled = {
        batch: replace(part, kept=y[None], scale=None)
        for (batch, part), y in zip(evidence.sampled.items(), split, strict=True)
    }
    return replace(evidence, sampled=sampled), agreement


@dataclass(frozen=True)
class _Sight:
    """What a layer sees: which columns of which inputs."""

    view: Any
    inputs: tuple[tuple[int, int, int, int | None], ...]
    """Of each batch its number, the identities of its input and of the positions drawn, and how
    often the input has been written to."""
    refs: tuple[weakref.ref[Tensor], ...] = field(compare=False)
    size: int = field(compare=False)
    """Elements of the inputs."""

    @classmethod
    def of(cls, layer: Layer, evidence: Evidence, inputs: Mapping[int, Tensor]) -> _Sight | None:
        versions = [version(x) for x in inputs.values()]
        if layer.view is None or not inputs or None in versions:
            return None
        seen = (
            (batch, id(x), id(evidence.sampled[batch].position), written)
            for (batch, x), written in zip(inputs.items(), versions, strict=True)
        )
        refs = tuple(map(weakref.ref, inputs.values()))
        return cls(layer.view, tuple(seen), refs, sum(x.numel() for x in inputs.values()))

    def alive(self) -> bool:
        """Whether its inputs are still there."""
        return all(ref() is not None for ref in self.refs)


class _Shared:
    """Gram matrices of layers, for others that see the same inputs.

    The last one, whatever its size; and any that is smaller than its inputs, as long as these wait
    for other layers anyway.
    """

    def __init__(self) -> None:
        self._grams: list[tuple[_Sight, Gram]] = []

    def known(self, sight: _Sight | None) -> Gram | None:
        """That of a layer that saw the same."""
        # An identity means something only while its object lives.
        self._grams = [(seen, gram) for seen, gram in self._grams if seen.alive()]
        for seen, gram in self._grams:
            if seen == sight:
                return gram
        self._grams = [(seen, gram) for seen, gram in self._grams if _is_small(gram, seen)]
        return None

    def note(self, sight: _Sight | None, gram: Gram | None) -> None:
        """Remember a layer's."""
        if sight is not None and gram is not None and self.known(sight) is None:
            self._grams.append((sight, gram))


def _is_small(gram: Gram, sight: _Sight) -> bool:
    held = gram.H.F if isinstance(gram.H, LowRank) else gram.H
    return bool(held.numel() < sight.size)
