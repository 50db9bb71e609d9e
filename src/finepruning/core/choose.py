"""Choose: which sparsity, from how the answers change along a path of them.

Of each sparsity, samples held back from the fit say which share of the answers differs from those
of the dense network with its read-out. Few samples say it vaguely: what counts is how many it may
be, at most. NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .options import number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChoiceOptions:
    """How ``sparsity="auto"`` chooses."""

    tolerance: float = number(0.12, 0, 1)
    """Share of the answers that may change, beside the dense network with its read-out: of 100, so
    many."""
    share: float = number(0.25, 0, 0.5)
    most: int = number(64, 1)
    """Samples held back, and at most so many. The final fit takes them in again."""
    fewest: int = number(4, 1)
    """Of fewer samples held back nothing is believed."""
    thin: int = number(4, 1, 1000)
    """What is tried is fitted at one of so many of the positions."""
    sure: float = number(1.645, 0)
    """Standard errors, over the samples, that are added to what is measured: 1.645 is 95 % sure."""
    unseen: float = number(1.0, 0)
    """Answers more than that which may have changed, since n samples do not show what comes up
    less often."""


DEFAULT = ChoiceOptions()


def changes(by_rank: float, error: float, flipped: NDArray[np.bool_]) -> tuple[float, float]:
    """Share of the answers that change, and its standard error: the mean of what the errors of the
    samples held back would change on all samples, ``by_rank`` with its ``error``, which is precise,
    and of which of their own answers have ``flipped`` ``(m,)``, which is unbiased.

    >>> changes(0.02, 0.0, np.array([False, False, False, False]))
    (0.01, 0.0)
    """
    counted = float(flipped.mean())
    spread = (counted * (1 - counted) / max(len(flipped) - 1, 1)) ** 0.5
    return (by_rank + counted) / 2, float(np.hypot(error, spread)) / 2


def at_most(changed: float, error: float, n: int, options: ChoiceOptions = DEFAULT) -> float:
    """Which share of the answers may change, when ``changed`` is measured on ``n`` samples, give or
    take ``error``.

    >>> round(at_most(0.02, 0.005, 100), 4)
    0.0382
    """
    return changed + options.sure * error + options.unseen / max(n, 1)


def differences(wanted: Floats, found: Floats, task: str) -> Floats:
    """How far the outputs ``(m, ...)`` of each of ``m`` samples differ, from 0: not at all.

    ``labels``: of those that either gives, the share that the other does not. ``tokens``: the share
    of positions at which another one is likeliest. Otherwise the squared distance, in units of the
    mean variance of what was wanted.

    >>> differences(np.array([[1.0, -1.0]]), np.array([[1.0, 1.0]]), "labels").tolist()
    [0.5]
    """
    rows = len(wanted)
    if task == "tokens" and wanted.ndim > 2:
        return np.asarray((wanted.argmax(-1) != found.argmax(-1)).reshape(rows, -1).mean(1))
    wanted, found = wanted.reshape(rows, -1), found.reshape(rows, -1)
    if task == "labels":
        one, two = wanted > 0, found > 0
        return np.asarray((one != two).sum(1) / np.maximum((one | two).sum(1), 1))
    spread = (wanted - wanted.mean(0)) ** 2
    if wanted.shape[1] > rows:  # positions: each sample's own spread over them
        spread = (wanted - wanted.mean(1, keepdims=True)) ** 2
    return np.asarray(((found - wanted) ** 2).sum(1) / max(spread.sum(1).mean(), 1e-300))


def largest(sparsities: Sequence[float], passed: Sequence[bool]) -> float | None:
    """The largest sparsity up to which all have passed; None: the first has not.

    >>> largest([0.2, 0.3, 0.4], [True, True, False]), largest([0.2, 0.3], [False, True])
    (0.3, None)
    """
    count = [*passed, False].index(False)
    return sparsities[count - 1] if count else None
