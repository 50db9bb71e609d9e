"""Evidence: what a person's data shows of one layer, as a value that never changes.

Two bodies of evidence on other samples merge into one, in any order, and older evidence can be made
to weigh less. Nothing in here is edited in place once it has been made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from .arrays import TINY, Matrix, clip_min, half, like, single
from .moments import Gram, Marginals, Moments, Pair

LARGE = 1 << 17
"""Values from which outputs are kept in half precision: how they are kept, not what they mean."""


@dataclass(frozen=True)
class Sampled:
    """A layer's outputs at sampled positions of one batch, and a way to its inputs there."""

    size: tuple[int, int]
    """Samples, and output positions a sample, of which some were drawn."""
    sample: Matrix
    position: Matrix
    """The numbers ``(N,)`` of the samples and positions drawn."""
    kept: Matrix
    """The outputs wanted there, ``(G, N, O)``, or in half precision in units of ``scale``."""
    weight: float = 1.0
    x: Callable[[], Matrix] | None = None
    """Gathers the inputs ``(G, N, D)`` there: a copy, which is gone once it has been used."""
    scale: Matrix | None = None
    """``(G, 1, O)``, the largest of each output; None: ``kept`` are the outputs themselves."""

    @classmethod
    def of(cls, size: tuple[int, int], sample: Matrix, position: Matrix, Y: Matrix) -> Sampled:
        """Keep outputs ``(G, N, O)``: many in float32 in half the memory, each to 1 in 2,000."""
        if math.prod(Y.shape) < LARGE or not single(Y):
            return cls(size, sample, position, Y)
        scale = abs(Y).swapaxes(1, 2).max(-1)
        scale = (scale if isinstance(Y, np.ndarray) else scale.values)[:, None, :] + TINY
        return cls(size, sample, position, half(Y / scale), scale=scale)

    @property
    def y(self) -> Matrix:
        """The outputs wanted there, ``(G, N, O)``."""
        return self.kept if self.scale is None else like(self.kept, self.scale) * self.scale

    def rows(self, live: Matrix) -> Sampled:
        """The same of some of the outputs, ``live`` ``(O,)`` booleans."""
        scale = None if self.scale is None else self.scale[:, :, live]
        return replace(self, kept=self.kept[:, :, live], scale=scale)


@dataclass(frozen=True)
class Rectified:
    """That ``max(0, slope y + offset)`` is all that is read of the outputs ``y``."""

    slope: Matrix
    """``(O,)``; 0: nothing is known of that output."""
    offset: Mapping[int, Matrix]
    """By batch, ``(O,)`` or at each sampled position ``(G, N, O)``; of others nothing is known."""

    def wanted(self, batch: int, Y: Matrix, now: Matrix) -> Matrix:
        """What is to be given instead of ``now`` ``(G, N, O)`` where ``Y`` was wanted: the same
        where both are below zero, and zero where ``Y`` alone is."""
        if batch not in self.offset:
            return Y
        slope, offset = self.slope, self.offset[batch]
        given, wanted = slope * now + offset, slope * Y + offset
        off = (wanted <= 0) * (slope != 0)
        return Y + off * (now - Y - clip_min(given, 0.0) / (slope + (slope == 0)))

    def rows(self, live: Matrix) -> Rectified:
        """The same of some of the outputs, ``live`` ``(O,)`` booleans."""
        return Rectified(self.slope[live], {b: o[..., live] for b, o in self.offset.items()})


@dataclass(frozen=True)
class Evidence:
    """What the dense network showed of one layer on a person's data."""

    inputs: Marginals
    """Of the inputs ``(G, D)``."""
    outputs: Marginals
    """Of the outputs ``(G, O)``."""
    positions: int = 0
    """Output positions that the layer computes for all samples, of which some were drawn."""
    sampled: Mapping[int, Sampled] = field(default_factory=dict)
    """Outputs at sampled positions, by the number of the batch."""
    joint: Moments | None = None
    """Moments of inputs and outputs together, of a layer whose outputs are not kept."""
    gram: Gram | None = None
    """Of the inputs at the sampled positions, where another layer that sees the same has it."""
    free_bias: bool = True
    """Whether the mean of the outputs can be moved at will."""
    rectified: Rectified | None = None
    """What is read of the outputs; None: all."""

    def merge(self, other: Evidence) -> Evidence:
        """That of both sets of batches."""
        both = self.sampled.keys() & other.sampled.keys()
        if both:
            raise ValueError(f"evidence: both hold batch {min(both)}; merge that of other batches")
        one, two = self.joint, other.joint
        return Evidence(
            self.inputs.merge(other.inputs),
            self.outputs.merge(other.outputs),
            self.positions + other.positions,
            {**self.sampled, **other.sampled},
            one.merge(two) if one is not None and two is not None else one or two,
            free_bias=self.free_bias,
        )

    @property
    def input_power(self) -> Matrix:
        """What a weight may be judged by ``(G, D)``: its input's variance, where a bias takes up
        the mean, or else its energy."""
        return self.inputs.variance if self.free_bias else self.inputs.energy

    def renumbered(self, start: int) -> Evidence:
        """The same with its batches numbered from ``start``."""
        return replace(self, sampled={start + b: s for b, s in self.sampled.items()})

    def decayed(self, factor: float) -> Evidence:
        """The same with each sample counting ``factor`` times, 0 < ``factor`` <= 1."""
        return replace(
            self,
            inputs=self.inputs.decayed(factor),
            outputs=self.outputs.decayed(factor),
            sampled={b: replace(s, weight=s.weight * factor) for b, s in self.sampled.items()},
            joint=None if self.joint is None else self.joint.decayed(factor),
            gram=None if self.gram is None else self.gram.decayed(factor),
        )

    def seen_by(self, gather: Mapping[int, Callable[[Sampled], Matrix]]) -> Evidence:
        """The same on the batches of ``gather`` alone, with ways to the inputs there."""
        with_inputs = {
            batch: replace(self.sampled[batch], x=partial(way, self.sampled[batch]))
            for batch, way in gather.items()
        }
        return replace(self, sampled=with_inputs, gram=None)  # a gram is of all batches

    def rows(self, live: Matrix) -> Evidence:
        """The same of some of the outputs, ``live`` ``(O,)`` booleans."""
        outputs = self.outputs
        return replace(
            self,
            outputs=Marginals(outputs.count, outputs.total[:, live], outputs.squares[:, live]),
            sampled={b: s.rows(live) for b, s in self.sampled.items()},
            joint=None if self.joint is None else self.joint.rows(live),
            rectified=None if self.rectified is None else self.rectified.rows(live),
        )

    @property
    def count(self) -> int:
        """How many samples of inputs and outputs together there are, before any weights."""
        return sum(s.kept.shape[1] for s in self.sampled.values())

    def pairs(self) -> Iterator[Pair]:
        """Inputs and the outputs wanted there, batch by batch; gathered as they are asked for."""
        for sampled in self.sampled.values():
            assert sampled.x is not None
            yield sampled.x(), sampled.y, sampled.weight
