"""Check: is the finished network worth having for this person, as far as can be told unlabelled?

Some samples were held back from the fit. By how much the finished network's outputs differ there
from what was wanted, the likeliest class's, the second's and so on, says what to expect of any
sample: each of these errors is laid on each of the person's samples, rank by rank, and the answers
that come of it are judged by what the dense network and the read-out believe. So few held-back
samples say much; and where neighbours have made the network surer, that is no error. NumPy in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .options import flag, number
from .readout import Readout

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CheckOptions:
    """When the dense weights are returned instead of personal ones."""

    enabled: bool = flag(True)
    share: float = number(0.125, 0, 0.5)
    most: int = number(16, 1)
    """Samples held back from the fit, and at most so many."""
    margin: float = number(0.01, -1, 1)
    """Accuracy that must be expected to be gained, as a share of the samples: what is expected is
    not quite what comes."""
    recall: float = number(0.2, 0, 1)
    """Share of a class's expected recall that may be lost,"""
    recognised: float = number(0.5, 0, 1)
    samples: float = number(2.0, 0)
    """where more than so much recall was expected, and so many samples are believed to be its."""
    belief: int = number(2048, 1)
    """Samples, evenly spaced, on which answers are judged."""


DEFAULT = CheckOptions()


@dataclass(frozen=True)
class Expected:
    """What is to be expected of the finished network, beside the dense one."""

    gain: float
    """Of accuracy, as a share of the samples."""
    recall: float
    """Of what the dense network is believed to name right of a class, the share that stays, for the
    class that loses most; 1 where no class is recognised."""
    worst: int
    """Which class that is; -1 for none."""


def expected(
    dense: Floats, answer: Readout, errors: Floats, options: CheckOptions = DEFAULT
) -> Expected:
    """What to expect of a network whose outputs differ by ``errors`` ``(m, K)`` from those wanted,
    ``dense`` logits ``(n, K)`` and the read-out's shift; see :func:`by_rank`.

    >>> from finepruning.core.readout import read_out
    >>> dense = 4 * np.eye(3)[np.arange(30) % 3]
    >>> answer = read_out(dense)
    >>> expected(dense, answer, np.zeros((2, 3))).gain
    0.0
    >>> expected(dense, answer, np.array([[-9.0, 0.0, 0.0]])).gain < -0.5
    True
    """
    if len(dense) > options.belief:
        dense = dense[np.linspace(0, len(dense) - 1, options.belief).round().astype(int)]
    wanted = dense + answer.shift
    belief = _softmax(wanted / max(answer.temperature, 1.0))
    K, rows = belief.shape[1], np.arange(len(belief))
    mass = belief.sum(0)

    def judged(said: NDArray[np.int64]) -> tuple[float, Floats]:
        """Accuracy and recalls ``(K,)`` of the answers ``said`` ``(n,)``."""
        right = belief[rows, said]
        return float(right.mean()), np.bincount(said, right, K) / np.maximum(mass, 1e-12)

    before, recall = judged(dense.argmax(1))
    order = np.argsort(-wanted, axis=1, kind="stable")
    ranked = np.take_along_axis(wanted, order, 1)
    after = [judged(order[rows, (ranked + error).argmax(1)]) for error in errors]
    gain = float(np.mean([accuracy for accuracy, _ in after])) - before
    counts = (recall > options.recognised) & (mass >= options.samples)
    if not counts.any():
        return Expected(gain, 1.0, -1)
    stays = np.where(counts, np.mean([r for _, r in after], 0) / np.maximum(recall, 1e-12), np.inf)
    worst = int(stays.argmin())
    return Expected(gain, float(min(stays[worst], 1.0)), worst)


def by_rank(wanted: Floats, found: Floats) -> Floats:
    """``found`` less ``wanted`` ``(m, K)``, in the order of what was wanted, the highest first.

    >>> by_rank(np.array([[1.0, 5.0]]), np.array([[1.5, 5.0]])).tolist()
    [[0.0, 0.5]]
    """
    order = np.argsort(-wanted, axis=1, kind="stable")
    return np.take_along_axis(found - wanted, order, 1)


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))
