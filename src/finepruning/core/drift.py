"""Drift: whether new samples are like those that a network was personalised with.

Two things are asked. Do the new samples' answers fall among classes that were seen before? And do
the layers' outputs lie where they lay? Both are tests with a false-alarm rate that the user sets.
NumPy in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .moments import Marginals
from .options import number
from .readout import Readout, read_out

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DriftOptions:
    """When new samples count as different."""

    false_alarms: float = number(0.05, 0, 1)
    """Share of the windows of ordinary new samples that may be taken for drift."""
    device: float = number(0.001, 0, 1)
    """Probability of chance below which another device is believed: batch norms are aligned then,
    which harms where it is none."""
    fewest: int = number(4, 2)
    """Of fewer new samples nothing is said."""
    most: int = number(512, 2)
    """Earlier and new samples that are compared at most, evenly spaced."""
    shuffles: int = number(999, 19)
    """Random divisions into earlier and new samples that the real one is compared with."""
    held: float = number(4.0, 0)
    """So many samples hold a class's mean outputs to those of all classes."""
    least: float = number(1e-3, above=0)
    """A layer's outputs vary by no less than so much of their mean variation, and a hundredth of it
    of their size: what is always the same may move a little."""


DEFAULT = DriftOptions()


@dataclass(frozen=True)
class Familiar:
    """Which classes were seen, as :func:`familiar` found."""

    counts: Floats
    """Samples of each class ``(K,)``, as far as they are believed."""
    temperature: float
    prior: Floats
    """Class prior ``(K,)``."""
    scores: Floats
    """Of each of the samples ``(n,)`` the probability that the others show its class."""


def familiar(logits: Floats, answer: Readout | None = None) -> Familiar:
    """Which classes the samples of dense ``logits`` ``(n, K)`` show.

    >>> seen = familiar(9 * np.eye(3)[np.arange(20) % 2])
    >>> seen.counts.round().tolist(), bool((seen.scores > 0.8).all())
    ([10.0, 10.0, 0.0], True)

    With ``R = softmax(logits / T) prior``, normalised, and ``N`` their sums, a sample's class was
    seen before with probability ``sum_k p_k N_k / (N_k + 1)``. Of the samples themselves two are
    left out, the sample itself and one that is like it: what few others show is not sure to be
    shown again.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if answer is None:
        answer = read_out(logits)
    T = max(answer.temperature, 1.0)
    p, R = _softmax(logits / T), _believed(logits, T, answer.prior)
    counts = R.sum(0)
    others = np.maximum(counts - 2 * R, 0)
    return Familiar(counts, T, answer.prior, (p * (others / (others + 1))).sum(1))


def believed(seen: Familiar, logits: Floats) -> Floats:
    """How far samples of ``logits`` ``(m, K)`` are believed to be of each class ``(m, K)``."""
    return _believed(np.asarray(logits, dtype=np.float64), seen.temperature, seen.prior)


def _believed(logits: Floats, T: float, prior: Floats) -> Floats:
    R = _softmax(logits / T) * prior
    return np.asarray(R / R.sum(1, keepdims=True))


@dataclass(frozen=True)
class Novelty:
    """What :func:`novelty` found."""

    before: float
    """Share of the earlier samples whose class no other one shows,"""
    now: float
    """and of the new ones."""
    p: float
    """Probability that so much comes up by chance."""
    classes: tuple[tuple[int, float], ...]
    """Classes that were not seen, and how many of the new samples are believed to be theirs, the
    most first."""
    scores: Floats
    """Of each new sample ``(m,)`` the probability that its class was seen."""


def novelty(seen: Familiar, logits: Floats, options: DriftOptions = DEFAULT) -> Novelty:
    """Whether ``logits`` ``(m, K)``, the read-out's shift taken off, are of classes that were
    ``seen``.

    >>> seen = familiar(9 * np.eye(3)[np.arange(20) % 2])
    >>> found = novelty(seen, 9 * np.eye(3)[[2, 2, 2, 2]])
    >>> found.p < 0.01, found.classes[0][0]
    (True, 2)
    """
    logits = np.asarray(logits, dtype=np.float64)
    p = _softmax(logits / seen.temperature)
    known = seen.counts / (seen.counts + 1)
    new, old = p @ known, seen.scores
    chance = shuffled(_evenly(new, options.most), _evenly(old, options.most), options.shuffles)
    strange = (p * (1 - known)).sum(0)
    order = [int(k) for k in np.argsort(-strange, kind="stable") if strange[k] >= 1]
    classes = tuple((k, float(strange[k])) for k in order)
    return Novelty(1 - float(old.mean()), 1 - float(new.mean()), chance, classes, new)


def shuffled(new: Floats, old: Floats, shuffles: int) -> float:
    """How often the mean of ``new`` would be as low, if it made no difference which samples are
    new: a permutation test, exact whatever the values are.

    >>> shuffled(np.zeros(8), np.ones(8), 999) < 0.01 < shuffled(np.ones(8), np.ones(8), 999)
    True
    """
    both, m = np.concatenate([new, old]), len(new)
    random = np.random.default_rng(0)
    means = np.array([random.permutation(both)[:m].mean() for _ in range(shuffles)])
    return float((1 + (means <= new.mean() + 1e-12).sum()) / (shuffles + 1))


@dataclass(frozen=True)
class Movement:
    """What :func:`movement` found."""

    p: float
    """Probability that the layers' outputs lie so far from where they lay by chance."""
    layers: Mapping[str, float]
    """How far each layer's mean outputs have moved: mean over the outputs of the squared shift, in
    variances over samples, less what moves by chance."""

    @property
    def middle(self) -> float:
        """How far the middle third of the layers has moved,"""
        return self._of(1)

    @property
    def late(self) -> float:
        """and the last third."""
        return self._of(2)

    @property
    def device(self) -> bool:
        """Whether the middle has moved at least as far as what comes after it.

        A new class moves most what tells classes apart; another camera, voice or sensor moves what
        comes before that.
        """
        return len(self.layers) > 2 and self.middle >= self.late

    def _of(self, third: int) -> float:
        moved = [*self.layers.values()]
        some = moved[len(moved) * third // 3 : len(moved) * (third + 1) // 3]
        return sum(some) / max(1, len(some))


@dataclass(frozen=True)
class Usual:
    """Where layers' outputs lay."""

    means: Mapping[str, Marginals]
    """Of each layer, moments of single samples' mean outputs ``(1, C)``."""
    squares: float
    """Sum of the squared eigenvalues of their covariance, all layers together and each output in
    units of its deviation; these eigenvalues sum to one."""
    counts: Mapping[int, float] = field(default_factory=dict)
    """Samples of each class, as far as they are believed;"""
    sums: Mapping[str, Mapping[int, Floats]] = field(default_factory=dict)
    """of each layer the sum of their mean outputs ``(C,)``."""

    @classmethod
    def of(
        cls,
        means: Mapping[str, Floats],
        belief: Floats | None = None,
        options: DriftOptions = DEFAULT,
    ) -> Usual:
        """That of single samples' mean outputs, ``(n, C)`` of each layer; ``belief`` ``(n, K)``:
        how far each sample is of each class."""
        means = _of_all(means)
        seen = {name: Marginals.of(np.asarray(rows)[None]) for name, rows in means.items()}
        if not seen:
            return cls({}, 1.0)
        z = _scaled(seen, means, options)
        squares = _traces(z)[1] if len(z) > FEWEST else 1.0
        if belief is None or len(belief) != len(z):
            return cls(seen, squares)
        counts = {int(k): float(n) for k, n in enumerate(belief.sum(0)) if n >= 1}
        sums = {
            name: {k: belief[:, k] @ np.asarray(rows, np.float64) for k in counts}
            for name, rows in means.items()
        }
        return cls(seen, squares, counts, sums)

    def expected(self, name: str, belief: Floats, options: DriftOptions) -> Floats:
        """Mean outputs ``(m, C)`` of a layer for samples of these classes; of few samples a class's
        mean is held to that of all."""
        mean = np.asarray(self.means[name].mean, np.float64)[0]
        found = np.zeros((len(belief), len(mean))) + mean
        for k, n in self.counts.items():
            of = (self.sums[name][k] - n * mean) / (n + options.held)
            found += belief[:, k, None] * of
        return found

    def merge(self, other: Usual) -> Usual:
        """That of both sets of samples."""
        names = self.means.keys() & other.means.keys()
        if not names:
            return other if other.means else self
        means = {name: self.means[name].merge(other.means[name]) for name in names}
        n, m = (next(iter(one.means.values())).count for one in (self, other))
        both = [self, other]
        counts = {
            k: sum(one.counts.get(k, 0.0) for one in both)
            for k in sorted(self.counts.keys() | other.counts.keys())
        }
        sums = {
            name: {
                k: np.sum([one.sums[name][k] for one in both if k in one.counts], 0) for k in counts
            }
            for name in names
        }
        squares = (n * self.squares + m * other.squares) / (n + m)
        return Usual(means, squares, counts, sums)

    def decayed(self, factor: float) -> Usual:
        """The same with each sample counting ``factor`` times."""
        means = {name: moments.decayed(factor) for name, moments in self.means.items()}
        counts = {k: n * factor for k, n in self.counts.items()}
        sums = {
            name: {k: total * factor for k, total in of.items()} for name, of in self.sums.items()
        }
        return Usual(means, self.squares, counts, sums)


FEWEST = 3
"""Samples from which a covariance has squares."""


def movement(
    seen: Usual,
    new: Mapping[str, Floats],
    belief: Floats | None = None,
    options: DriftOptions = DEFAULT,
) -> Movement:
    """Whether the mean outputs of layers have moved: ``new`` are those of ``m`` new samples, ``(m,
    C)`` of each layer; with ``belief`` ``(m, K)``, beyond what it makes that other classes come up.

    With ``z`` the new ones, less what is expected and scaled by what was ``seen``, the statistic is
    ``|mean z|^2``. By chance it is ``1/m + 1/n`` times a sum of squared normal numbers weighted by
    the eigenvalues of ``cov z``, taken for a scaled chi-squared of the same mean and variance.
    Source: Bai and Saranadasa 1996, Statistica Sinica 6; the variance after Srivastava 2005, J.
    Japan Stat. Soc. 35.
    """
    new = _of_all({name: rows for name, rows in new.items() if name in seen.means})
    names = [*new]
    if not names:
        return Movement(1.0, {})
    if belief is not None:
        new = {
            name: new[name] - seen.expected(name, belief, options)
            + np.asarray(seen.means[name].mean)[0]
            for name in names
        }  # fmt: skip
    z = _scaled(seen.means, new, options)
    m, n = len(z), seen.means[names[0]].count
    chance, mean = 1 / m + 1 / n, z.mean(0)
    if belief is not None:
        share = belief.mean(0)
        chance = 1 / m + sum(share[k] ** 2 / (of + options.held) for k, of in seen.counts.items())
    parts = np.split(mean, np.cumsum([new[name].shape[1] for name in names])[:-1])
    moved = {
        name: float((part**2).sum() * len(names) - chance)
        for name, part in zip(names, parts, strict=True)
    }
    # What was seen has a trace of one; a window of few samples may show less than that.
    trace = max(_traces(z)[0], 1.0) if m > 1 else 1.0
    freedom = 1 / min(max(seen.squares, 1e-3), 1.0)
    return Movement(_chi_squared(float(mean @ mean) / chance / trace * freedom, freedom), moved)


def _of_all(means: Mapping[str, Floats]) -> dict[str, Floats]:
    """Those of the layers that all samples have come to; not all take the same way."""
    most = max((len(rows) for rows in means.values()), default=0)
    return {name: rows for name, rows in means.items() if len(rows) == most}


def _scaled(
    seen: Mapping[str, Marginals], new: Mapping[str, Floats], options: DriftOptions
) -> Floats:
    """Mean outputs of samples, of all layers ``(m, C)``, centred and scaled by those seen; every
    layer weighs alike."""
    names = [name for name in new if name in seen]
    parts = []
    for name in names:
        of, n = seen[name], seen[name].count
        mean, variance = (np.asarray(v, np.float64)[0] for v in (of.mean, of.variance))
        scale = np.sqrt(variance * n / max(n - 1, 1))
        least = options.least * np.maximum(scale.mean(), 0.01 * abs(mean)) + 1e-12
        z = (np.asarray(new[name], np.float64) - mean) / np.maximum(scale, least)
        parts.append(z / math.sqrt(z.shape[1] * len(names)))
    return np.concatenate(parts, 1)


def _traces(z: Floats) -> tuple[float, float]:
    """Traces of the covariance of ``z`` ``(m, C)`` and of its square, free of bias."""
    m, mean = len(z), z.mean(0)
    inner = (z - mean) @ (z - mean).T  # of the samples: there are fewer than outputs
    trace, squares = float(np.trace(inner)) / (m - 1), float((inner**2).sum()) / (m - 1) ** 2
    if m > 2:
        squares = (m - 1) ** 2 / ((m - 2) * (m + 1)) * (squares - trace**2 / (m - 1))
    return trace, squares


CLASSES, DEVICE, OTHER = "classes", "device", "other"


@dataclass(frozen=True)
class Judged:
    """Whether new samples are like the earlier ones, and what makes the difference."""

    changed: bool
    cause: str
    """``classes``, ``device`` or ``other``; empty: nothing has changed."""
    novelty: Novelty | None
    movement: Movement


def judge(
    usual: Usual,
    seen: Familiar | None,
    new: Mapping[str, Floats],
    logits: Floats | None,
    options: DriftOptions = DEFAULT,
) -> Judged:
    """Both tests, each at half of the false alarms; without classes the one there is.

    Another device is what moves samples of classes that were seen, beyond what it makes that some
    come up more often, and the middle of the network at least as far as its end. Where all that is
    new is of new classes, it cannot be told.
    """
    moved = movement(usual, new, options=options)
    if seen is None or logits is None:
        changed = moved.p <= options.false_alarms
        device = moved.device and moved.p <= options.device
        cause = (DEVICE if device else OTHER) if changed else ""
        return Judged(changed, cause, None, moved)
    level = options.false_alarms / 2
    found = novelty(seen, logits, options)
    strange, far = found.p <= level, moved.p <= level
    cause = CLASSES if strange else OTHER if far else ""
    known = found.scores > 0.5
    if far and known.sum() >= options.fewest:
        rows = {name: of[known] for name, of in new.items() if len(of) == len(known)}
        of_known = movement(usual, rows, believed(seen, logits[known]), options)
        if of_known.p <= min(level, options.device) and of_known.device:
            cause = DEVICE
    return Judged(strange or far, cause, found, moved)


def _chi_squared(x: float, freedom: float) -> float:
    """Probability that a chi-squared number is above ``x``. Source: Wilson and Hilferty 1931."""
    v = 2 / (9 * freedom)
    return 0.5 * math.erfc(((x / freedom) ** (1 / 3) - (1 - v)) / math.sqrt(2 * v))


def _evenly(values: Floats, most: int) -> Floats:
    n = len(values)
    return values if n <= most else values[np.linspace(0, n - 1, most).round().astype(int)]


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))
