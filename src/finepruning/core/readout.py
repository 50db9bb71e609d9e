"""Read-out: which of the network's classes this person has, from unlabelled predictions alone.

A person's classes are few, and the others become less likely. Three things are weighed. *Skew*: how
much likelier each sample is given all the others than with all classes alike; without skew nothing
changes, and little skew is no proof, since a network's errors look like it. *Clearness*: a class
that is there has samples that are clear, as clear as this network's answers to this person usually
are; a look-alike of the person's classes gets samples that are a toss-up. It is measured in the
network's own terms, so that one constant serves sure networks and unsure ones. *What is unseen*:
rare is not absent, and what did not come up in n samples becomes unlikely, never impossible.

Sources: the class prior from unlabelled predictions, Saerens et al. 2002 (Neural Computation 14);
samples judged by the counts of all the others, Teh et al. 2006 (NeurIPS 19); the mass of what is
unseen, Good 1953 (Biometrika 40). NumPy in float64: the same on every machine's accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .options import flag, number

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ReadoutOptions:
    """How the person's classes are told from the dense network's predictions."""

    enabled: bool = flag(True)
    coolest: float = number(0.5, above=0)
    hottest: float = number(2.5, above=0)
    temperatures: int = number(8, 1, 1000)
    """So many from ``coolest`` to ``hottest`` are tried, in equal ratios: that under which each
    sample is likeliest given the others is taken."""
    clear: float = number(0.37, 0)
    slope: float = number(3.2, 0)
    growth: float = number(0.25, 0)
    """Evidence for a class, in nats: ``slope`` times what its samples' clearness, in units of the
    usual one, is above ``clear``; and more where they are many, as their number to the power
    ``growth``."""
    root: float = number(0.75, 0)
    """Classes weigh as their number of samples to this power: a network that errs one way answers
    one class too often."""
    doubt: float = number(0.4, 0)
    full: float = number(1.3, 0)
    """Skew, in logits, up to which nothing is changed, and from which on all is."""
    gentlest: float = number(1.25, above=0)
    """The shift is the temperature, or ``gentlest`` if that is more, times the log prior."""
    rounds: int = number(10, 0)
    """In which samples of classes that are given up go over to those that stay."""
    steps: int = number(30, 1)
    """Of the expectation-maximisation that measures skew."""
    few: int = number(512, 2)
    most: int = number(2048, 2)
    """Of more samples, evenly spaced, ``few`` are looked at for the skew and ``most`` for the rest:
    more add nothing."""


DEFAULT = ReadoutOptions()


@dataclass(frozen=True)
class Readout:
    """What :func:`read_out` found."""

    shift: Floats
    """To be added to the output bias, ``(K,)``."""
    prior: Floats
    """Class prior ``(K,)``, before it is doubted."""
    trust: float
    """Between 0 (no skew beyond doubt: nothing is changed) and 1."""
    skew: float
    """By how many nats a sample is likelier than with all classes alike."""
    classes: int
    """How many classes the samples are answered with, the shift added."""
    temperature: float
    unseen: float
    """Probability that a sample is of a class that no other sample shows."""


@dataclass(frozen=True)
class Skew:
    """What :func:`skew_of` found."""

    nats: float
    """By which a sample is likelier than with all classes alike."""
    temperature: float
    unseen: float


CLOSED = -1e4
"""Shift of an output of which the user says that it never comes up: finite in half precision."""


def read_out(
    logits: Floats,
    options: ReadoutOptions = DEFAULT,
    *,
    allowed: Numbers | None = None,
    class_prior: Floats | None = None,
    skew: Skew | None = None,
) -> Readout:
    """Estimate the person's class prior from ``logits`` ``(n, K)`` of unlabelled samples.

    >>> skewed = np.eye(5)[np.arange(100) % 2] * 6.0  # 100 samples of classes 0 and 1 out of 5
    >>> found = read_out(skewed)
    >>> found.classes, found.shift.round(1).tolist()
    (2, [0.0, 0.0, -2.0, -2.0, -2.0])

    ``allowed``: numbers of the classes that can come up at all, where the user knows; the others
    get the shift ``CLOSED``. ``class_prior`` ``(K,)``: how often each came up in training, where
    that is known; else all alike is what the network is taken to expect. ``skew``: what
    :func:`skew_of` found of the same logits, where that has been done. The constants were chosen on
    the benchmark's panel, leaving out each network in turn (docs/log.md).
    """
    o, logits = options, np.asarray(logits, dtype=np.float64)
    if allowed is not None:
        inside = None if class_prior is None else class_prior[allowed]
        found = read_out(logits[:, allowed], o, class_prior=inside)
        return _closed(found, allowed, logits.shape[1])
    usual = np.zeros(logits.shape[1])
    if class_prior is not None:
        usual = np.log(class_prior) - np.log(class_prior).mean()
    logits = logits - usual
    many = _evenly(logits, o.most)
    (n, K), p = many.shape, _softmax(many)
    skew = skew or skew_of(logits, o)
    T, unseen = skew.temperature, skew.unseen
    of, present = _usual(p), _log_odds(np.exp(-skew.nats) + 1 / K)
    flat = _clearness(p)
    (clearness, N), odds = flat, np.zeros(K)
    for step in range(o.rounds + 1):
        if step:
            R = p * np.exp(odds)
            now = _clearness(R / R.sum(1, keepdims=True))
            # A class stays as clear as the network alone has it, and keeps as many samples: what
            # it recognises is not traded.
            clearness, N = np.maximum(now[0], flat[0]), np.maximum(now[1], flat[1])
        evidence = o.slope * N**o.growth * (clearness / of - o.clear)  # of no samples none
        seen = _sigmoid(evidence + present) * (N + 1.0) ** o.root
        prior = (1 - unseen) * seen / seen.sum() + unseen / K
        # That a class did not come up in n samples makes it n times less likely, and no more.
        fresh = np.maximum(np.log(prior / prior.max()), -np.log(n))
        odds = (odds + fresh) / 2 if step else fresh

    trust = (max(T, 1.0) * skew.nats - o.doubt) / max(o.full - o.doubt, 1e-12)
    trust = float(np.clip(trust, 0, 1))
    shift = trust * (max(T, o.gentlest) * odds - usual)
    prior = np.exp(odds)
    classes = len(np.unique((many + usual + shift).argmax(1)))
    return Readout(shift, prior / prior.sum(), trust, skew.nats, classes, T, unseen)


def skew_of(logits: Floats, options: ReadoutOptions = DEFAULT) -> Skew:
    """How much the others of ``logits`` ``(n, K)`` tell of a sample, at the temperature at which
    they tell most; no more than the mean prediction shows."""
    o, K = options, logits.shape[1]
    some = _evenly(logits, o.few)
    tried = np.geomspace(o.coolest, o.hottest, o.temperatures)
    fits = [_others(some, T, o.steps) for T in tried]
    best = int(np.argmax([gain for _, gain in fits]))
    unseen, gain = fits[best]
    shown = np.log(K) - _entropy(_softmax(_evenly(logits, o.most)).mean(0))
    return Skew(float(max(min(gain, shown), 0.0)), float(tried[best]), unseen)


def _closed(found: Readout, allowed: Numbers, K: int) -> Readout:
    """What was found of the ``allowed`` classes, among all ``K``."""
    shift, prior = np.full(K, CLOSED), np.zeros(K)
    shift[allowed], prior[allowed] = found.shift, found.prior
    return replace(found, shift=shift, prior=prior)


def _others(logits: Floats, T: float, steps: int) -> tuple[float, float]:
    """Share of what is unseen, and by how many nats a sample is likelier given the others.

    Sample i comes from class k of the others', ``(1 - U) (N_k - R_ik) / (n - 1)`` with
    ``N = sum_i R_i``, or from what is unseen, ``U b_k``. Half of ``b`` is flat, half is what
    predictions of twice the temperature spread over: new classes are like those that were seen.
    """
    (n, K), p = logits.shape, _softmax(logits / T)
    b = 0.5 / K + 0.5 * _softmax(logits / (2 * T)).mean(0)
    base, R, U = p @ b, p, 0.5
    for _ in range(steps):
        seen = p * (R.sum(0) - R) * ((1 - U) / max(n - 1, 1))
        each = seen.sum(1) + U * base
        R = (seen + U * p * b) / each[:, None]
        U = float(((U * base / each).sum() + 1) / (n + 1))
    seen = (p * (R.sum(0) - R)).sum(1) * ((1 - U) / max(n - 1, 1))
    return U, float(np.log(K * (seen + U * base)).mean())


def _nats(p: Floats) -> tuple[Floats, Numbers]:
    """By how many nats each sample would miss its class, ``(n,)``, and which class that is."""
    answer = p.argmax(1)
    return -np.log1p(-np.minimum(p[np.arange(len(p)), answer], 1 - 1e-9)), answer


def _clearness(p: Floats) -> tuple[Floats, Floats]:
    """Mean nats by which the samples answered with a class would miss it, and how many these are,
    ``(K,)`` each."""
    nats, answer = _nats(p)
    N = np.bincount(answer, minlength=p.shape[1]).astype(np.float64)
    return np.bincount(answer, nats, p.shape[1]) / np.maximum(N, 1), N


def _usual(p: Floats) -> float:
    """Clearness of the network's answers to this person, a mean over the samples."""
    return max(float(_nats(p)[0].mean()), 1e-12)


def _log_odds(share: float) -> float:
    """Log odds of a class being one of ``share`` of all."""
    share = min(share, 1 - 1e-9)
    return float(np.log(share / (1 - share)))


def _evenly(logits: Floats, most: int) -> Floats:
    n = len(logits)
    return logits if n <= most else logits[np.linspace(0, n - 1, most).round().astype(int)]


def _sigmoid(nats: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(nats, -700, 700))))


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def _entropy(q: Floats) -> float:
    return float(-(q * np.log(np.maximum(q, 1e-300))).sum())
