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

Floats = NDArray[np.float64]

CONFIDENCE = 0.8
"""The temperature rises until the mean of the highest probability is no more than this."""
TEMPERATURES = tuple(1.25 * 1.1**i for i in range(10))
COUNT_HEAT, SHIFT_HEAT = 1.2, 1.5
"""How much hotter the soft counts are taken, and how much larger the shift, than that."""
SHARE = 0.6
"""Of the likelihood that a class costs the others, by taking its share, what is charged to it. At 1
it is the likelihood of classes in equal number, which gives up classes when the network errs."""
OWN_SHARE = 1.75
"""A class is charged no more for its share than this times the samples that it explains: a person's
rare classes are rare."""
CLEAR, DOUBT = 1.6, 2.0
"""A class that is there has clear samples: the half that need it most miss it by ``CLEAR`` nats
each. What is short of that is charged, ``DOUBT`` times for each of its samples: a look-alike of the
person's classes gets many samples that are a toss-up, and none that is clear."""
USUAL = 10.0
"""A person has about as many classes, beforehand."""
NOISE = 0.3
"""Over ``K``: the probability of any prediction through no class of the person's."""
CERTAIN = 0.2
"""The set counts ``1 - exp(-CERTAIN * n / classes)`` against the soft counts."""
CANDIDATES = 64
MISSING = 0.03
"""Presence of a class that is surely absent."""
MOST_SAMPLES = 4096
"""Of more samples than this, as many are looked at, evenly spaced: the rest would add nothing."""
STEPS = 60
FLOOR, FLOOR_SAMPLES = 0.03, 2.0
"""Pseudo-count of every class in the soft counts, ``FLOOR + FLOOR_SAMPLES / n``."""
CAP, CAP_FLOOR = 0.7, 0.5
"""Soft counts above ``CAP`` times the typical one are not believed. ``CAP_FLOOR`` scales the
pseudo-count beside the capped counts."""
CAUTION = 0.75
"""Nats a class and log n that the evidence of skew must beat before it is believed (1/2 is BIC)."""
CAUTION_SET = 2.0
"""Nats a log n by which the set must beat the set of all classes."""
SILENT_PEAK, SILENT_COUNT, SILENT_TRUST, SILENT_UNSEEN = 0.01, 0.05, 0.99, 0.05
"""An output may be silenced when no sample gave it this probability, its count is below this, the
skew is trusted this much, and the mass still unseen (Good-Turing) is below this."""


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


def read_out(logits: Floats) -> Readout:
    """Estimate the person's class prior from ``logits`` ``(n, K)`` of unlabelled samples.

    >>> skewed = np.eye(5)[np.arange(100) % 2] * 6.0  # 100 samples of classes 0 and 1 out of 5
    >>> found = read_out(skewed)
    >>> round(found.classes), bool(found.shift[0] > 0 > found.shift[4])
    (2, True)

    The constants were chosen on development users (docs/log.md), never on a test set.
    """
    logits = np.asarray(logits, dtype=np.float64)
    peak = _softmax(logits).max(0)
    if len(logits) > MOST_SAMPLES:
        logits = logits[np.linspace(0, len(logits) - 1, MOST_SAMPLES).round().astype(int)]
    n, K = logits.shape
    plain = _softmax(logits)
    T = next(
        (t for t in TEMPERATURES if _softmax(logits / t).max(1).mean() <= CONFIDENCE),
        TEMPERATURES[-1],
    )
    present, classes, gain = _presence(_softmax(logits / T))

    floor = FLOOR + FLOOR_SAMPLES / n
    N = _responsibilities(_softmax(logits / (COUNT_HEAT * T)), floor).sum(0)
    typical = CAP * n / _effective_number(N)
    counted = (np.minimum(N, typical) + CAP_FLOOR * floor) / (typical + CAP_FLOOR * floor)
    certain = 1 - np.exp(-CERTAIN * n / classes)
    presence = certain * (present + MISSING) + (1 - certain) * counted
    prior = presence / presence.sum()

    # Is there skew at all? Asked of the soft counts, at temperature 1, and of the set.
    R = _responsibilities(plain, FLOOR)
    effective = _effective_number(R.sum(0))
    skew = _evidence(plain, R, FLOOR) - CAUTION * effective * np.log(n)
    trust = _sigmoid(skew) * _sigmoid(gain - CAUTION_SET * np.log(n))

    unseen = (((N > 0.5) & (N < 1.5)).sum() + 1) / n
    silent = (peak < SILENT_PEAK) & (N < SILENT_COUNT) & (present < 0.5)
    silent &= bool(trust > SILENT_TRUST and unseen < SILENT_UNSEEN)
    T *= SHIFT_HEAT
    return Readout(trust * T * np.log(K * prior), silent, prior, float(trust), classes, float(T))


def _presence(p: Floats) -> tuple[Floats, int, float]:
    """Probability that each class is one of the person's, how many are, and by how many nats this
    set beats the set of all.

    The score of a set is ``sum_i log(noise + sum_{k in set} p_ik)`` less its cost. Classes are left
    out one by one, always the one least missed, and the best set on the way is taken.
    """
    n, K = p.shape
    noise, mass = NOISE / K, p.sum(0)

    def cost(classes: float | Floats) -> Floats:
        of = np.asarray(classes, dtype=np.float64)
        each = np.log(max(K / USUAL, 1.0)) + 0.5 * np.log1p(n / of)
        return np.asarray(SHARE * n * np.log(of) + each * of)

    most = np.argsort(-mass, kind="stable")[: max(CANDIDATES, int((mass >= 1).sum()))]
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
        fixed = np.log(max(K / USUAL, 1.0)) + 0.5 * np.log1p(n / s)
        fewer, more = np.where(inside, max(s - 1, 0.5), s), np.where(inside, s, s + 1)
        price = np.minimum(cost(more) - cost(fewer), OWN_SHARE * own + fixed)
        price += (
            DOUBT * (1 - s / K) * own * np.maximum(CLEAR - _of_the_clearer_half(missed, own), 0)
        )
        odds = missed.sum(0) - price
        if s == 1 or odds[inside].min() >= 0:
            return _sigmoid(odds), s, float(gain)
        inside[np.where(inside, odds, np.inf).argmin()] = False


def _of_the_clearer_half(missed: Floats, own: Floats) -> Floats:
    """Mean of ``missed`` ``(n, K)`` over the half of a class's samples that miss it most."""
    count = np.clip(np.ceil(own / 2).astype(int), 1, len(missed))
    most_first = -np.sort(-missed, axis=0)
    return np.asarray(most_first.cumsum(0)[count - 1, np.arange(len(own))] / count)


def _sigmoid(nats: float | Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(nats, -700, 700))))


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def _responsibilities(p: Floats, floor: float) -> Floats:
    """Class memberships ``(n, K)``: ``R_ik ~ p_ik (N_k - R_ik + floor)`` with ``N_k = sum_i
    R_ik``."""
    R = p
    for _ in range(STEPS):
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
