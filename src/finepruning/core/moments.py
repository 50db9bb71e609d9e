"""Moments: what many samples amount to, as values that never change.

Those of two sets of samples merge into those of both, in any order, and can be made to weigh less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from .arrays import LowRank, Matrix, cat, clip_min, double, gram, gram_macs, leading, written_out

Pair = tuple[Matrix, ...]
"""Inputs ``(G, N, D)``, the outputs wanted there ``(G, N, O)`` and, if not 1, their weight."""

PART = 2048
"""Samples that are added up together. How it is computed, not what comes out."""


@dataclass(frozen=True)
class Marginals:
    """First and second moments of some coordinates, each on its own, in float64.

    >>> import numpy as np
    >>> m = Marginals.of(np.array([[[1.0], [3.0]]]))
    >>> float(m.mean[0, 0]), float(m.variance[0, 0])
    (2.0, 1.0)
    """

    count: float
    total: Matrix
    """Sums ``(G, C)``."""
    squares: Matrix
    """Sums of squares ``(G, C)``."""

    @classmethod
    def of(cls, X: Matrix) -> Marginals:
        """Those of samples ``(G, N, C)``."""
        X = double(X)  # a mean far from zero would eat the digits of the variance
        return cls(X.shape[1], X.sum(1), (X * X).sum(1))

    def merge(self, other: Marginals) -> Marginals:
        """Those of both sets of samples."""
        return Marginals(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    def decayed(self, factor: float) -> Marginals:
        """The same with each sample counting ``factor`` times."""
        return Marginals(self.count * factor, self.total * factor, self.squares * factor)

    @property
    def mean(self) -> Matrix:
        """Means ``(G, C)``."""
        return self.total / self.count

    @property
    def energy(self) -> Matrix:
        """Second moments ``E x^2`` ``(G, C)``."""
        return self.squares / self.count

    @property
    def variance(self) -> Matrix:
        """Variances ``(G, C)``."""
        return clip_min(self.energy - self.mean**2, 0.0)


@dataclass(frozen=True)
class Gram:
    """Mean ``(G, D)`` and covariance ``H`` ``(G, D, D)`` of a layer's inputs.

    Layers that see the same inputs share one.
    """

    count: float
    mean: Matrix
    H: Matrix
    """A matrix or a :class:`~finepruning.core.arrays.LowRank`."""

    def merge(self, other: Gram) -> Gram:
        """That of both sets of samples. Source: Chan, Golub and LeVeque 1983, Am. Stat. 37."""
        n = self.count + other.count
        a, b = self.count / n, other.count / n
        apart = other.mean - self.mean
        if isinstance(self.H, LowRank) and isinstance(other.H, LowRank):
            between = apart[:, None, :] * (a * b) ** 0.5
            rests = [r * w for r, w in ((self.H.rest, a), (other.H.rest, b)) if r is not None]
            F = cat([self.H.F * a**0.5, other.H.F * b**0.5, between])
            H: Matrix = LowRank(F, sum(rests[1:], rests[0]) if rests else None)
        else:
            between = apart[:, :, None] * apart[:, None, :]
            H = written_out(self.H) * a + written_out(other.H) * b + between * (a * b)
        return Gram(n, self.mean + apart * b, H)

    @classmethod
    def few(cls, X: Matrix, weight: float = 1.0) -> Gram:
        """That of inputs ``(G, N, D)``, with ``H`` as the samples themselves."""
        n, mean = X.shape[1], X.mean(1)
        return cls(n * weight, mean, LowRank((X - mean[:, None, :]) / n**0.5))

    def decayed(self, factor: float) -> Gram:
        """The same with each sample counting ``factor`` times."""
        return replace(self, count=self.count * factor)

    def compacted(self, rank: int) -> Gram:
        """The same with a :class:`~finepruning.core.arrays.LowRank` ``H`` of ``rank`` rows at
        most."""
        H = self.H.compacted(rank) if isinstance(self.H, LowRank) else leading(self.H, rank)
        return self if H is self.H else replace(self, H=H)

    def to(self, device: Any) -> Gram:
        """The same on another device, where it is of tensors."""
        return replace(self, mean=self.mean.to(device), H=self.H.to(device))

    def marginals(self) -> Marginals:
        """Those of each input."""
        mean, variance = double(self.mean), double(self.H.diagonal(0, 1, 2))
        return Marginals(self.count, mean * self.count, (variance + mean**2) * self.count)


@dataclass(frozen=True)
class Moments:
    """First and second moments of a layer's inputs and of the outputs wanted there, paired.

    >>> import numpy as np
    >>> m = Moments.of([(np.ones((1, 4, 3)), np.ones((1, 4, 2)))])
    >>> m.count, m.H.shape, m.C.shape
    (4.0, (1, 3, 3), (1, 3, 2))
    """

    gram: Gram
    y_mean: Matrix
    """Means of the outputs wanted ``(G, O)``."""
    C: Matrix
    """Covariance ``(G, D, O)`` of inputs and outputs wanted."""
    variance: Matrix
    """Variances of the outputs wanted ``(G, O)``."""
    macs: float
    """Multiply-accumulates that they took."""

    @classmethod
    def of(cls, pairs: Iterable[Pair], gram: Gram | None = None) -> Moments:
        """Those of inputs ``(G, N, D)`` and outputs wanted ``(G, N, O)``, part by part.

        Each part is an ``(X, Y)``, or ``(X, Y, weight)``. A ``gram`` of the same inputs is not
        computed again.
        """
        sums = _Sums(gram is None)
        for X, Y, *weight in _joined(pairs):
            sums.add(X, Y, *weight)
        return sums.moments(gram)

    @classmethod
    def few(cls, pairs: Iterable[Pair]) -> Moments:
        """The same of fewer samples than inputs: ``H`` is never written out."""
        return reduce(Moments.merge, (_factored(*pair) for pair in pairs))

    @classmethod
    def linear(cls, W: Matrix, bias: Matrix, gram: Gram) -> Moments:
        """Those of inputs of which only ``gram`` is known, and of what the layer ``W`` ``(G, O,
        D)``, ``bias`` ``(G, O)`` gives for them.

        >>> import numpy as np
        >>> X, W = np.random.default_rng(0).normal(size=(1, 9, 3)), np.ones((1, 2, 3))
        >>> one = Moments.linear(W, np.ones((1, 2)), Gram.few(X))
        >>> two = Moments.few([(X, X @ W.mT + 1)])
        >>> bool(np.allclose(one.C, two.C) and np.allclose(one.variance, two.variance))
        True
        """
        WH = W @ gram.H
        y_mean = (W @ gram.mean[..., None])[..., 0] + bias
        macs = float(W.shape[0] * W.shape[1] * W.shape[2] ** 2)
        return cls(gram, y_mean, WH.mT, clip_min((WH * W).sum(-1), 0.0), macs)

    @property
    def outputs(self) -> Marginals:
        """Those of each output wanted."""
        mean, n = double(self.y_mean), self.count
        return Marginals(n, mean * n, (double(self.variance) + mean**2) * n)

    @property
    def count(self) -> float:
        """How many samples."""
        return self.gram.count

    @property
    def x_mean(self) -> Matrix:
        """Means of the inputs ``(G, D)``."""
        return self.gram.mean

    @property
    def H(self) -> Matrix:  # noqa: N802
        """Covariance of the inputs ``(G, D, D)``."""
        return self.gram.H

    def merge(self, other: Moments) -> Moments:
        """Those of both sets of samples."""
        gram = self.gram.merge(other.gram)
        a, b = self.count / gram.count, other.count / gram.count
        x, y = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        C = self.C * a + other.C * b + x[:, :, None] * y[:, None, :] * (a * b)
        variance = self.variance * a + other.variance * b + y * y * (a * b)
        return Moments(gram, self.y_mean + y * b, C, variance, self.macs + other.macs)

    def about_zero(self) -> Moments:
        """The same about zero instead of the means: what a layer without a free bias is fitted
        to."""
        x, y = self.x_mean, self.y_mean
        if isinstance(self.H, LowRank):
            H: Matrix = LowRank(cat([self.H.F, x[:, None, :]]), self.H.rest)
        else:
            H = self.H + x[:, :, None] * x[:, None, :]
        return replace(
            self,
            gram=Gram(self.count, x * 0, H),
            y_mean=y * 0,
            C=self.C + x[:, :, None] * y[:, None, :],
            variance=self.variance + y * y,
        )

    def decayed(self, factor: float) -> Moments:
        """The same with each sample counting ``factor`` times."""
        return replace(self, gram=self.gram.decayed(factor))

    def columns(self, live: Matrix) -> Moments:
        """Those of some of the inputs, ``live`` their numbers."""
        H = written_out(self.H)[:, live][:, :, live]
        gram = replace(self.gram, mean=self.gram.mean[:, live], H=H)
        return replace(self, gram=gram, C=self.C[:, live])

    def rows(self, live: Matrix) -> Moments:
        """Those of some of the outputs, ``live`` ``(O,)`` booleans."""
        return replace(
            self, y_mean=self.y_mean[:, live], C=self.C[:, :, live], variance=self.variance[:, live]
        )


class _Sums:
    """Sums over parts, which only :meth:`Moments.of` sees: they are added to in place."""

    def __init__(self, with_gram: bool) -> None:
        self.with_gram = with_gram
        self.count: float = 0
        self.n = 0
        self.xx: Matrix = 0

    def add(self, X: Matrix, Y: Matrix, weight: float = 1.0) -> None:
        if not self.n:
            # Taken off all samples, so that a large mean costs no digits.
            self.x_first, self.y_first = X.mean(1), Y.mean(1)
            self.x, self.y = X.sum(1) * 0, Y.sum(1) * 0
            self.xy, self.yy = X[:, :1, :].mT @ Y[:, :1, :] * 0, self.y * 0
        X, Y = X - self.x_first[:, None, :], Y - self.y_first[:, None, :]
        Xw, Yw = (X, Y) if weight == 1 else (X * weight, Y * weight)
        self.n += X.shape[1]
        self.count += X.shape[1] * weight
        self.x += Xw.sum(1)
        self.y += Yw.sum(1)
        self.xy += Xw.mT @ Y
        self.yy += (Yw * Y).sum(1)
        if self.with_gram:
            self.xx = gram(X if weight == 1 else X * weight**0.5, self.xx)

    def moments(self, known: Gram | None) -> Moments:
        x, y = self.x / self.count, self.y / self.count
        G, D, outputs = self.xy.shape
        macs = G * self.n * D * outputs
        if known is None:
            H = self.xx
            H /= self.count
            H -= x[:, :, None] * x[:, None, :]
            known = Gram(self.count, self.x_first + x, H)
            macs += G * self.n * gram_macs(D)
        C = self.xy
        C /= self.count
        C -= x[:, :, None] * y[:, None, :]
        variance = clip_min(self.yy / self.count - y * y, 0.0)
        return Moments(known, self.y_first + y, C, variance, float(macs))


def _joined(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The same in parts of some size: every one that is added costs as much as ``H`` is large."""
    held: list[Pair] = []
    for X, Y, *weight in pairs:
        part = (X, Y, weight[0] if weight else 1.0)
        if held and part[2] != held[0][2]:
            yield _one(held)
            held = []
        held.append(part)
        if sum(p[0].shape[1] for p in held) >= PART:
            yield _one(held)
            held = []
    if held:
        yield _one(held)


def _one(parts: list[Pair]) -> Pair:
    if len(parts) == 1:
        return parts[0]
    return cat([p[0] for p in parts]), cat([p[1] for p in parts]), parts[0][2]


def _factored(X: Matrix, Y: Matrix, weight: float = 1.0) -> Moments:
    """Moments of one part, with ``H`` as the samples themselves."""
    n, x, y = X.shape[1], X.mean(1), Y.mean(1)
    gram = Gram.few(X, weight)
    X, Y = X - x[:, None, :], Y - y[:, None, :]
    macs = float(X.shape[0] * n * X.shape[2] * Y.shape[2])
    return Moments(gram, y, X.mT @ Y / n, (Y * Y).sum(1) / n, macs)
