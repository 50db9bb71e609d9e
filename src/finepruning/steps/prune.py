"""Prune: one more forward pass, all samples in lock-step, each layer mended before it runs.

Every layer sees inputs that carry the damage done upstream, is fitted to what the dense network
gave at the same positions, and hands on what the pruned network really computes.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import LowRank
from ..core.evidence import Evidence, Sampled
from ..core.fit import FitOptions, FitPath, Solution, fit, fit_path, largest
from ..core.moments import Gram
from ..core.neighbours import Agreement, NeighbourOptions, agreed
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer, precise, version
from .observation import Observation, ObserveOptions
from .watch import Inputs

AnyFit = Callable[[Tensor, Evidence, Any, FitOptions], Solution]
"""A :class:`~finepruning.core.fit.Fit`, or one that is told in other terms what stays."""


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
    inputs: Mapping[str, Gram] = field(default_factory=dict)
    """Of each layer's inputs in the pruned network, as :class:`ObserveOptions` say."""
    keeping: float = 0.0
    """Multiply-accumulates that these took."""


def prune(
    engine: Engine,
    found: Found,
    seen: Observation,
    keep: Mapping[str, Any],
    silent: Mapping[str, Tensor],
    options: FitOptions,
    *,
    step: Callable[[int], object],
    teaching: Teaching | None = None,
    fit: AnyFit = fit,
    uncalled: AnyFit = largest,
    observed: ObserveOptions | None = None,
    beside: Beside | None = None,
) -> Pruning:
    """Prune the layers named in ``keep`` of the engine's network.

    ``silent`` names output rows of a layer that go whole; ``keep`` counts what stays of the others.
    ``fit`` is how a layer is fitted, to what ``keep`` says in its terms, so that others can be
    compared in the same pass; ``uncalled``, one that the batches do not call. ``observed``:
    what is kept of the layers' inputs; None: nothing. ``beside`` is what layers are added to.
    """
    counts = {name: (count,) for name, count in keep.items()}
    ways = _each(fit), _each(uncalled)
    visitor = _Visitor(found, seen, counts, 0, silent, options, teaching, ways, step, engine)
    visitor.observed, visitor.beside = observed, beside
    return visitor.pruning()


def prune_path(
    engine: Engine,
    found: Found,
    seen: Observation,
    keeps: Sequence[Mapping[str, int]],
    level: int,
    silent: Mapping[str, Tensor],
    options: FitOptions,
    *,
    step: Callable[[int], object],
    teaching: Teaching | None = None,
) -> tuple[Pruning, dict[str, list[Solution]]]:
    """The same for each of ``keeps``, most first, in about the time of one.

    The network is pruned as ``keeps[level]`` says: the others are fitted to inputs that carry its
    damage. Returns what was found for each, by layer.
    """
    counts = {name: [keep[name] for keep in keeps] for name in keeps[0]}
    ways = fit_path, _each(largest)
    visitor = _Visitor(found, seen, counts, level, silent, options, teaching, ways, step, engine)
    return visitor.pruning(), visitor.path


def _each(fit: AnyFit) -> FitPath:
    return lambda W, evidence, keeps, options: [fit(W, evidence, k, options) for k in keeps]


@dataclass
class _Visitor:
    """Fits each layer as the batches come to it."""

    found: Found
    seen: Observation
    keeps: Mapping[str, Sequence[int]]
    level: int
    silent: Mapping[str, Tensor]
    options: FitOptions
    teaching: Teaching | None
    ways: tuple[FitPath, FitPath]
    """How a layer is fitted, and one that the batches do not call."""
    step: Callable[[int], object]
    engine: Engine

    def __post_init__(self) -> None:
        self.done: dict[str, Pruned] = {}
        self.path: dict[str, list[Solution]] = {}
        self.agreement: Agreement | None = None
        self.seconds = 0.0
        self.observed: ObserveOptions | None = None
        self.beside: Beside | None = None
        self.inputs = Inputs(0)
        self._shared = _Shared()

    def pruning(self) -> Pruning:
        """Let the calibration batches flow, and fit every layer."""
        if self.observed is not None:
            self.inputs = Inputs(self.observed.rank)
        expected = {name: set(evidence.sampled) for name, evidence in self.seen.evidence.items()}
        self.engine.lock_step(self.seen.calibration, self.found.places, self.visit, expected)
        for layer in self.found.layers:
            if layer.name not in self.done:
                self.visit(layer, {})
        inputs = self.inputs.kept()
        return Pruning(self.done, self.agreement, self.seconds, inputs, self.inputs.macs)

    def visit(self, layer: Layer, inputs: dict[int, Tensor]) -> None:
        if self.beside is not None:
            self.beside.remember(layer, inputs)
        if layer.name not in self.keeps:
            return
        started = time.perf_counter()
        solutions, taught = self._solve(layer, inputs)
        apply(layer, solutions[self.level])
        macs = taught + sum(solution.macs for solution in solutions)
        self.done[layer.name] = Pruned(solutions[self.level].error, macs)
        if len(solutions) > 1:
            self.path[layer.name] = [replace(solution, gram=None) for solution in solutions]
        self.engine.synchronize()
        self.seconds += time.perf_counter() - started
        self.step(1)

    def _solve(self, layer: Layer, inputs: Mapping[int, Tensor]) -> tuple[list[Solution], float]:
        """What stays of the layer, and what asking neighbours took."""
        W, evidence = precise(layer.matrix()), self.seen.evidence[layer.name]
        rows = self.silent.get(layer.name)
        inputs = {batch: x for batch, x in inputs.items() if _matches(layer, evidence, batch, x)}
        evidence = evidence.seen_by(
            {batch: partial(columns_of, layer, x) for batch, x in inputs.items()}
        )
        if self.beside is not None:
            evidence = self.beside.less(layer, evidence)
        teaching, taught = self.teaching, 0.0
        if teaching is not None and layer is teaching.head and inputs:
            evidence, self.agreement = _taught(teaching, evidence)
            taught = self.agreement.macs
        # Only the dense network calls it, and the damage upstream leads past it: nothing to fit to.
        way = self.ways[0 if inputs or evidence.joint is not None else 1]
        if rows is not None:
            way = without(~rows, way)
        sight = _Sight.of(layer, evidence, inputs)
        evidence = replace(evidence, gram=self._shared.known(sight))
        solutions = way(W, evidence, self.keeps[layer.name], self.options)
        self._shared.note(sight, solutions[0].gram)
        self._keep(layer, evidence, inputs, solutions[0].gram)
        return solutions, taught

    def _keep(
        self, layer: Layer, evidence: Evidence, inputs: Mapping[int, Tensor], gram: Gram | None
    ) -> None:
        """Keep what the pruned network's layer sees."""
        if self.observed is None or not self.observed.rank:
            return
        if gram is not None:
            self.inputs.add(layer.name, gram)
            return
        for batch, x in inputs.items():
            self.inputs.add(layer.name, Gram.few(columns_of(layer, x, evidence.sampled[batch])))


class Beside(Protocol):
    """What is added to layers' outputs, a shortcut for example: where the pruned network gives
    other values there, the layer is to make up for it."""

    def remember(self, layer: Layer, inputs: Mapping[int, Tensor]) -> None:
        """A layer is about to see ``inputs``, by batch."""

    def less(self, layer: Layer, evidence: Evidence) -> Evidence:
        """The same evidence with outputs wanted as the sum asks for them."""


def apply(layer: Layer, solution: Solution) -> None:
    """Give the layer what was found for it."""
    bias = solution.bias
    layer.write(solution.weights, None if bias is None else bias.reshape(-1))


def _matches(layer: Layer, evidence: Evidence, batch: int, x: Tensor) -> bool:
    """Whether the dense network called the layer on this batch too, with as many positions."""
    sampled = evidence.sampled.get(batch)
    return sampled is not None and sampled.size == layer.positions(x)


def columns_of(layer: Layer, x: Tensor, sampled: Sampled) -> Tensor:
    """What the layer sees ``(G, N, D)`` at the positions that were sampled."""
    return precise(layer.columns(x, sampled.sample, sampled.position))


def without(live: Tensor, way: FitPath) -> FitPath:
    """A fit of the ``live`` rows ``(O,)`` alone; the others are zero, with their mean as bias."""

    def fit_live(
        W: Tensor, evidence: Evidence, keeps: Sequence[int], options: FitOptions
    ) -> list[Solution]:
        return [
            _among(live, found, W, evidence)
            for found in way(W[:, live], evidence.rows(live), keeps, options)
        ]

    return fit_live


def _among(live: Tensor, found: Solution, W: Tensor, evidence: Evidence) -> Solution:
    weights = torch.zeros_like(W)
    weights[:, live] = found.weights
    if found.bias is None:
        return replace(found, weights=weights)
    bias = evidence.outputs.mean.to(W.dtype)
    bias[:, live] = found.bias
    return replace(found, weights=weights, bias=bias)


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
