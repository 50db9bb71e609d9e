"""Statistics: what is kept of a person's samples, so that later ones can be taken in without them.

Sums over many samples, of which none can be read back: of each layer's inputs the mean and the
directions in which they vary most, and the dense network's answers. They grow with the network, not
with the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ..core.arrays import LowRank
from ..core.drift import Usual, believed, familiar
from ..core.evidence import Evidence
from ..core.moments import Gram, Moments
from ..core.options import number
from ..core.readout import Readout
from ..data.batches import Batch
from ..network.engine import Engine
from ..network.layers import Layer, precise
from ..network.norms import ChannelMoments, Norm, norm_places
from .observation import Observation


@dataclass(frozen=True)
class UpdateOptions:
    """How new samples are taken in beside earlier ones."""

    remember: int = number(256, 1)
    """Earlier samples that count beside new ones, at most: what is older fades."""
    doubt: float = number(16.0, 0)
    """So many new samples move the batch norms half of the way to another device."""


@dataclass(frozen=True)
class Statistics:
    """What is kept of a person's samples."""

    samples: float
    """How many they stand for."""
    inputs: Mapping[str, Gram]
    """Of each layer's inputs in the personal network."""
    usual: Usual
    """Where single samples' mean outputs lie."""
    norms: Mapping[str, ChannelMoments]
    """Of each batch norm's inputs."""
    logits: Tensor | None
    """What the dense network answers ``(m, K)``, float32; None where there are no classes."""
    shift: Tensor | None
    """What is added to the answers of the personal network ``(K,)``, float64."""
    offsets: Mapping[str, Tensor] = field(default_factory=dict)
    """What batch norms have taken up of layers without a bias ``(G O,)``, by layer."""

    @classmethod
    def of(
        cls,
        seen: Observation,
        inputs: Mapping[str, Gram],
        answer: Readout | None,
        past: Statistics | None,
        logits: Tensor | None,
    ) -> Statistics:
        """Those of what was ``seen`` anew and of the ``past``; ``inputs`` are those of the personal
        network's layers, where it is not the dense one, and ``logits`` are of both."""
        shift = None if answer is None else torch.from_numpy(answer.shift)
        means = {name: rows.double().numpy() for name, rows in seen.means.items()}
        belief = None
        if logits is not None and seen.means_logits is not None:
            known = familiar(logits.double().numpy())
            belief = believed(known, seen.means_logits.double().numpy())
        usual = Usual.of(means, belief)
        # On the CPU, wherever the network is: there it is merged, and there a file is read.
        grams = _each({**seen.inputs, **inputs}, lambda gram: gram.to("cpu"))
        norms = _each(seen.norms, lambda norm: norm.to("cpu"))
        new = cls(seen.samples, grams, usual, norms, logits, shift)
        return new if past is None else past.merge(new)

    def capped(self, most: int) -> Statistics:
        """The same, standing for no more than ``most`` samples."""
        factor = min(1.0, most / self.samples)
        logits = self.logits
        if logits is not None and len(logits) > most:
            # Every so manieth in the order of the answers: each class keeps its share.
            order = logits.argmax(1).argsort(stable=True)
            logits = logits[order[torch.linspace(0, len(order) - 1, most).round().long()]]
        return replace(
            self,
            samples=self.samples * factor,
            inputs=_each(self.inputs, lambda gram: gram.decayed(factor)),
            usual=self.usual.decayed(factor),
            norms=_each(self.norms, lambda norm: norm.decayed(factor)),
            logits=logits,
        )

    def merge(self, other: Statistics) -> Statistics:
        """Those of both; the answers of the other alone."""
        n, m = self.samples, other.samples
        # Positions are counted, of which more are drawn where samples are fewer.
        inputs = {
            name: replace(gram, count=n).merge(replace(other.inputs[name], count=m))
            if name in other.inputs
            else gram
            for name, gram in self.inputs.items()
        }
        return replace(
            other,
            samples=n + m,
            inputs={**other.inputs, **inputs},
            usual=self.usual.merge(other.usual),
            norms=_merged(self.norms, other.norms),
        )

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        held = [
            part for gram in self.inputs.values() for part in (gram.mean, gram.H.F, gram.H.rest)
        ]
        held += [part for m in self.usual.means.values() for part in (m.total, m.squares)]
        held += [part for of in self.usual.sums.values() for part in of.values()]
        held += [part for m in self.norms.values() for part in (m.total, m.squares, m.per_sample)]
        return sum(part.nbytes for part in (*held, self.logits, self.shift) if part is not None)

    def compacted(self, rank: int) -> Statistics:
        """The same with ``rank`` directions of each layer's inputs at most."""
        return replace(self, inputs=_each(self.inputs, lambda gram: gram.compacted(rank)))

    def beside(self, seen: Observation, personal: Iterable[Layer]) -> Observation:
        """What was ``seen`` of new samples, with what these say of earlier ones.

        For the earlier inputs each layer is to give what it gives in the personal network, whose
        layers, ``personal``, were fitted to what the dense ones gave.
        """
        evidence = dict(seen.evidence)
        ratio = self.samples / seen.samples
        head = seen.trace.head
        # Of a layer that is handed another bias than its own, the outputs wanted are without it.
        own = {layer.name for layer in seen.found.layers if layer.plain}
        for layer in personal:
            layer.plain = layer.name in own
            gram, new = self.inputs.get(layer.name), evidence.get(layer.name)
            if gram is not None and new is not None:
                ours = head is not None and layer.name == head.name
                shift = self.shift / seen.trace.gain if ours and self.shift is not None else None
                offset = self.offsets.get(layer.name)
                earlier = _earlier(layer, gram, new, ratio, shift, offset)
                evidence[layer.name] = new.merge(earlier)
        logits = seen.logits
        if logits is not None and self.logits is not None:
            logits = torch.cat([logits, self.logits])
        known = seen.samples + round(self.samples)
        return replace(seen, evidence=evidence, logits=logits, known=known)


def _earlier(
    layer: Layer,
    gram: Gram,
    new: Evidence,
    ratio: float,
    shift: Tensor | None,
    offset: Tensor | None,
) -> Evidence:
    """Evidence of earlier inputs, ``ratio`` of which count for each new one; ``shift`` is added to
    the outputs, and is not wanted; ``offset`` is not, and is wanted."""
    like = new.outputs.total
    W = precise(layer.matrix()).to(like.device)
    H = LowRank(gram.H.F.to(W), None if gram.H.rest is None else gram.H.rest.to(W))
    gram = Gram((new.count or new.inputs.count) * ratio, gram.mean.to(W), H)
    bias = W.new_zeros(W.shape[:2])
    if layer.bias is not None:
        bias = precise(layer.bias).to(like.device).reshape(bias.shape)
    if offset is not None:
        bias = bias + offset.to(bias).reshape(bias.shape)
    if shift is not None:
        bias = bias - shift.to(bias)
    joint = Moments.linear(W, bias, gram)
    inputs = replace(gram, count=new.inputs.count * ratio).marginals()
    outputs = joint.outputs.decayed(new.outputs.count / max(gram.count / ratio, 1))
    return Evidence(inputs, outputs, joint=joint)


def align_norms(
    engine: Engine,
    norms: Sequence[Norm],
    batches: Sequence[Batch],
    past: Mapping[str, ChannelMoments],
    share: float,
) -> None:
    """Another device: one forward pass, all samples in lock-step, in which each norm comes to give
    for its inputs what it gave for the ``past`` ones of the same person; ``share`` of the way.

    The engine's network is changed.
    """

    def visit(norm: Norm, inputs: dict[int, Tensor]) -> None:
        moments = reduce(ChannelMoments.merge, map(ChannelMoments.of, inputs.values()))
        if norm.name in past:
            norm.align(past[norm.name].to(engine.device), moments, share)

    engine.lock_step(batches, norm_places(norms), visit)


def _each(values: Mapping[str, Any], of: Any) -> dict[str, Any]:
    return {name: of(value) for name, value in values.items()}


def _merged(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: one[name].merge(two[name]) for name in one.keys() & two.keys()}
    return {**one, **two, **both}
