"""Neighbours: what a person's samples say of each other, before the last layer is fitted.

A generic network answers each sample alone. Among one person's samples those of one class lie
together in the last layer's inputs, and where neighbours agree, the odd answer out is an error: the
last layer is fitted to what the neighbourhood says. This is the Laplacian regularisation by which
LAME corrects answers to test samples (Boudiaf et al. 2022, arXiv 2201.05718), on the person's
unlabelled samples instead, so that the network learns it and later samples need no neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_NEIGHBOURS = 10
DISAGREE, AGREE = 0.8, 0.9
"""Shares of neighbours with the same answer at which they count nothing, and in full."""
BLOCK = 1024
"""Samples that are looked at together; more are dealt into several such sets."""
STEPS, TOLERANCE = 100, 1e-6


@dataclass(frozen=True)
class Agreement:
    """What :func:`agreed` found."""

    change: Tensor
    """To be added to the logits wanted, ``(n, K)``."""
    neighbours: int = 0
    """How many each sample asks, in the first set of samples; 0: they are not believed."""
    same: float = 0.0
    """Share of these that give the same answer."""
    weight: float = 0.0
    """What a neighbour that is sure adds to the logit of its class."""
    macs: float = 0.0
    """Multiply-accumulates that it took."""


def agreed(logits: Tensor, features: Tensor, most: float) -> Agreement:
    """What the neighbours change of ``logits`` ``(n, K)``, which include the read-out's shift.

    >>> classes = torch.arange(40) % 2
    >>> features = F.one_hot(classes).double() + torch.rand(40, 2) / 10
    >>> logits = F.one_hot(classes).double() * 4
    >>> logits[0] = torch.tensor([1.0, 1.2])  # the odd one out
    >>> found = agreed(logits, features, most=1.0)
    >>> int((logits + found.change)[0].argmax())
    0

    ``features`` ``(n, D)`` are the last layer's inputs. The affinity ``a_ij`` of two samples is the
    mean of "j is among i's nearest" and the converse, by the cosine of centred features. With the
    logits ``q``, ``z = softmax(q + w a z)`` is iterated, and the change is ``w a z``. The weight
    ``w`` rises from 0 to ``most`` as the share of neighbours with the same answer rises from 0.8 to
    0.9; of 1 to 10 neighbours as many are asked as make ``w`` times the root of their number
    largest. All in float64.
    """
    logits, features = logits.double(), features.double()
    sets = -(-len(logits) // BLOCK)
    found = [_agreed(logits[i::sets], features[i::sets], most) for i in range(sets)]
    change = torch.empty_like(logits)
    for i, part in enumerate(found):
        change[i::sets] = part.change
    first = found[0]
    macs = sum(part.macs for part in found)
    return Agreement(change, first.neighbours, first.same, first.weight, macs)


def _agreed(logits: Tensor, features: Tensor, most: float) -> Agreement:
    (n, K), D = logits.shape, features.shape[1]
    near, answer = _nearest(features), logits.argmax(1)
    asked = torch.arange(1, near.shape[1] + 1).to(logits)
    same = (answer[near] == answer[:, None]).double().mean(0).cumsum(0) / asked
    weights = most * ((same - DISAGREE) / (AGREE - DISAGREE)).clip(0, 1)
    if not len(weights) or not bool(weights.any()):
        return Agreement(torch.zeros_like(logits), macs=n * n * D)
    best = int((weights * asked.sqrt()).argmax())
    weight = float(weights[best])
    a = torch.zeros(n, n).to(logits).scatter_(1, near[:, : best + 1], weight / 2)
    a += a.mT.clone()
    z, message, macs = logits.softmax(1), logits, n * n * D
    for _ in range(STEPS):
        message, before = a @ z, z
        z, macs = (logits + message).softmax(1), macs + n * n * K
        if float((z - before).abs().max()) < TOLERANCE:
            break
    return Agreement(message, best + 1, float(same[best]), weight, macs)


def _nearest(features: Tensor) -> Tensor:
    """Numbers ``(n, k)`` of each sample's nearest, the first first; of equal ones the earlier."""
    f = F.normalize(features - features.mean(0), dim=1)
    order = (f @ f.mT).fill_diagonal_(-torch.inf).sort(dim=1, descending=True, stable=True).indices
    return order[:, : min(MOST_NEIGHBOURS, len(f) - 1)]
