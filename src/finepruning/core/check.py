"""Check: is the finished network worth having for this person, as far as can be told unlabelled?

Some samples were held back from the fit. By how much the finished network's outputs differ there
from what was wanted, the likeliest class's, the second's and so on, says what to expect of any
sample: each of these errors is laid on each of the person's samples, rank by rank, and the answers
that come of it are judged by what the dense network and the read-out believe. So few held-back
samples say much; and where neighbours have made the network surer, that is no error. NumPy in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    sure: float = number(1.645, 0)
    """Standard errors, over the samples, by which it must be above nothing: 1.645 is 95 % sure, and
    takes three samples at least that are answered better."""
    recall: float = number(0.35, 0, 1)
    """Share of a class's expected recall that may be lost (less is, on the panel: what is expected
    is on the safe side),"""
    recognised: float = number(0.5, 0, 1)
    samples: float = number(2.0, 0)
    """where more than so much recall was expected, so many samples are believed to be its, and its
    answers are believed by more than ``recognised`` or its loss is more than ``margin`` of all
    samples."""
    belief: int = number(2048, 1)
    """Samples, evenly spaced, on which answers are judged."""


DEFAULT = CheckOptions()


@dataclass(frozen=True)
class Expected:
    """What is to be expected of the finished network, beside the dense one."""

    gain: float
    """Of accuracy, as a share of the samples."""
    error: float
    """Standard error of that, over the samples."""
    recall: float
    """Of what the dense network is believed to name right of a class, the share that stays, for the
    class that loses most; 1 where no recognised class loses what counts."""
    worst: int
    """Which class that is; -1 for none."""
    changed: float = 0.0
    """Share of the answers that differ from those wanted,"""
    changed_error: float = 0.0
    """and its standard error, over the samples and over those held back."""


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

    def judged(said: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """How far the answers ``said`` are believed, ``(n,)``, and right ones of each class."""
        right = belief[rows, said]
        return right, np.bincount(said, right, K).astype(np.float64)

    before, named = judged(dense.argmax(1))
    order = np.argsort(-wanted, axis=1, kind="stable")
    ranked = np.take_along_axis(wanted, order, 1)
    place = np.stack([(ranked + error).argmax(1) for error in errors])
    after = [judged(order[rows, of]) for of in place]
    changed, changed_error = _mean(place != 0)
    gains = np.mean([right for right, _ in after], 0) - before
    gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
    kept = np.mean([of for _, of in after], 0)
    counts = (named > options.recognised * mass) & (mass >= options.samples)
    # What loses less than all are to gain may be a look-alike, which is believed by half at most
    # where it is answered; or a rare class.
    rare = named > options.recognised * np.bincount(dense.argmax(1), minlength=K)
    counts &= rare | (named - kept > max(options.margin, 0.0) * len(dense))
    if not counts.any():
        return Expected(gain, error, 1.0, -1, changed, changed_error)
    stays = np.where(counts, kept / np.maximum(named, 1e-12), np.inf)
    worst = int(stays.argmin())
    stay = float(min(stays[worst], 1.0))
    return Expected(gain, error, stay, worst, changed, changed_error)


def _mean(found: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean of ``found`` ``(m, n)``, and its standard error over both."""
    over = [found.mean(1), found.mean(0)]
    error = float(np.sqrt(sum(v.var() / max(len(v) - 1, 1) for v in over)))
    return float(found.mean()), error


def against(e: Expected, options: CheckOptions = DEFAULT) -> str:
    """Why a network of which so much is expected is not worth having; empty: it is.

    >>> against(Expected(gain=0.002, error=0.0, recall=1.0, worst=-1))
    'accuracy is expected to change by +0.2%'
    """
    if e.gain < options.margin:
        by = f"{e.gain:+.1%}"
        if by.strip("+-") == "0.0%":
            by = "nothing, and more answers than that by chance"
        return f"accuracy is expected to change by {by}"
    if e.gain < options.sure * e.error:
        return (
            f"too few samples show it: accuracy is expected to change by {e.gain:+.1%}, give or"
            f" take {options.sure * e.error:.1%}"
        )
    if e.recall < 1 - options.recall:
        return f"{1 - e.recall:.0%} of what it names right of class {e.worst} would be lost"
    return ""


def sparing(dense: Floats, answer: Readout, options: CheckOptions = DEFAULT) -> Readout | None:
    """The read-out, where it is worth having on the dense network of ``dense`` logits ``(n, K)``;
    else with those classes left as they were that would be lost, where of that it is twice as sure;
    else None.

    >>> from finepruning.core.readout import read_out
    >>> dense = 4 * np.eye(3)[np.arange(30) % 3]
    >>> sparing(dense, read_out(dense)) is None  # nothing is to be gained
    True
    """
    nothing = np.zeros_like(dense[:1])
    for spared in range(dense.shape[1]):
        e = expected(dense, answer, nothing, options)
        if e.gain < options.margin or e.gain < (1 + (spared > 0)) * options.sure * e.error:
            return None
        if e.recall >= 1 - options.recall:
            return answer
        shift = answer.shift.copy()
        shift[e.worst] = 0.0
        classes = len(np.unique((dense + shift).argmax(1)))
        answer = replace(answer, shift=shift, classes=classes)
    return None


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
