"""Neighbours: what a person's samples say of each other, before the last layer is fitted.

A generic network answers each sample alone. Among one person's samples those of one class lie
together in the last layer's inputs, and where neighbours agree, the odd answer out is an error: the
last layer is fitted to what the neighbourhood says. This is the Laplacian regularisation by which
LAME corrects answers to test samples (Boudiaf et al. 2022, arXiv 2201.05718), on the person's
unlabelled samples instead, so that the network learns it and later samples need no neighbours.
NumPy in float64: the same on every machine's accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .options import number

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class NeighbourOptions:
    """How far a person's samples are believed about each other."""

    weight: float = number(0.5, 0, 100)
    """What a neighbour that is sure adds, at most, to a logit that the last layer is fitted to;
    0: off, as without a read-out."""
    most: int = number(10, 1)
    """Neighbours asked at most. Fewer samples than this and one are not looked at."""
    disagree: float = number(0.8, 0, 1)
    agree: float = number(0.9, 0, 1)
    """Shares of neighbours with the same answer at which they count nothing, and in full."""
    block: int = number(512, 2)
    """Samples that are looked at together; more are dealt into several such sets, at random."""
    steps: int = number(100, 1)
    tolerance: float = number(1e-4, above=0)


DEFAULT = NeighbourOptions()


@dataclass(frozen=True)
class Agreement:
    """How far neighbours are believed."""

    neighbours: int
    """How many each sample asks."""
    same: float
    """Share of these that give the same answer, as a mean over the classes answered."""
    weight: float
    """What a neighbour that is sure adds to the logit of its class; 0: nothing is changed."""
    macs: float
    """Multiply-accumulates that it took."""


def agreed(
    logits: Floats, features: Floats, options: NeighbourOptions = DEFAULT
) -> tuple[Floats, Agreement]:
    """What the neighbours add to ``logits`` ``(n, K)``, which include the read-out's shift.

    >>> classes = np.arange(40) % 2
    >>> features = np.eye(2)[classes] + np.random.default_rng(0).random((40, 2)) / 10
    >>> logits = np.eye(2)[classes] * 4
    >>> logits[0] = [1.0, 1.2]  # the odd one out
    >>> change, found = agreed(logits, features)
    >>> int((logits + change)[0].argmax())
    0

    ``features`` ``(n, D)`` are the last layer's inputs. The affinity ``a_ij`` of two samples is the
    mean of "j is among i's nearest" and the converse, by the cosine of centred features. With the
    logits ``q``, ``z = softmax(q + w a z)`` is iterated, and the change is ``w a z``. The weight
    ``w`` rises from 0 to ``options.weight`` as the share of neighbours with the same answer rises
    from ``disagree`` to ``agree``: the mean of the shares of each class answered, since a class of
    most samples agrees by chance; of a single class all do, and neighbours stay out. Of 1 to
    ``most`` neighbours as many are asked as make ``w`` times the root of their number largest.
    """
    o, logits = options, np.asarray(logits, dtype=np.float64)
    (n, K), change = logits.shape, np.zeros_like(logits)
    if n <= o.most:
        return change, Agreement(0, 0.0, 0.0, 0.0)
    order = np.random.default_rng(0).permutation(n)
    dealt = -(-n // o.block)
    sets = [order[i::dealt] for i in range(dealt)]
    near = [_nearest(np.asarray(features[one], dtype=np.float64), o.most) for one in sets]
    answer = logits.argmax(1)
    same = np.concatenate(
        [answer[one][by] == answer[one][:, None] for one, by in zip(sets, near, strict=True)]
    )
    shares = _class_means(same.astype(np.float64), answer[np.concatenate(sets)])
    asked = np.arange(1, o.most + 1, dtype=np.float64)
    shares = shares.cumsum() / asked
    rise = max(o.agree - o.disagree, 1e-12)  # a step, where there is no room for a slope
    if len(np.unique(answer)) < 2:  # of one answer all agree, which says nothing
        shares = np.zeros_like(shares)
    weights = o.weight * ((shares - o.disagree) / rise).clip(0, 1)
    score = weights * np.sqrt(asked) if weights.any() else shares
    count = int(score.argmax()) + 1
    weight = float(weights[count - 1])
    macs = float(sum(len(one) ** 2 for one in sets) * features.shape[1])
    if weight == 0:
        return change, Agreement(count, float(shares[count - 1]), weight, macs)
    for one, by in zip(sets, near, strict=True):
        a = np.zeros((len(one), len(one)))
        np.put_along_axis(a, by[:, :count], weight / 2, axis=1)
        change[one], steps = _settled(logits[one], a + a.T, o)
        macs += len(one) ** 2 * K * steps
    return change, Agreement(count, float(shares[count - 1]), weight, macs)


def _nearest(features: Floats, most: int) -> Numbers:
    """Numbers ``(n, most)`` of each sample's nearest, the first first; of equal ones the
    earlier."""
    f = features - features.mean(0)
    f /= np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12)
    cosine = f @ f.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :most]


def _class_means(values: Floats, answer: Numbers) -> Floats:
    """Means of the columns of ``values`` ``(n, k)`` over each class answered, averaged."""
    count = np.bincount(answer)
    return np.asarray((values / count[answer, None]).sum(0) / (count > 0).sum())


def _settled(q: Floats, a: Floats, o: NeighbourOptions) -> tuple[Floats, int]:
    """``a z`` where ``z = softmax(q + a z)`` has settled, and the products that it took."""
    z, moved, steps = _softmax(q), np.inf, 0
    message = np.zeros_like(z)
    while moved >= o.tolerance and steps < o.steps:
        message, before, steps = a @ z, z, steps + 1
        z = _softmax(q + message)
        moved = float(np.abs(z - before).max())
    return message, steps


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))
