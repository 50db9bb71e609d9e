"""Watch: what a pass shows, layer by layer, as batches go through the network."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .._errors import FinepruningError
from ..core.arrays import LowRank, leading_macs
from ..core.evidence import Evidence, Sampled
from ..core.moments import Gram, Marginals, Moments
from ..data.batches import Batch, logits_of
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer, precise, version
from ..network.norms import ChannelMoments, Norm
from ..network.positions import RealPositions, drawn
from .observation import ObserveOptions
from .trace import READ, Trace, looked_at

MEANS = 512
"""Samples whose mean outputs are looked at."""
SOME = 4
"""Times as many rows as are kept wait to be made fewer. How it is computed, not what comes out."""


class Inputs:
    """Gathers mean and covariance of layers' inputs, the latter of ``rank`` rows; 0: nothing."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.macs = 0.0
        """Multiply-accumulates that it has taken."""
        self._grams: dict[str, Gram] = {}

    def add(self, name: str, gram: Gram) -> None:
        """More inputs of a layer."""
        if not self.rank:
            return
        before = self._grams.get(name)
        if isinstance(gram.H, LowRank) and gram.mean.shape[1] <= self.rank:
            gram = self._written_out(gram)  # no row of it would go, and it is small
        if before is not None and isinstance(gram.H, LowRank) != isinstance(before.H, LowRank):
            before, gram = self._written_out(before), self._written_out(gram)
        merged = gram if before is None else before.merge(gram)
        rows = merged.H.F.shape[1] if isinstance(merged.H, LowRank) else merged.H.shape[1]
        if rows > SOME * self.rank:
            merged = self._compacted(merged)
        self._grams[name] = merged

    def kept(self) -> dict[str, Gram]:
        """What is kept of each layer's."""
        return {name: self._compacted(gram) for name, gram in self._grams.items()}

    def _written_out(self, gram: Gram) -> Gram:
        if not isinstance(gram.H, LowRank):
            return gram
        self.macs += gram.H.F.numel() * gram.H.F.shape[2]
        return replace(gram, H=gram.H.dense())

    def _compacted(self, gram: Gram) -> Gram:
        found = gram.compacted(self.rank)
        if found.H is not gram.H:
            self.macs += leading_macs(gram.H, self.rank)
        return found

    def clear(self) -> None:
        """Begin anew."""
        self._grams.clear()


@dataclass
class _Drawn:
    """The positions drawn of one input, which other layers that see it share."""

    x: weakref.ref[Tensor]
    version: int | None
    view: Any
    size: tuple[int, int]
    sample: Tensor
    position: Tensor
    inputs: Marginals | None = None
    gram: Gram | None = None

    def serves(self, layer: Layer, x: Tensor, size: tuple[int, int]) -> bool:
        """Whether a layer sees the same columns of the same input."""
        known = self.version is not None and self.version == version(x)
        same = self.x() is x and known and self.size == size
        return same and layer.view is not None and self.view == layer.view


@dataclass
class Watcher:
    """Gathers the evidence of each layer, and each norm's moments, as batches pass."""

    trace: Trace
    options: ObserveOptions
    seed: int
    per_sample: float
    """Positions to draw a sample."""
    device: torch.device
    evidence: dict[str, Evidence] = field(default_factory=dict)
    held_evidence: dict[str, Evidence] = field(default_factory=dict)
    means: dict[str, list[Tensor]] = field(default_factory=dict)
    norms: dict[str, ChannelMoments] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Norms that are called twice in a pass, or without positions ``(N, C)``: there are no
    statistics that serve both calls, and with a number a sample few classes look like another
    device."""

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self.inputs = Inputs(self.options.rank)
        self._drawn: list[_Drawn] = []  # of inputs that are still alive

    def begin(self, batch: Batch, number_: int | None, held: bool = False) -> None:
        """A batch is about to pass, the calibration batch of that number, or the ``held`` one;
        None: it is neither."""
        self._batch, self._number = batch, number_
        self._into = self.held_evidence if held else self.evidence
        self._real = RealPositions(None if batch.mask is None else batch.mask.to(self.device))
        self._called: set[str] = set()
        self.said = torch.empty(0)

    @property
    def watching(self) -> bool:
        """Whether the layers are looked at, in the batch that passes."""
        return self._number is not None

    def logits(self, output: Any) -> Tensor:
        """The logits ``(m, K)`` of the batch that has passed and given ``output``."""
        if self.trace.direct and self.trace.end:
            return self.said.float().cpu()
        return READ[self.trace.end](logits_of(output).float().cpu())

    def norm_moments(self) -> dict[str, ChannelMoments]:
        """Those of the norms that were called, and as can be followed."""
        return {name: seen for name, seen in self.norms.items() if name not in self.refused}

    def watch(self, tap: Layer | Norm, x: Tensor, y: Tensor) -> None:
        if isinstance(tap, Norm):
            self._watch_norm(tap, x)
            return
        if tap is self.trace.head and self.trace.direct:
            self.said = y.flatten(1)
        real = self._real.of(tap, x)
        if self._number is not None:
            self._watch_layer(tap, x, y, real)

    def _watch_norm(self, norm: Norm, x: Tensor) -> None:
        if x.ndim <= 2 or norm.name in self._called:
            self.refused.add(norm.name)
        self._called.add(norm.name)
        if norm.name not in self.refused:
            seen, before = ChannelMoments.of(x), self.norms.get(norm.name)
            self.norms[norm.name] = seen if before is None else before.merge(seen)

    def _watch_layer(self, layer: Layer, x: Tensor, y: Tensor, real: Tensor | None) -> None:
        before = self._into.get(layer.name)
        repeated = self.trace.calls.get(layer.name, 0) > 1
        if not x.numel() or (before and self._number in before.sampled):
            return  # called again on this data alone: the layer is fitted to its first call
        size = layer.positions(x)
        self._drawn = [known for known in self._drawn if known.x() is not None]
        serving = [known for known in self._drawn if known.serves(layer, x, size)]
        if serving and not repeated:
            drawn_ = serving[0]
        else:
            sample, position = self._draw(size, real, x.device)
            drawn_ = _Drawn(weakref.ref(x), version(x), layer.view, size, sample, position)
        sample, position = drawn_.sample, drawn_.position
        Y = precise(layer.rows(y, sample, position))
        sound = Y.isfinite().all(2).all(0)
        if not bool(sound.all()):  # rows that see nothing, where all of theirs is masked
            sample, position, Y = sample[sound], position[sound], Y[:, sound]
            drawn_ = _Drawn(weakref.ref(x), None, None, size, sample, position)
        if not bool(sound.any()):
            raise FinepruningError(
                f"layer {layer.name!r}: its outputs hold NaN or infinite values;"
                " check the model's weights, dtype and input scaling"
            )
        if repeated:
            X = precise(layer.columns(x, sample, position))
            joint = Moments.of([(X, Y)])
            seen = Evidence(
                Marginals.of(X), Marginals.of(Y), joint=joint, free_bias=layer.free_bias
            )
            self.inputs.add(layer.name, joint.gram)
        else:
            if drawn_.inputs is None:
                count = max(1, len(sample) // max(1, size[0]))  # at least one position a sample
                every = min(self.options.inputs_every, count)
                X = precise(layer.columns(x, sample[::every], position[::every]))
                drawn_.inputs = Marginals.of(X)
                if self.options.rank:
                    drawn_.gram = Gram.few(X)
                self._drawn.append(drawn_)
            assert self._number is not None
            sampled = {self._number: Sampled.of(size, sample, position, Y)}
            seen = Evidence(
                drawn_.inputs, Marginals.of(Y), sampled=sampled, free_bias=layer.free_bias
            )
            if drawn_.gram is not None:
                self.inputs.add(layer.name, drawn_.gram)
                # The last layer's answers are looked at by themselves.
                if size[0] == self._batch.size and layer is not self.trace.head:
                    means = (
                        layer.means(y, size) if real is None else sample_means(Y, sample, size[0])
                    )
                    self._keep_means(layer.name, means)
        self._into[layer.name] = before.merge(seen) if before else seen

    def _keep_means(self, name: str, means: Tensor) -> None:
        held = self.means.setdefault(name, [])
        if sum(map(len, held)) < MEANS:
            held.append(means.cpu())

    def kept_means(self) -> dict[str, Tensor]:
        """Mean outputs of single samples, of some of them."""
        return {name: torch.cat(held)[:MEANS] for name, held in self.means.items()}

    def _draw(
        self, size: tuple[int, int], real: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Numbers of samples and of positions to look at."""
        samples, positions = size
        count = min(positions, math.ceil(self.per_sample * self._batch.size / max(1, samples)))
        if real is not None:
            count = min(count, int(real.sum(1).max()))
        # Systematic sampling: evenly spaced from a random start, so never a position twice.
        start = torch.rand(samples, 1, generator=self._generator, dtype=torch.float64)
        if real is not None:
            return drawn(real, count, start)
        position = ((torch.arange(count) + start) * (positions / count)).long()
        position = position.clamp(max=positions - 1).reshape(-1).to(device)
        return torch.arange(samples).repeat_interleave(count).to(device), position


def sample_means(Y: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Mean outputs ``(samples, G O)`` of each sample, of outputs ``(G, N, O)`` of the samples
    numbered ``sample`` ``(N,)``; of a sample without any there is none."""
    flat = Y.transpose(0, 1).flatten(1)
    count = torch.bincount(sample, minlength=samples)
    total = flat.new_zeros(samples, flat.shape[1]).index_add(0, sample, flat)
    return total[count > 0] / count[count > 0, None]


@dataclass(frozen=True)
class Look:
    """What new samples show of a network, as far as drift goes."""

    means: Mapping[str, Tensor]
    """Of each layer, single samples' mean outputs ``(m, C)``."""
    logits: Tensor | None
    """``(m, K)``; None where there is no head."""
    samples: int


def look(
    engine: Engine, found: Found, batches: Iterable[Batch], options: ObserveOptions, seed: int
) -> Look:
    """Run the engine's network over new samples, of which there may be a single one."""
    watcher: Watcher | None = None
    logits: list[Tensor] = []
    means: dict[str, list[Tensor]] = {}
    samples = 0
    for batch in batches:
        samples += batch.size
        if watcher is None:
            found, traced, _ = looked_at(engine, found, batch)
            watcher = Watcher(traced, options, seed, options.positions / MEANS, engine.device)
        watcher.begin(batch, 0)
        for passed in engine.stream([batch], found.places, watcher.watch):
            if watcher.trace.head is not None:
                logits.append(watcher.logits(passed.output))
        for name, held in watcher.kept_means().items():
            means.setdefault(name, []).append(held)
        for gathered in (watcher.means, watcher.evidence, watcher.inputs):
            gathered.clear()
    return Look(
        {name: torch.cat(held) for name, held in means.items()},
        torch.cat(logits) if logits else None,
        samples,
    )


def as_arrays(seen: Look) -> tuple[dict[str, Any], Any]:
    """Means and logits in float64, for the core."""
    means = {name: rows.double().numpy() for name, rows in seen.means.items()}
    return means, None if seen.logits is None else seen.logits.double().numpy()
