"""Read-outs that the panel compares. Each is told the dense logits and features of a person's
unlabelled samples, and what is known of the network; it gives a shift ``(K,)`` of the outputs, or
a function of the logits and features of the tests that gives other logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import adapt
import numpy as np
import torch
from numpy.typing import NDArray

from finepruning.research import ReadoutOptions, Skew, read_out, skew_of, sparing

Floats = NDArray[np.float64]
Adapted = Callable[[Floats, Floats], Floats]
"""From logits ``(n, K)`` and features ``(n, D)`` of all tests to other logits."""


@dataclass(frozen=True)
class Known:
    """What a read-out is told beside a person's samples."""

    weight: Floats
    """Of the last layer, ``(K, D)``."""
    bias: Floats
    prior: Floats | None = None
    """Frequencies in training, where they are known. Most methods look away."""
    speech: bool = False
    """For LAME, whose constants differ there."""
    found: dict[str, float] = field(default_factory=dict)
    """A method may leave numbers here; they are written beside its scores."""


Reader = Callable[[Floats, Floats, Known], "Floats | Adapted"]


def dense(logits: Floats, features: Floats, known: Known) -> Floats:
    """The network as it came."""
    return np.zeros(logits.shape[1])


@dataclass(frozen=True)
class Today:
    """What finepruning does on the dense weights, no output removed; with the check at the end, or
    without."""

    options: ReadoutOptions = field(default_factory=ReadoutOptions)
    checked: bool = False

    def __call__(self, logits: Floats, features: Floats, known: Known) -> Floats:
        found = read_out(logits, self.options, skew=_skew(logits))
        known.found.update(trust=found.trust, classes=found.classes, temperature=found.temperature)
        worth = sparing(logits, found) if self.checked else found
        return np.zeros_like(found.shift) if worth is None else worth.shift


_SKEWS: dict[bytes, Skew] = {}


def _skew(logits: Floats) -> Skew:
    """It takes longest, and no option that is tried here changes it."""
    key = hashlib.sha256(logits.tobytes()).digest()
    if key not in _SKEWS:
        _SKEWS[key] = skew_of(logits)
    return _SKEWS[key]


def lame(logits: Floats, features: Floats, known: Known) -> Adapted:
    """The tests made to agree among neighbours: it sees all of them at once, and nothing else."""
    return _lame_speech if known.speech else _lame


class Lame:
    """Remembers its last answer: a person's tests are the same for all sizes."""

    def __init__(self, neighbours: int | None) -> None:
        self.neighbours = neighbours
        self._last: tuple[Floats, Floats] | None = None

    def __call__(self, logits: Floats, features: Floats) -> Floats:
        if self._last is None or not np.array_equal(self._last[0], logits):
            given = torch.from_numpy(logits).float(), torch.from_numpy(features).float()
            self._last = logits, adapt.lame(*given, self.neighbours).double().numpy()
        return self._last[1]


_lame, _lame_speech = Lame(None), Lame(adapt.LAME_SPEECH)


def em(logits: Floats, features: Floats, known: Known, steps: int = 100) -> Floats:
    """Class frequencies by maximum likelihood (Saerens et al. 2002)."""
    p, prior = softmax(logits), np.full(logits.shape[1], 1 / logits.shape[1])
    for _ in range(steps):
        R = p * prior
        prior = (R / R.sum(1, keepdims=True)).mean(0)
    return np.log(np.maximum(prior * len(prior), 1e-6))


@dataclass(frozen=True)
class SoftSpike:
    """Candidate C: every class is present with a probability, and never surely absent.

    The frequencies of present classes are flattened by a root; what may still be unseen (as many
    classes as were seen once) goes to all classes, or to those related to what was seen.
    """

    temperature: float = 1.0
    related: bool = False
    usual: float = 10.0
    """A person has about as many classes, beforehand."""
    root: float = 0.5
    width: float = 0.2
    """Of the softmax over the cosines of the last layer's rows."""
    steps: int = 60

    def __call__(self, logits: Floats, features: Floats, known: Known) -> Floats:
        n, K = logits.shape
        p = softmax(logits / self.temperature)
        rho, prior = min(self.usual / K, 0.5), np.full(K, 1 / K)
        once = np.bincount(np.bincount(logits.argmax(1)), minlength=2)[1]
        unseen = min((once + 1) / (n + 1), 1.0)
        base = np.full(K, 1 / K)
        if self.related:
            rows = known.weight - known.weight.mean(0)
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            base = p.mean(0) @ softmax(rows @ rows.T / self.width)
        for _ in range(self.steps):
            R = p * prior
            R = R / R.sum(1, keepdims=True)
            evidence = -np.log1p(-np.minimum(R, 1 - 1e-12)).sum(0)
            present = sigmoid(evidence - np.log(n) / 2 + np.log(rho / (1 - rho)))
            rho = present.mean().clip(1e-6, 1 - 1e-6)
            seen = present * (R.sum(0) + 1) ** self.root
            wanted = (1 - unseen) * seen / seen.sum() + unseen * base
            prior = (prior + wanted) / 2
        return self.temperature * np.log(prior * K)


METHODS: dict[str, Reader] = {
    "dense": dense,
    "today": Today(),
    "checked": Today(checked=True),
    "lame": lame,
    "em": em,
    "C": SoftSpike(),
    "C-related": SoftSpike(related=True),
}


def softmax(logits: Floats) -> Floats:
    """Probabilities of rows of logits."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def sigmoid(nats: Floats) -> Floats:
    """Probability of a log odds."""
    return 1 / (1 + np.exp(-np.clip(nats, -700, 700)))
