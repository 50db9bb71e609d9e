"""Read-out: which of the network's classes this person has, from unlabelled predictions alone.

A set of classes is sought that explains the dense network's predictions at the least cost, all of
its classes weighing alike: which classes are there can be told, how often each comes up cannot,
where the network errs one way on this person's data. With few samples a class the soft counts of an
expectation-maximisation (Saerens et al. 2002, Neural Computation 14) is kept by half a measure.
NumPy in float64: the same on every machine's accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .options import flag, number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReadoutOptions:
    """How the person's classes are told from the dense network's predictions."""

    enabled: bool = flag(True)
    confidence: float = number(0.8, 0, 1)
    """The temperature rises until the mean of the highest probability is no more than this."""
    coolest: float = number(1.25, above=0)
    heating: float = number(1.1, 1)
    heatings: int = number(10, 1, 1000)
    """The temperatures tried: ``coolest * heating ** i`` for ``i`` from 0, so many."""
    count_heat: float = number(1.2, above=0)
    shift_heat: float = number(1.5, above=0)
    """How much hotter the soft counts are taken, and how much larger the shift, than that."""
    share: float = number(0.6, 0)
    """Of the likelihood that a class costs the others, by taking its share, what is charged to it.
    At 1 it is the likelihood of classes in equal number, which gives up classes when the network
    errs."""
    own_share: float = number(1.75, 0)
    """A class is charged no more for its share than this times the samples that it explains: a
    person's rare classes are rare."""
    clear: float = number(1.6, 0)
    doubt: float = number(2.0, 0)
    """A class that is there has clear samples: the half that need it most miss it by ``clear`` nats
    each. What is short of that is charged, ``doubt`` times for each of its samples: a look-alike of
    the person's classes gets many samples that are a toss-up, and none that is clear."""
    usual: float = number(10.0, above=0)
    """A person has about as many classes, beforehand."""
    noise: float = number(0.3, above=0)
    """Over ``K``: the probability of any prediction through no class of the person's."""
    certain: float = number(0.2, 0)
    """The set counts ``1 - exp(-certain * n / classes)`` against the soft counts."""
    candidates: int = number(64, 1)
    """Classes of most mass from which the search sets out, at least."""
    missing: float = number(0.03, above=0)
    """Presence of a class that is surely absent."""
    most_samples: int = number(4096, 2)
    """Of more samples than this, as many are looked at, evenly spaced: the rest adds nothing."""
    steps: int = number(60, 1)
    """Of the expectation-maximisation that gives the soft counts."""
    floor: float = number(0.03, above=0)
    floor_samples: float = number(2.0, 0)
    """Pseudo-count of every class in the soft counts, ``floor + floor_samples / n``."""
    cap: float = number(0.7, above=0)
    cap_floor: float = number(0.5, 0)
    """Soft counts above ``cap`` times the typical one are not believed. ``cap_floor`` scales the
    pseudo-count beside the capped counts."""
    caution: float = number(0.75, 0)
    """Nats a class and log n that the evidence of skew must beat before it is believed (1/2 is
    BIC)."""
    caution_set: float = number(2.0, 0)
    """Nats a log n by which the set must beat the set of all classes."""
    silent_peak: float = number(0.01, 0, 1)
    silent_count: float = number(0.05, 0)
    silent_trust: float = number(0.99, 0, 1)
    silent_unseen: float = number(0.05, 0, 1)
    silent_present: float = number(0.5, 0, 1)
    """An output may be silenced when no sample gave it this probability, its count is below this,
    the skew is trusted this much, the mass still unseen (Good-Turing) is below this, and the
    class's presence below this."""
    seen_once: float = number(0.5, 0, 1)
    """A class was seen once where its soft count is this close to 1."""
    clearer: float = number(0.5, 0, 1)
    """The share of a class's samples, those that need it most, by which it is judged."""


DEFAULT = ReadoutOptions()


@dataclass(frozen=True)
class Readout:
    """What :func:`read_out` found."""

    shift: Floats
    """To be added to the output bias, ``(K,)``."""
    silent: NDArray[np.bool_]
    """Outputs that this person does not use and that may be removed, ``(K,)``."""
    prior: Floats
    """Class prior ``(K,)``: the classes' presence, normalised."""
    trust: float
    """Between 0 (no sign of skew: nothing is changed) and 1."""
    classes: int
    """How many classes the set has that explains the predictions best."""
    temperature: float


def read_out(logits: Floats, options: ReadoutOptions = DEFAULT) -> Readout:
    """Estimate the person's class prior from ``logits`` ``(n, K)`` of unlabelled samples.

    >>> skewed = np.eye(5)[np.arange(100) % 2] * 6.0  # 100 samples of classes 0 and 1 out of 5
    >>> found = read_out(skewed)
    >>> round(found.classes), bool(found.shift[0] > 0 > found.shift[4])
    (2, True)

    The constants were chosen on development users (docs/log.md), never on a test set.
    """
    o, logits = options, np.asarray(logits, dtype=np.float64)
    peak = _softmax(logits).max(0)
    if len(logits) > o.most_samples:
        logits = logits[np.linspace(0, len(logits) - 1, o.most_samples).round().astype(int)]
    n, K = logits.shape
    plain = _softmax(logits)
    temperatures = [o.coolest * o.heating**i for i in range(o.heatings)]
    T = next(
        (t for t in temperatures if _softmax(logits / t).max(1).mean() <= o.confidence),
        temperatures[-1],
    )
    present, classes, gain = _presence(_softmax(logits / T), o)

    floor = o.floor + o.floor_samples / n
    N = _responsibilities(_softmax(logits / (o.count_heat * T)), floor, o.steps).sum(0)
    typical = o.cap * n / _effective_number(N)
    counted = (np.minimum(N, typical) + o.cap_floor * floor) / (typical + o.cap_floor * floor)
    certain = 1 - np.exp(-o.certain * n / classes)
    presence = certain * (present + o.missing) + (1 - certain) * counted
    prior = presence / presence.sum()

    # Is there skew at all? Asked of the soft counts, at temperature 1, and of the set.
    R = _responsibilities(plain, o.floor, o.steps)
    effective = _effective_number(R.sum(0))
    skew = _evidence(plain, R, o.floor) - o.caution * effective * np.log(n)
    trust = _sigmoid(skew) * _sigmoid(gain - o.caution_set * np.log(n))

    unseen = ((np.abs(N - 1) < o.seen_once).sum() + 1) / n
    silent = (peak < o.silent_peak) & (o.silent_count > N) & (present < o.silent_present)
    silent &= bool(trust > o.silent_trust and unseen < o.silent_unseen)
    T *= o.shift_heat
    return Readout(trust * T * np.log(K * prior), silent, prior, float(trust), classes, float(T))


def _presence(p: Floats, o: ReadoutOptions) -> tuple[Floats, int, float]:
    """Probability that each class is one of the person's, how many are, and by how many nats this
    set beats the set of all.

    The score of a set is ``sum_i log(noise + sum_{k in set} p_ik)`` less its cost. Classes are left
    out one by one, always the one least missed, and the best set on the way is taken.
    """
    n, K = p.shape
    noise, mass = o.noise / K, p.sum(0)

    def cost(classes: float | Floats) -> Floats:
        of = np.asarray(classes, dtype=np.float64)
        each = np.log(max(K / o.usual, 1.0)) + 0.5 * np.log1p(n / of)
        return np.asarray(o.share * n * np.log(of) + each * of)

    most = np.argsort(-mass, kind="stable")[: max(o.candidates, int((mass >= 1).sum()))]
    chosen, explained = most, p[:, most].sum(1)
    best, found = -np.inf, most
    while len(chosen):
        score = float(np.log(noise + explained).sum() - cost(len(chosen)))
        if score > best:
            best, found = score, chosen
        rest = np.maximum(explained[:, None] - p[:, chosen], 0)
        chosen = np.delete(chosen, np.log(noise + rest).sum(0).argmax())
        explained = p[:, chosen].sum(1)
    gain = best - (n * np.log1p(noise) - cost(K))

    # Beside the others, how much is a class missed, or would it be if it were in? The one least
    # worth its price goes, until all are.
    inside = np.zeros(K, dtype=bool)
    inside[found] = True
    while True:
        s = int(inside.sum())
        others = np.maximum(p[:, inside].sum(1)[:, None] - np.where(inside, p, 0), 0) + noise
        missed, own = np.log1p(p / others), (p / (others + p)).sum(0)
        fixed = np.log(max(K / o.usual, 1.0)) + 0.5 * np.log1p(n / s)
        fewer, more = np.where(inside, max(s - 1, 0.5), s), np.where(inside, s, s + 1)
        price = np.minimum(cost(more) - cost(fewer), o.own_share * own + fixed)
        price += (
            o.doubt
            * (1 - s / K)
            * own
            * np.maximum(o.clear - _of_the_clearer(missed, own, o.clearer), 0)
        )
        odds = missed.sum(0) - price
        if s == 1 or odds[inside].min() >= 0:
            return _sigmoid(odds), s, float(gain)
        inside[np.where(inside, odds, np.inf).argmin()] = False


def _of_the_clearer(missed: Floats, own: Floats, share: float) -> Floats:
    """Mean of ``missed`` ``(n, K)`` over the ``share`` of a class's samples that miss it most."""
    count = np.clip(np.ceil(own * share).astype(int), 1, len(missed))
    most_first = -np.sort(-missed, axis=0)
    return np.asarray(most_first.cumsum(0)[count - 1, np.arange(len(own))] / count)


def _sigmoid(nats: float | Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(nats, -700, 700))))


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def _responsibilities(p: Floats, floor: float, steps: int) -> Floats:
    """Class memberships ``(n, K)``: ``R_ik ~ p_ik (N_k - R_ik + floor)`` with ``N_k = sum_i
    R_ik``."""
    R = p
    for _ in range(steps):
        R = p * (R.sum(0) - R + floor)
        R = R / R.sum(1, keepdims=True)
    return R


def _evidence(p: Floats, R: Floats, floor: float) -> float:
    """Leave-one-out log-likelihood ratio, in nats, of this prior over 'all classes alike'."""
    n, K = p.shape
    prior_of_others = (R.sum(0) - R + floor) / (n - 1 + K * floor)
    return float(np.log((K * p * prior_of_others).sum(1)).sum())


def _effective_number(N: Floats) -> float:
    share = N / N.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))
