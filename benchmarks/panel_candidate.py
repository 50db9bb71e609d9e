"""Candidate D of the panel: a read-out that trades no class, under way and not yet in the package.

A person's samples come from classes that other samples show too, or from none of these. How often
the latter, and how sure the network really is, is decided by the likelihood of each sample given
all the others. A class is there if the samples would miss it: rare is not absent, and what is not
there becomes unlikely, never impossible. docs/log.md has what it gains and what it lacks.

Sources: the class prior by expectation-maximisation, Saerens et al. 2002 (Neural Computation 14);
collapsed responsibilities, Teh et al. 2006 (NeurIPS 19); the mass of what is unseen, Good 1953
(Biometrika 40); nats against log n, Schwarz 1978 (Annals of Statistics 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """How the person's classes are told from the dense network's predictions."""

    coolest: float = 0.5
    hottest: float = 2.5
    temperatures: int = 8
    """So many from ``coolest`` to ``hottest`` are tried, in equal ratios: that under which each
    sample is likeliest given the others is taken."""
    heat: float = 2.0
    """How much hotter the evidence is weighed: a look-alike's samples are then explained by the
    classes that it looks like."""
    nats: float = 2.0
    share: float = 0.15
    """A class is fully there if the samples miss it by ``nats * log n``, or by this share of what
    they miss a typical class of the person's by, whichever is less."""
    doubt: float = 0.2
    """Nats that any class has without a sample."""
    sure: float = 8.0
    """Nats, at most, by which one sample can miss a class."""
    own: float = 0.25
    own_sure: float = 3.0
    """What the network says of itself counts by this share, whatever explains it better: at
    temperature 1, all classes alike, ``own_sure`` nats at most a sample. So what it recognises
    stays."""
    skew: float = 0.6
    """The shift is made in full where a sample is likelier by this many nats than with all classes
    alike, given the others, and in proportion where by less: a network's errors look like a little
    skew."""
    reach: float = 4.0
    growth: float = 0.8
    """An absent class is less likely by ``growth * log n`` nats at most, and by ``reach`` at most:
    that a class did not come up in n samples says no more."""
    gentlest: float = 1.25
    strongest: float = 2.0
    """The shift is as many times the log prior as the temperature, but no less and no more."""
    steps: int = 30
    """Of the expectation-maximisation."""
    few: int = 512
    most: int = 2048
    """Of more samples, ``few`` are looked at for the temperature and ``most`` for the evidence,
    evenly spaced."""


def seen_or_unseen(logits: Floats, o: Options = Options()) -> Floats:
    """The shift ``(K,)`` of the outputs, from ``logits`` ``(n, K)`` of unlabelled samples."""
    logits = np.asarray(logits, dtype=np.float64)
    some, many = _evenly(logits, o.few), _evenly(logits, o.most)
    n, K = many.shape
    tried = np.geomspace(o.coolest, o.hottest, o.temperatures)
    fits = [_mixture(some, T, o.steps)[1:] for T in tried]
    best = int(np.argmax([gain for _, gain in fits]))
    T, (unseen, gain) = float(tried[best]), fits[best]

    missed = _missed(_mixture(many, T * o.heat, o.steps)[0], o.sure)
    missed = np.maximum(missed, o.own * _missed(_softmax(many), o.own_sure))
    effective = _effective_number(missed)
    enough = min(o.nats * np.log(n), o.share * missed.sum() / effective)
    there = np.minimum((missed + o.doubt) / (enough + o.doubt), 1)

    prior = (1 - unseen) * there / there.sum() + unseen / K
    odds = np.log(prior / prior.max())
    odds = np.maximum(odds, -min(o.reach, o.growth * np.log(n)))
    believed = min(max(gain / o.skew, 0.0), 1.0)
    return np.asarray(believed * np.clip(T, o.gentlest, o.strongest) * odds)


def _mixture(logits: Floats, T: float, steps: int) -> tuple[Floats, float, float]:
    """Memberships ``(n, K)`` of the classes seen, share of what is unseen, and nats a sample.

    Sample i comes from class k of the others', ``(1 - U) (N_k - R_ik) / (n - 1)`` with ``N = sum_i
    R_i``, or from what is unseen, ``U b_k``. Half of ``b`` is flat, half is what hotter predictions
    spread over. The nats are those by which this beats 'all classes alike', each sample given the
    others.
    """
    (n, K), p = logits.shape, _softmax(logits / T)
    pb = p * (0.5 / K + 0.5 * _softmax(logits / (2 * T)).mean(0))
    base, R, U, scratch = pb.sum(1), p.copy(), 0.5, np.empty_like(p)
    for step in range(steps):
        np.subtract(R.sum(0), R, out=R)
        R *= p
        R *= (1 - U) / max(n - 1, 1)
        each = R.sum(1) + U * base
        np.multiply(pb, U, out=scratch)
        R += scratch
        R /= each[:, None]
        if step >= min(4, steps - 1):
            U = float(((U * base / each).sum() + 1) / (n + 1))
    seen = ((R.sum(0) - R) * p).sum(1) / max(n - 1, 1)
    return R, U, float(np.log(K * ((1 - U) * seen + U * base)).mean())


def _missed(R: Floats, most: float) -> Floats:
    """By how many nats the samples would miss each class, each by ``most`` at most, ``(K,)``."""
    return np.asarray(np.minimum(-np.log1p(-np.minimum(R, 1 - 1e-12)), most).sum(0))


def _evenly(logits: Floats, most: int) -> Floats:
    n = len(logits)
    return logits if n <= most else logits[np.linspace(0, n - 1, most).round().astype(int)]


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def _effective_number(N: Floats) -> float:
    share = N / N.sum()
    return float(np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum()))
