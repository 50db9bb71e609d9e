"""What a weight carries, gains of outputs and of inputs, and what a fit misses."""

from __future__ import annotations

from .arrays import TINY, Matrix, clip_min


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


def unexplained(now: Matrix, covariance: Matrix, wanted: Matrix, variance: Matrix) -> float:
    """Share of the wanted outputs' ``variance`` that is missed: 0 is perfect.

    ``now`` and ``wanted`` are the outputs' own and the wanted ones' second moments, ``covariance``
    the mixed one, all ``(G, O)``: about the means, where the bias is fitted, or about zero.
    """
    error = wanted - 2 * covariance + now
    return float(error.sum() / (variance.sum() + TINY))


def of_inputs(A: Matrix, H: Matrix, C: Matrix, c: Matrix, ridge: float, steps: int) -> Matrix:
    """Gains ``(G, 1, D)`` of the inputs of ``A``, from ``c`` on: conjugate gradients on ``(H * A^T
    A) c = diag(A^T C^T)``, of which the matrix is not written out."""
    own = ((A * A).sum(1) * H.diagonal(0, 1, 2))[:, None, :]  # its diagonal
    reg, inverse = ridge * own, 1 / ((1 + ridge) * own + TINY)
    target = (A * C.mT).sum(1)[:, None, :] + reg

    def image(v: Matrix) -> Matrix:
        return (A * ((A * v) @ H)).sum(1)[:, None, :] + reg * v

    residual = target - image(c)
    direction = residual * inverse
    rz = (residual * direction).sum(-1)[..., None]
    for _ in range(steps):
        seen = image(direction)
        step = rz / ((direction * seen).sum(-1)[..., None] + TINY)
        c = c + step * direction
        residual = residual - step * seen
        z = residual * inverse
        rz, before = (residual * z).sum(-1)[..., None], rz
        direction = direction * (rz / (before + TINY)) + z
    return c


def saliency(W: Matrix, second_moments: Matrix) -> Matrix:
    """Output energy that each weight carries, ``W[o, d]^2 E[x_d^2]``: Wanda's score, squared.

    ``second_moments`` is ``(G, D)``, the result ``(G, O, D)``. Source: Sun et al. 2023, arXiv
    2306.11695.
    """
    return W * W * second_moments[:, None, :]
