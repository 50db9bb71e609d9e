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
"""Fewer samples than this and one are not looked at."""
DISAGREE, AGREE = 0.8, 0.9
"""Shares of neighbours with the same answer at which they count nothing, and in full."""
BLOCK = 512
"""Samples that are looked at together; more are dealt into several such sets, at random."""
STEPS, TOLERANCE = 100, 1e-4


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


def agreed(logits: Tensor, features: Tensor, most: float) -> tuple[Tensor, Agreement]:
    """What the neighbours add to ``logits`` ``(n, K)``, which include the read-out's shift.

    >>> classes = torch.arange(40) % 2
    >>> features = F.one_hot(classes).double() + torch.rand(40, 2) / 10
    >>> logits = F.one_hot(classes).double() * 4
    >>> logits[0] = torch.tensor([1.0, 1.2])  # the odd one out
    >>> change, found = agreed(logits, features, most=1.0)
    >>> int((logits + change)[0].argmax())
    0

    ``features`` ``(n, D)`` are the last layer's inputs. The affinity ``a_ij`` of two samples is the
    mean of "j is among i's nearest" and the converse, by the cosine of centred features. With the
    logits ``q``, ``z = softmax(q + w a z)`` is iterated, and the change is ``w a z``. The weight
    ``w`` rises from 0 to ``most`` as the share of neighbours with the same answer rises from 0.8 to
    0.9: the mean of the shares of each class answered, since a class of most samples agrees by
    chance. Of 1 to 10 neighbours as many are asked as make ``w`` times the root of their number
    largest. In float64, but for the change, which has the dtype of ``logits``.
    """
    (n, K), change = logits.shape, torch.zeros_like(logits)
    if n <= MOST_NEIGHBOURS:
        return change, Agreement(0, 0.0, 0.0, 0.0)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(logits.device)
    dealt = -(-n // BLOCK)
    sets = [order[i::dealt] for i in range(dealt)]
    near = [_nearest(features[one].double()) for one in sets]
    answer = logits.argmax(1)
    same = torch.cat(
        [answer[one][by] == answer[one][:, None] for one, by in zip(sets, near, strict=True)]
    )
    shares = _class_means(same.double(), answer[torch.cat(sets)])
    asked = torch.arange(1, MOST_NEIGHBOURS + 1).to(shares)
    shares = shares.cumsum(0) / asked
    weights = most * ((shares - DISAGREE) / (AGREE - DISAGREE)).clip(0, 1)
    score = weights * asked.sqrt() if bool(weights.any()) else shares
    count = int(score.argmax()) + 1
    weight = float(weights[count - 1])
    macs = sum(len(one) ** 2 for one in sets) * features.shape[1]
    if weight == 0:
        return change, Agreement(count, float(shares[count - 1]), weight, macs)
    for one, by in zip(sets, near, strict=True):
        a = torch.zeros(len(one), len(one)).to(shares).scatter_(1, by[:, :count], weight / 2)
        message, steps = _settled(logits[one].double(), a + a.mT)
        change[one] = message.to(change.dtype)
        macs += len(one) ** 2 * K * steps
    return change, Agreement(count, float(shares[count - 1]), weight, macs)


def _nearest(features: Tensor) -> Tensor:
    """Numbers ``(n, 10)`` of each sample's nearest, the first first; of equal ones the earlier."""
    f = F.normalize(features - features.mean(0), dim=1)
    order = (f @ f.mT).fill_diagonal_(-torch.inf).sort(dim=1, descending=True, stable=True).indices
    return order[:, :MOST_NEIGHBOURS]


def _class_means(values: Tensor, answer: Tensor) -> Tensor:
    """Means of the columns of ``values`` ``(n, k)`` over each class answered, averaged."""
    count = answer.bincount()
    return (values / count[answer, None]).sum(0) / (count > 0).sum()


def _settled(q: Tensor, a: Tensor) -> tuple[Tensor, int]:
    """``a z`` where ``z = softmax(q + a z)`` has settled, and the products that it took."""
    z, moved, steps = q.softmax(1), torch.inf, 0
    message = torch.zeros_like(z)
    while moved >= TOLERANCE and steps < STEPS:
        message, before, steps = a @ z, z, steps + 1
        z = (q + message).softmax(1)
        moved = float((z - before).abs().max())
    return message, steps
