"""What the two array libraries share, and the few operations that they spell differently.

Shapes are the same everywhere: ``G`` groups, ``O`` outputs and ``D`` inputs a group, ``N`` samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Matrix = Any
"""A NumPy array (2.0 or newer) or a PyTorch tensor of floats."""

TINY = 1e-30
"""Keeps the quotients of a row that is already solved finite (0 / TINY = 0)."""

BLOCK = 512
"""Columns of a Gram matrix that are multiplied at once. How it is computed, not what comes out."""


def double(X: Matrix) -> Matrix:
    """``X`` in float64."""
    return X.astype(np.float64) if isinstance(X, np.ndarray) else X.double()


def half(X: Matrix) -> Matrix:
    """``X`` in float16."""
    return X.astype(np.float16) if isinstance(X, np.ndarray) else X.half()


def single(X: Matrix) -> bool:
    """Whether ``X`` is in float32."""
    return str(X.dtype) in ("float32", "torch.float32")


def like(X: Matrix, other: Matrix) -> Matrix:
    """``X`` in the dtype (and where ``other`` is a tensor, on the device) of ``other``."""
    return X.astype(other.dtype) if isinstance(X, np.ndarray) else X.to(other)


def cat(parts: Sequence[Matrix]) -> Matrix:
    """``parts`` ``(G, n, D)`` one behind the other, ``(G, N, D)``."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, 1)
    return _torch().cat([*parts], 1)


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
    mask = flat >= threshold
    excess = int(mask.sum()) - count
    if excess > 0:  # of those at the threshold, the last go
        equal = flat == threshold
        at = np.flatnonzero(equal) if isinstance(flat, np.ndarray) else equal.nonzero()[:, 0]
        mask[at[-excess:]] = False
    return mask.reshape(scores.shape)


def gram(X: Matrix, total: Matrix = 0, block: int = BLOCK) -> Matrix:
    """``total + X^T X`` of ``X`` ``(G, N, D)``, block by block, so that the lower triangle costs no
    product. ``total`` is added to in place where ``X`` has more than ``block`` columns."""
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


def eigh(H: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues ``(G, D)``, the smallest first, and vectors of symmetric ``H`` ``(G, D, D)``;
    found in float64, in which a singular ``H`` does not stop the search."""
    library = np if isinstance(H, np.ndarray) else _torch()
    values, vectors = library.linalg.eigh(double(H))
    return like(values, H), like(vectors, H)


def inverse_of(A: Matrix) -> Matrix:
    """That of symmetric positive matrices ``(..., D, D)``."""
    if isinstance(A, np.ndarray):
        return np.linalg.inv(A)
    torch = _torch()
    factor, failed = torch.linalg.cholesky_ex(A)
    return torch.linalg.inv(A) if bool(failed.any()) else torch.cholesky_inverse(factor)


def less_product(P: Matrix, A: Matrix, B: Matrix) -> Matrix:
    """``P - A B``, in the place of ``P``: nothing of its size is made beside it."""
    if isinstance(P, np.ndarray):
        P -= A @ B
        return P
    return P.addmm_(A, B, alpha=-1)


def orthogonal(rows: Matrix) -> Matrix:
    """Orthonormal rows that span what ``rows`` ``(G, n, D)`` do, ``n <= D``."""
    library = np if isinstance(rows, np.ndarray) else _torch()
    return library.linalg.qr(rows.mT)[0].mT


def _as(X: np.ndarray, other: Matrix) -> Matrix:
    """A NumPy array as what ``other`` is."""
    return X if isinstance(other, np.ndarray) else _torch().from_numpy(X)


def _torch() -> Any:
    import torch  # there already: the arrays are its tensors

    return torch


class LowRank:
    """``H = F^T F + diag(rest)``, ``F`` ``(G, N, D)`` of fewer rows than ``H``, never written out.

    A product takes ``2 N D`` a row instead of ``D^2``, and there is no Gram matrix to compute.
    """

    __array_ufunc__ = None  # leaves ``array @ self`` to __rmatmul__

    def __init__(self, F: Matrix, rest: Matrix | None = None) -> None:
        self.F = F
        self.rest = rest
        """``(G, D)``; None: nothing."""

    @classmethod
    def of(cls, H: Matrix) -> LowRank:
        """The same as ``H`` ``(G, D, D)``, the directions of most variance last."""
        values, V = eigh(H)
        return cls((clip_min(values, 0.0) ** 0.5)[:, :, None] * V.mT)

    def __rmatmul__(self, W: Matrix) -> Matrix:
        product = (W @ self.F.mT) @ self.F
        return product if self.rest is None else product + W * self.rest[:, None, :]

    def diagonal(self, *_: int) -> Matrix:
        """``H_dd`` ``(G, D)``."""
        squares = (self.F * self.F).sum(1)
        return squares if self.rest is None else squares + self.rest

    def dense(self) -> Matrix:
        """``H`` ``(G, D, D)``, written out."""
        H = self.F.mT @ self.F
        if self.rest is not None:
            each = [*range(H.shape[-1])]
            H[:, each, each] += self.rest
        return H

    def to(self, device: Any) -> LowRank:
        """The same on another device, where it is of tensors."""
        return LowRank(self.F.to(device), None if self.rest is None else self.rest.to(device))

    def compacted(self, rank: int) -> LowRank:
        """The same with ``rank`` rows at most, as :func:`leading` has them."""
        _, rows, D = self.F.shape
        return self if rows <= min(rank, D) else leading(self, rank)


def leading(H: Matrix, rank: int) -> LowRank:
    """``H`` with the directions of most variance alone, ``rank`` of them at most, and of what is
    left the diagonal: so the diagonal stays as it is.

    ``H`` is a matrix ``(G, D, D)`` or a :class:`LowRank`. A large one by subspace iteration, which
    is exact where what is left is small. Source: Halko, Martinsson and Tropp 2011, SIAM Rev. 53.
    """
    diagonal = H.diagonal(0, 1, 2)
    low = H if isinstance(H, LowRank) else None
    D = diagonal.shape[-1]
    rows = D if low is None else low.F.shape[1]
    if D <= EXACT:
        full = H if low is None else low.F.mT @ low.F
        F = LowRank.of(full).F[:, -rank:]
    elif rows <= EXACT and low is not None:
        _, U = eigh(low.F @ low.F.mT)
        F = U[:, :, -rank:].mT @ low.F
    else:
        plain = H if low is None else LowRank(low.F)
        start = np.random.default_rng(0).normal(size=(rank + MORE, D))
        Q = diagonal[:, None, :] * 0 + like(_as(start, diagonal), diagonal)[None]
        for _ in range(PASSES):
            Q = orthogonal(Q @ plain)
        values, U = eigh((Q @ plain) @ Q.mT)
        F = (clip_min(values, 0.0) ** 0.5)[:, :, None] * (U.mT @ Q)
        F = F[:, -rank:]
    left = clip_min(diagonal - (F * F).sum(1), 0.0)
    return LowRank(F, left)


def leading_macs(H: Matrix, rank: int) -> float:
    """Multiply-accumulates that :func:`leading` takes, without what finds eigenvalues."""
    low = isinstance(H, LowRank)
    groups, rows, D = (H.F if low else H).shape
    tried = rank + MORE
    if D <= EXACT:
        each = rows * D * D if low else 0
    elif low and rows <= EXACT:
        each = rows * rows * D + min(rank, rows) * rows * D
    else:
        product = 2 * tried * rows * D if low else tried * D * D
        each = (PASSES + 1) * product + 2 * tried * tried * D
    return float(groups * each)


EXACT, MORE, PASSES = 256, 8, 3
"""How the directions of a large covariance are found, not which."""


def written_out(H: Matrix) -> Matrix:
    """A covariance as a matrix ``(G, D, D)``, whatever its form."""
    return H.dense() if isinstance(H, LowRank) else H
