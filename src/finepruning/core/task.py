"""Task: is this a classifier, whose outputs are one answer a sample?

Nothing in a network says so. What shows it is training by cross-entropy: its gradient sums to zero
over the classes, so the rows of the last layer keep the sum that they began with, next to nothing,
and with it the mean of a sample's outputs stays where it is; and one output stands out for each
sample. Taggers, regressors, embeddings and detectors lack one or the other. NumPy in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .options import number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassifierOptions:
    """What a classifier is told by; each was chosen with room on either side (docs/log.md)."""

    outputs: int = number(10, 2)
    """Of fewer outputs too little shows: nothing is said."""
    common: float = number(0.8, 0)
    """Squared length of the sum of the last layer's rows, in that of as many independent ones, at
    most."""
    steady: float = number(0.12, 0)
    """Deviation over samples of their outputs' mean, in that of all outputs, at most."""
    above: float = number(0.1, 0)
    """Mean of all outputs, in their deviation, at most: one-hot targets of a regression have it
    higher."""
    stands_out: float = number(1.15, 0)
    """By so much the highest output is above the others, in what it is among as many normal
    numbers, at least."""


DEFAULT = ClassifierOptions()


def is_classifier(logits: Floats, weight: Floats, options: ClassifierOptions = DEFAULT) -> bool:
    """Whether ``logits`` ``(n, K)`` of a last layer with ``weight`` ``(K, D)`` are those of a
    classifier, beyond reasonable doubt; False: it may be anything.

    >>> rng = np.random.default_rng(0)
    >>> features = np.eye(12)[rng.integers(0, 12, 60)] + rng.normal(size=(60, 12)) / 10
    >>> weight = 9 * (np.eye(12) - 1 / 12)
    >>> is_classifier(features @ weight.T, weight), is_classifier(features, np.eye(12))
    (True, False)
    """
    o, K = options, logits.shape[1]
    spread = float(logits.std())
    if o.outputs > K or not spread or len(np.unique(logits.argmax(1))) < 2:
        return False
    rows = float(((weight.sum(0)) ** 2).sum() / np.maximum((weight**2).sum(), 1e-300))
    means = logits.mean(1)
    apart = (logits.max(1) - means) / np.maximum(logits.std(1), 1e-12)
    return bool(
        rows < o.common
        and means.std() < o.steady * spread
        and means.mean() < o.above * spread
        and apart.mean() > o.stands_out * _highest_of(K)
    )


@cache
def _highest_of(K: int) -> float:
    """Mean of the highest of ``K`` normal numbers."""
    grid = np.linspace(-8, 8, 16001)
    density = np.exp(-(grid**2) / 2)
    below = np.minimum(np.cumsum(density) / density.sum(), 1)
    return float((1 - below**K - (grid < 0)).sum() * (grid[1] - grid[0]))
