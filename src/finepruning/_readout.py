"""Read-out: which of the network's classes this person has, from unlabelled predictions alone.

The class prior is estimated from the dense network's logits by expectation-maximisation (Saerens et
al. 2002, Neural Computation 14), each sample being judged by the counts of all the others, and its
logarithm is added to the output bias. NumPy in float64: the same on every machine's accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TEMPERATURES = (1.0, 1.25, 1.5, 1.75, 2.0)
TEMPERATURE_PRIOR = (1.25, 0.25)
"""Median and standard deviation (of the logarithm) of the temperature, where evidence is weak."""
STEPS = 60
FLOOR, FLOOR_SAMPLES = 0.03, 2.0
"""Pseudo-count of every class, ``FLOOR + FLOOR_SAMPLES / n``: what a class never seen still
keeps."""
CAP, CAP_FLOOR = 0.7, 0.5
"""Counts above ``CAP`` times the typical one are not believed: confusions tell well which classes
are there, but badly how often. ``CAP_FLOOR`` scales the pseudo-count beside the capped counts."""
TEMPER = 1.5
"""The counts are taken this much hotter than the evidence says, so that no class is lost early."""
CAUTION = 0.75
"""Nats a class and log n that the evidence of skew must beat before it is believed (1/2 is BIC)."""
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
    """Estimated class prior, ``(K,)``."""
    trust: float
    """Between 0 (no sign of skew: nothing is changed) and 1."""
    classes: float
    """Effective number of classes, the exponential of the counts' entropy."""
    temperature: float


def read_out(logits: Floats) -> Readout:
    """Estimate the person's class prior from ``logits`` ``(n, K)`` of unlabelled samples.

    >>> skewed = np.eye(5)[np.arange(100) % 2] * 6.0  # 100 samples of classes 0 and 1 out of 5
    >>> found = read_out(skewed)
    >>> round(found.classes), bool(found.shift[0] > 0 > found.shift[4])
    (2, True)

    The constants were chosen on development users (docs/log.md), never on a test set.
    """
    n, K = logits.shape
    logits = np.asarray(logits, dtype=np.float64)
    fits = []
    for T in TEMPERATURES:
        p = _softmax(logits / T)
        R = _responsibilities(p, FLOOR)
        fits.append((_evidence(p, R, FLOOR), T, _effective_number(R.sum(0))))
    median, spread = TEMPERATURE_PRIOR
    T = max(fits, key=lambda fit: fit[0] - np.log(fit[1] / median) ** 2 / (2 * spread**2))[1]

    # Is there skew at all? Asked at temperature 1, where nothing was fitted.
    evidence, _, classes = fits[0]
    trust = 1 / (1 + np.exp(-np.clip(evidence - CAUTION * classes * np.log(n), -700, 700)))

    T *= TEMPER
    floor = FLOOR + FLOOR_SAMPLES / n
    N = _responsibilities(_softmax(logits / T), floor).sum(0)
    typical = n / _effective_number(N)
    presence = np.minimum(N, CAP * typical) + CAP_FLOOR * floor
    prior = presence / presence.sum()

    unseen = (((N > 0.5) & (N < 1.5)).sum() + 1) / n
    silent = (_softmax(logits).max(0) < SILENT_PEAK) & (N < SILENT_COUNT)
    silent &= bool(trust > SILENT_TRUST and unseen < SILENT_UNSEEN)
    return Readout(trust * T * np.log(K * prior), silent, prior, float(trust), float(classes), T)


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
