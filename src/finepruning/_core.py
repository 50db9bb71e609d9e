"""The numerical core: statistics, masks, compensation and repair on plain matrices.

It knows no network. Every function takes NumPy arrays (2.0 or newer) or PyTorch tensors alike and
uses only what the two share. Shapes: ``G`` groups, ``O`` outputs and ``D`` inputs a group, ``N``
samples. At one position ``y[g] = W[g] @ x[g] + b[g]``. ``H`` ``(G, D, D)`` is the covariance of the
inputs, ``C`` ``(G, D, O)`` their covariance with the outputs wanted; centring is what frees the
bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Matrix = Any
"""A NumPy array or a PyTorch tensor of floats."""


@dataclass(frozen=True)
class Schedule:
    """How thoroughly a layer is fitted: stages of removal, and conjugate-gradient steps between
    them."""

    stages: int
    first: int
    """Steps before the first removal; 0: weights go by what the generic ones carry."""
    each: int
    """Steps after each stage but the last."""
    last: int

    @property
    def products(self) -> int:
        """Products with ``H`` that it takes, residuals included."""
        steps = self.first + self.each * (self.stages - 1) + self.last
        return steps + self.stages + (self.first > 0)


QUICK = Schedule(stages=1, first=0, each=0, last=5)
THOROUGH = Schedule(stages=8, first=2, each=4, last=8)
"""Few steps even so: on ResNet-50, stopping early gave a lower held-out error than exact solves."""


@dataclass
class Moments:
    """Streaming first and second moments of a layer's inputs and of the outputs wanted there.

    >>> import numpy as np
    >>> m = Moments()
    >>> m.add(np.ones((1, 4, 3)), np.ones((1, 4, 2)))
    >>> m.count, m.covariances()[0].shape
    (4, (1, 3, 3))
    """

    count: int = 0
    x_first: Matrix = 0
    """Mean of the first samples added: taken off all, so that a large mean costs no digits."""
    y_first: Matrix = 0
    x: Matrix = 0
    y: Matrix = 0
    xx: Matrix = 0
    xy: Matrix = 0
    yy: Matrix = 0

    def add(self, X: Matrix, Y: Matrix) -> None:
        """Add ``N`` samples: inputs ``(G, N, D)`` and wanted outputs ``(G, N, O)``."""
        if not self.count:
            self.x_first, self.y_first = X.mean(1), Y.mean(1)
        X, Y = X - self.x_first[:, None, :], Y - self.y_first[:, None, :]
        self.count += X.shape[1]
        self.x = self.x + X.sum(1)
        self.y = self.y + Y.sum(1)
        self.xx = gram(X, self.xx)
        self.xy = self.xy + X.mT @ Y
        self.yy = self.yy + (Y * Y).sum(1)

    def macs(self) -> int:
        """Multiply-accumulates that they took."""
        groups, inputs, outputs = self.xy.shape
        return int(groups * self.count * (gram_macs(inputs) + inputs * outputs))

    def means(self) -> tuple[Matrix, Matrix]:
        """Means of inputs ``(G, D)`` and wanted outputs ``(G, O)``."""
        return self.x_first + self.x / self.count, self.y_first + self.y / self.count

    def covariances(self) -> tuple[Matrix, Matrix, Matrix]:
        """``H`` ``(G, D, D)``, ``C`` ``(G, D, O)`` and the variances ``(G, O)`` of the outputs."""
        x, y = self.x / self.count, self.y / self.count
        H = self.xx / self.count - x[:, :, None] * x[:, None, :]
        C = self.xy / self.count - x[:, :, None] * y[:, None, :]
        return H, C, clip_min(self.yy / self.count - y * y, 0.0)


class LowRank:
    """``H = F^T F + diag(ridge)`` of fewer samples than inputs, ``F`` ``(G, N, D)``, never written
    out.

    A product takes ``2 N D`` a row instead of ``D^2``, and there is no Gram matrix to compute.
    """

    __array_ufunc__ = None  # leaves ``array @ self`` to __rmatmul__

    def __init__(self, F: Matrix, ridge: Matrix = 0.0) -> None:
        self.F, self.ridge = F, ridge

    def __rmatmul__(self, W: Matrix) -> Matrix:
        product = (W @ self.F.mT) @ self.F
        return product if isinstance(self.ridge, float) else product + W * self.ridge[:, None, :]

    def diagonal(self, *_: int) -> Matrix:
        """``H_dd`` ``(G, D)``."""
        return (self.F * self.F).sum(1) + self.ridge


def ridged(H: Matrix, ridge: Matrix) -> Matrix:
    """``H + diag(ridge)``, with ``ridge`` ``(G, D)``."""
    if isinstance(H, LowRank):
        return LowRank(H.F, ridge)
    H, d = H * 1, list(range(H.shape[2]))
    H[:, d, d] += ridge
    return H


def few(X: Matrix, Y: Matrix) -> tuple[tuple[Matrix, Matrix], tuple[LowRank, Matrix, Matrix]]:
    """What :class:`Moments` gives, means and covariances, of samples that are all at hand."""
    x_mean, y_mean = X.mean(1), Y.mean(1)
    X, Y = X - x_mean[:, None, :], Y - y_mean[:, None, :]
    N = X.shape[1]
    return (x_mean, y_mean), (LowRank(X / N**0.5), X.mT @ Y / N, (Y * Y).sum(1) / N)


BLOCK = 512
"""Columns of a Gram matrix that are multiplied at once."""


def gram(X: Matrix, total: Matrix, block: int = BLOCK) -> Matrix:
    """``total + X^T X``: block by block, so that the lower triangle costs no product."""
    D = X.shape[2]
    if block >= D:
        return total + X.mT @ X
    if isinstance(total, int):
        total = X[:, :1, :].mT @ X[:, :1, :] * 0
    for i in range(0, D, block):
        for j in range(i, D, block):
            product = X[:, :, i : i + block].mT @ X[:, :, j : j + block]
            total[:, i : i + block, j : j + block] += product
            if j > i:
                total[:, j : j + block, i : i + block] += product.mT
    return total


def gram_macs(D: int, block: int = BLOCK) -> int:
    """Multiply-accumulates that :func:`gram` takes for one sample: those of its upper blocks."""
    whole, rest = divmod(D, block)
    return (D * D + whole * block * block + rest * rest) // 2


def clip_min(values: Matrix, low: float) -> Matrix:
    """``max(values, low)``, in the one spelling that both libraries share."""
    return values.clip(low, None)


def top(scores: Matrix, count: int) -> Matrix:
    """A boolean mask of the ``count`` largest ``scores``; of equal ones the first in memory
    stay."""
    flat = scores.reshape(-1)
    size = flat.shape[0]
    if count >= size:
        return scores == scores
    if count <= 0:
        return scores != scores
    if isinstance(flat, np.ndarray):
        threshold = np.partition(flat, size - count)[size - count]
    else:
        threshold = flat.kthvalue(size - count + 1).values
    above, equal = flat > threshold, flat == threshold
    missing = count - int(above.sum())
    if int(equal.sum()) > missing:
        equal &= equal.cumsum(0) <= missing
    return (above | equal).reshape(scores.shape)


def saliency(W: Matrix, second_moments: Matrix) -> Matrix:
    """Output energy that each weight carries, ``W[o, d]^2 E[x_d^2]``: Wanda's score, squared.

    ``second_moments`` is ``(G, D)``, the result ``(G, O, D)``. Source: Sun et al. 2023, arXiv
    2306.11695.
    """
    return W * W * second_moments[:, None, :]


def descend(
    W: Matrix, mask: Matrix, H: Matrix, target: Matrix, steps: int
) -> tuple[Matrix, Matrix]:
    """``steps`` of conjugate gradients on ``W H = target`` over the weights in ``mask``.

    Each row is a least-squares problem of its own, preconditioned by the diagonal; ``W`` ``(G, O,
    D)`` is where it starts, ``H`` is :func:`ridged`, ``target`` ``(G, O, D)``. Returns the weights
    and what is left of the target there. Source: Hestenes and Stiefel 1952.
    """
    inverse = 1 / H.diagonal(0, 1, 2)[:, None, :]
    W, residual = W * 1, (target - W @ H) * mask
    direction = residual * inverse
    rz = (residual * direction).sum(-1)[..., None]
    for _ in range(steps):
        image = direction @ H
        image *= mask
        step = rz / ((direction * image).sum(-1)[..., None] + TINY)
        W += step * direction  # in place: a fresh array costs as much as the arithmetic
        image *= step
        residual -= image
        z = residual * inverse
        rz, before = (residual * z).sum(-1)[..., None], rz
        direction *= rz / (before + TINY)
        direction += z
    return W, residual


TINY = 1e-30
"""Keeps the quotients of a row that is already solved finite (0 / TINY = 0)."""


def compensate(
    W: Matrix, H: Matrix, C: Matrix, keep: int, ridge: float = 0.3, schedule: Schedule = THOROUGH
) -> tuple[Matrix, Matrix, Matrix]:
    """Keep ``keep`` weights of ``W`` and refit them so that the wanted outputs come out.

    Minimises ``E|W' x - y|^2 + sum_d r_d |w'_d - w_d|^2``, ``r_d = ridge * H_dd``: the inputs ``x``
    carry the damage done upstream, ``y`` is what the dense network gave there, and the second term
    holds on to the generic weights where the person's data says little. Weights go in stages, the
    least ``w'^2 (H_dd + r_d)`` first, and those that stay are refitted after each.

    Returns the weights ``(G, O, D)``, their mask, and the variance ``(G, O)`` of their outputs.
    ``H`` is a matrix or a :class:`LowRank`. Related: Frantar and Alistarh 2023 (arXiv
    2301.00774) remove with one exact solve, Meng et al. 2024 (arXiv 2406.07831) with ADMM.
    """
    diagonal = H.diagonal(0, 1, 2)
    floor = TINY + 1e-6 * diagonal.mean(-1)[:, None]  # an input that is always zero stays solvable
    reg = ridge * diagonal + floor
    target, H = C.mT + W * reg[:, None, :], ridged(H, reg)
    size, mask = math.prod(W.shape), W == W
    stages = schedule.stages if keep < size else 0
    if schedule.first or not stages:
        W, residual = descend(W, mask, H, target, schedule.first if stages else schedule.last)
    for stage in range(1, stages + 1):
        final = stage == stages
        count = keep if final else round(size * (keep / size) ** (stage / stages))
        mask = top((saliency(W, diagonal + reg) + TINY) * mask, count)
        steps = schedule.last if final else schedule.each
        W, residual = descend(W * mask, mask, H, target, steps)
    # W H W^T without one more product: where W is not zero, W H is what the residual leaves.
    return W, mask, (W * (target - residual - W * reg[:, None, :])).sum(-1)


def gain(now: Matrix, variance: Matrix, limit: float = 3.0) -> Matrix:
    """Scale that brings outputs of variance ``now`` to the dense network's ``variance``, both ``(G,
    O)``.

    Neurons keep their firing rate (homeostasis). ``limit`` bounds it to ``[1/limit, limit]``.
    """
    ratio = (clip_min(variance, 0.0) + TINY) / (clip_min(now, 0.0) + TINY)  # 1 where both are zero
    return ratio.clip(limit**-2, limit**2) ** 0.5


def fitted_bias(W: Matrix, x_mean: Matrix, y_mean: Matrix) -> Matrix:
    """Bias ``(G, O)`` with which the mean output of ``W`` is ``y_mean``."""
    return y_mean - (W @ x_mean[..., None])[..., 0]


def unexplained(now: Matrix, covariance: Matrix, variance: Matrix) -> float:
    """Share of the wanted outputs' ``variance`` that is missed, with the bias fitted: 0 is perfect.

    ``now`` is the outputs' own variance, ``covariance`` that with the wanted ones, all ``(G, O)``.
    """
    error = variance - 2 * covariance + now
    return float(error.sum() / (variance.sum() + TINY))
