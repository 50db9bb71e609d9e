"""Channels: which whole inputs of layers can go, what that costs, and how a budget is spent on it.

A channel is read by a block of columns in each of its readers. Blocks are eliminated one after the
other, and the columns that stay are refitted each time, in closed form: with ``P`` the inverse of
the inputs' covariance, removing the columns ``S`` of ``W`` misses ``tr W_S P_SS^-1 W_S^T`` of what
the layer gave. Source: Hassibi and Stork 1993 (*Optimal Brain Surgeon*), by blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from .arrays import TINY, LowRank, Matrix, double, inverse_of, less_product, like
from .evidence import Evidence
from .fit import FitOptions, Solution
from .gains import fitted_bias, gain, unexplained
from .moments import Gram, Moments, Pair
from .options import choice, number


@dataclass(frozen=True)
class ChannelOptions:
    """How whole channels are chosen."""

    rule: str = choice("elimination", "magnitude")
    """By what channels are chosen: block elimination; or the weights that write and read them, the
    same share of every group, as libraries do (Torch-Pruning's group magnitude)."""
    hold: float = number(0.01, above=0)
    """How strongly weights hold on to the generic ones meanwhile, in variances of their inputs."""
    at_once: int = number(12, 2)
    """One of so many of the channels that are left goes at a time."""
    steps: int = number(32, 2)
    """Parts of each group that the budget is spent in."""
    least: float = number(0.05, 0, 1)
    """Share of each group's channels that stays."""
    multiple: int = number(8, 1)
    """So many channels, or a multiple of it, stay where a group is much larger: processors compute
    so many at once."""


DEFAULT = ChannelOptions()


@dataclass(frozen=True)
class Path:
    """The channels of a group in the order in which they go."""

    order: np.ndarray
    """Numbers of the channels ``(C,)``, the first to go first."""
    missed: np.ndarray
    """Share of the readers' output variance that is missed once so many are gone, ``(C + 1,)``:
    the sum over readers."""
    macs: float = 0.0
    """Multiply-accumulates that finding it took."""

    def kept(self, count: int) -> np.ndarray:
        """Booleans ``(C,)``: the ``count`` that go last."""
        stays = np.zeros(len(self.order), dtype=bool)
        stays[self.order[len(self.order) - count :]] = True
        return stays


@dataclass(frozen=True)
class Reader:
    """What a layer makes of a group's channels."""

    H: Matrix | LowRank
    """Covariance of its inputs ``(D, D)``; or, where samples are far fewer, a low-rank one ``(1, D,
    D)``, which is not written out."""
    W: Matrix
    """``(O, D)``."""
    variance: float
    """Of its outputs, summed."""
    columns: np.ndarray
    """Columns of each channel ``(C, n)``. Others stay, and are refitted too."""


def eliminate(readers: Sequence[Reader], options: ChannelOptions = DEFAULT) -> Path:
    """The path of one group.

    >>> X = np.random.default_rng(0).normal(size=(500, 3)) * [3, 1, 2]
    >>> one = Reader(X.T @ X / 500, np.ones((1, 3)), 14.0, np.array([[0], [1], [2]]))
    >>> [int(c) for c in eliminate([one]).order]
    [1, 2, 0]
    """
    parts = [
        (_OfFewSamples if isinstance(reader.H, LowRank) else _Elimination)(reader, options.hold)
        for reader in readers
    ]
    alive = np.arange(len(readers[0].columns))
    order: list[int] = []
    missed = [0.0]
    while len(alive):
        score = sum(part.scores() for part in parts)
        count = max(1, len(alive) // options.at_once)
        goes = np.argsort(score, kind="stable")[:count]
        for part in parts:
            part.remove(goes)
        total = sum(part.missed for part in parts)
        order += alive[goes].tolist()
        before = missed[-1]
        missed += [before + (total - before) * (i + 1) / count for i in range(count)]
        alive = np.delete(alive, goes)
    macs = sum(part.macs for part in parts)
    return Path(np.array(order), np.array(missed), macs)


def by_magnitude(norms: np.ndarray) -> Path:
    """The path by the norms ``(C,)`` of the weights of each channel, the smallest first.

    >>> by_magnitude(np.array([3.0, 1, 2])).order.tolist()
    [1, 2, 0]
    """
    return Path(np.argsort(norms, kind="stable"), np.linspace(0, 1, len(norms) + 1))


class _Elimination:
    """What is left of one reader, as channels go."""

    def __init__(self, reader: Reader, hold: float) -> None:
        H: Matrix = reader.H
        each = np.arange(H.shape[0])
        diagonal = H.diagonal()
        A = H * 1
        A[each, each] += hold * (diagonal + 0.01 * diagonal.mean()) + TINY
        self.P = inverse_of(A)
        self.W, self.total, self.missed = reader.W, reader.variance + TINY, 0.0
        self.columns = reader.columns
        self.gone = np.zeros(len(each), dtype=bool)
        self.macs = float(len(each) ** 3)

    def scores(self) -> np.ndarray:
        """What each channel's removal alone would miss more ``(C,)``."""
        flat = self.columns.reshape(-1)
        channels, n = self.columns.shape
        P = self.P[self.columns[:, :, None], self.columns[:, None, :]]
        W = self.W[:, flat].reshape(-1, channels, n).swapaxes(0, 1)  # (C, O, n)
        found = double(((W @ inverse_of(P)) * W).sum((1, 2))) / self.total
        return np.asarray(found)

    def remove(self, goes: np.ndarray) -> None:
        """Remove some of the channels that are left, by their place among these."""
        S = self.columns[goes].reshape(-1)
        across = self.P[S]
        inverse = inverse_of(across[:, S])
        W = self.W[:, S] @ inverse
        self.missed += float(double(W * self.W[:, S]).sum()) / self.total
        size = self.P.shape[0]
        self.macs += float(len(S) * size * (size + self.W.shape[0]))
        self.W = self.W - W @ across
        # Rows and columns of S are zero from now on.
        self.P = less_product(self.P, across.T, inverse @ across)
        self.columns = np.delete(self.columns, goes, 0)
        self.gone[S] = True
        if self.gone.mean() > COMPACT:  # a copy each time would take longer than the arithmetic
            stays = np.flatnonzero(~self.gone)
            self.P, self.W = self.P[stays][:, stays], self.W[:, stays]
            self.columns = (np.cumsum(~self.gone) - 1)[self.columns]
            self.gone = self.gone[stays]


class _OfFewSamples:
    """The same where ``H = F^T F`` of far fewer rows than columns: what stays is fitted anew each
    time, by Woodbury's identity, which takes a product with ``F`` instead of one with ``H``."""

    def __init__(self, reader: Reader, hold: float) -> None:
        assert isinstance(reader.H, LowRank)
        diagonal = reader.H.diagonal()[0]
        self.F = reader.H.F[0]
        held = hold * (diagonal + 0.01 * diagonal.mean()) + TINY
        self.inverse = 1 / (held if reader.H.rest is None else held + reader.H.rest[0])
        self.wanted = (reader.W @ self.F.T) @ self.F + reader.W / self.inverse  # W A
        self.whole = float(double(self.wanted * reader.W).sum())
        self.W, self.total, self.missed = reader.W, reader.variance + TINY, 0.0
        self.columns = reader.columns
        self.stays = np.ones(len(diagonal), dtype=bool)
        self.macs = 0.0
        self._fit()

    def _fit(self) -> None:
        stays = np.flatnonzero(self.stays)
        F, d = self.F[:, stays], self.inverse[stays]
        self.E = F * d
        small = F @ self.E.T
        each = np.arange(len(small))
        small[each, each] += 1
        self.M = inverse_of(small)
        self.places = (np.cumsum(self.stays) - 1)[self.columns]
        wanted = self.wanted[:, stays]
        self.W = wanted * d - ((wanted @ self.E.T) @ self.M) @ self.E
        self.missed = (self.whole - float(double(self.W * wanted).sum())) / self.total
        self.macs += float(self.W.shape[0] * len(stays) * 2 * len(small))

    def scores(self) -> np.ndarray:
        channels, n = self.columns.shape
        E = self.E[:, self.places.reshape(-1)].reshape(-1, channels, n).swapaxes(0, 1)  # (C, N, n)
        P = -E.swapaxes(1, 2) @ (self.M @ E)
        each = np.arange(n)
        P[:, each, each] += self.inverse[self.columns.reshape(-1)].reshape(channels, n)
        W = self.W[:, self.places.reshape(-1)].reshape(-1, channels, n).swapaxes(0, 1)
        return np.asarray(double(((W @ inverse_of(P)) * W).sum((1, 2))) / self.total)

    def remove(self, goes: np.ndarray) -> None:
        self.stays[self.columns[goes].reshape(-1)] = False
        self.columns = np.delete(self.columns, goes, 0)
        self._fit()


COMPACT = 0.25
"""Share of columns that are gone before they are left out. How it is computed, not what it is."""


Cost = Callable[[Mapping[str, int]], float]
"""What a network costs with so many channels in each group."""


def spend(
    paths: Mapping[str, Path], cost: Cost, target: float, options: ChannelOptions = DEFAULT
) -> dict[str, int]:
    """How many channels each group keeps, so that ``cost`` is ``target`` at most: step by step, the
    one that misses least for what it saves. Where no group can give more, it costs more.

    >>> easy, hard = Path(np.arange(4), np.arange(5.0)), Path(np.arange(4), 9 * np.arange(5.0))
    >>> spend({"easy": easy, "hard": hard}, lambda kept: sum(kept.values()), 6)
    {'easy': 2, 'hard': 4}
    """
    sizes = {name: len(path.order) for name, path in paths.items()}
    kept, now = dict(sizes), cost(sizes)
    while now > target:
        best: tuple[float, str, int, float] | None = None
        for name, size in sizes.items():
            unit = options.multiple if size >= LARGE * options.multiple else 1
            fewer = (kept[name] - max(1, size // options.steps)) // unit * unit
            if fewer < max(1, options.least * size):
                continue
            after = cost({**kept, name: fewer})
            if after >= now:
                continue
            missed = paths[name].missed
            ratio = (missed[size - fewer] - missed[size - kept[name]]) / (now - after)
            if best is None or ratio < best[0]:
                best = (float(ratio), name, fewer, after)
        if best is None:
            break
        _, name, fewer, now = best
        kept[name] = fewer
    return kept


def evenly(paths: Mapping[str, Path], cost: Cost, target: float) -> dict[str, int]:
    """The same, with one share of each group's channels.

    >>> evenly({"a": by_magnitude(np.ones(4)), "b": by_magnitude(np.ones(8))},
    ...        lambda kept: sum(kept.values()), 6)
    {'a': 2, 'b': 4}
    """
    most = max(len(path.order) for path in paths.values())
    for part in range(most, 0, -1):
        kept = {name: max(1, len(path.order) * part // most) for name, path in paths.items()}
        if cost(kept) <= target:
            break
    return kept


LARGE = 8
"""Of its multiple, from which on a group's channels stay in multiples."""


def refitted(
    W: Matrix,
    evidence: Evidence,
    live: np.ndarray | None,
    options: FitOptions,
    rectify: int = 0,
) -> Solution:
    """``W`` ``(1, O, D)`` with the ``live`` columns ``(D,)`` alone (None: all), fitted in closed
    form to what the dense network gave; and half of the variance that it shrank brought back.

    Where a rectifier follows, outputs that it cuts off need not be met: ``rectify`` times it is
    fitted again, with what it gave itself wanted there. Source: Zhang, Zou, He and Sun 2016
    (*Accelerating Very Deep Convolutional Networks*), the nonlinear response.
    """
    columns = np.flatnonzero(np.ones(W.shape[2], dtype=bool) if live is None else live)

    def moments_of(pairs: Iterable[Pair], gram: Gram | None = None) -> Moments:
        return Moments.of(((X[:, :, columns], Y, *w) for X, Y, *w in pairs), gram)

    before = [evidence.joint.columns(columns)] if evidence.joint is not None else []
    sampled = [moments_of(evidence.pairs())] if evidence.sampled else []
    moments = reduce(Moments.merge, [*before, *sampled])
    if not evidence.free_bias:
        moments = moments.about_zero()
    H, some = moments.H, W[:, :, columns]
    G, rows, D = some.shape
    diagonal = H.diagonal(0, 1, 2)
    ridge = options.ridge * max(1.0, D / moments.count) * diagonal
    ridge = ridge + options.floor * diagonal.mean(-1)[:, None] + TINY
    A, each = H * 1, np.arange(D)
    A[:, each, each] += ridge
    inverse = inverse_of(A)
    again = rectify if sampled and evidence.free_bias and evidence.rectified is not None else 0
    for turn in range(again + 1):
        C = moments.C
        found = like((C.mT + some * ridge[:, None, :]) @ inverse, W)
        now = ((found @ H) * found).sum(-1)
        scale = gain(now, moments.variance, options.gain_limit) ** options.repair
        error = unexplained(
            scale**2 * now, scale * (found * C.mT).sum(-1), moments.variance, moments.variance
        )
        found = found * scale[..., None]
        bias = fitted_bias(found, moments.x_mean, moments.y_mean) if evidence.free_bias else None
        if turn < again:
            wanted = moments_of(_rectified(evidence, columns, found, bias), sampled[0].gram)
            moments = reduce(Moments.merge, [*before, wanted])
    weights = W * 0
    weights[:, :, columns] = found
    count = sampled[0].count if sampled else 0
    macs = moments.macs * (1 + again) + G * D**3
    macs += (1 + again) * 2 * G * rows * D * D + again * G * rows * D * count
    return Solution(weights, bias, error, float(macs))


def _rectified(
    evidence: Evidence, columns: np.ndarray, weights: Matrix, bias: Matrix | None
) -> Iterator[Pair]:
    """Inputs, and what is to be given there by a layer that has given other than what was wanted
    where it is not read."""
    assert evidence.rectified is not None
    assert bias is not None
    for batch, (X, Y, *weight) in zip(evidence.sampled, evidence.pairs(), strict=True):
        now = X[:, :, columns] @ weights.mT + bias[:, None, :]
        yield X, evidence.rectified.wanted(batch, like(Y, now), now), *weight
