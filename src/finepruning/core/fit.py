"""Fit: which of a layer's weights stay, and what they become, from its evidence.

``fit(W, evidence, keep, options) -> Solution`` is a pure function of arrays. At one position
``y[g] = W[g] @ x[g] + b[g]``. ``H`` ``(G, D, D)`` is the covariance of the inputs, ``C``
``(G, D, O)`` their covariance with the outputs wanted; centring is what frees the bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from .arrays import TINY, LowRank, Matrix, double, gram_macs, like, top
from .evidence import Evidence
from .gains import fitted_bias, gain, of_inputs, saliency, unexplained
from .moments import Gram, Moments
from .options import choice, number


@dataclass(frozen=True)
class Schedule:
    """How thoroughly a layer is fitted: stages of removal, and conjugate-gradient steps between
    them."""

    stages: int = number(1, 1, 100)
    first: int = number(0, 0, 1000)
    """Steps before the first removal; 0: weights go by what the generic ones carry."""
    each: int = number(0, 0, 1000)
    """Steps after each stage but the last."""
    last: int = number(5, 1, 1000)

    @property
    def products(self) -> int:
        """Products with ``H`` that it takes, residuals included."""
        steps = self.first + self.each * (self.stages - 1) + self.last
        return steps + self.stages + (self.first > 0)


QUICK = Schedule(stages=1, first=0, each=0, last=5)
THOROUGH = Schedule(stages=8, first=2, each=4, last=8)
"""Few steps even so: on ResNet-50, stopping early gave a lower held-out error than exact solves."""


@dataclass(frozen=True)
class FitOptions:
    """How a layer is fitted."""

    method: str = choice("compensate", "rescale", "gains")
    """``compensate`` refits what stays to the dense outputs; ``gains`` only a gain of each output
    and each input, for artifacts without values; ``rescale`` brings each output's mean and variance
    back."""
    ridge: float = number(0.3, above=0)
    """How strongly refitted weights hold on to the generic ones."""
    quick: Schedule = QUICK
    thorough: Schedule = THOROUGH
    """For layers where it costs less than their own forward pass over the same samples."""
    path: int = number(2, 1, 1000)
    """Steps at each sparsity of a path."""
    repair: float = number(0.5, 0, 1)
    """Exponent of the gain after ``compensate``: least squares shrinks variances, and half of that
    is its optimum. 1 restores the variance in full, as ``rescale`` does."""
    rounds: int = number(2, 1, 100)
    """Of ``gains``: how often both are found in turn;"""
    columns: int = number(8, 0, 1000)
    """and steps for those of the inputs. 0: none."""
    gain_limit: float = number(3.0, 1)
    """An output is scaled by no more than this, and by no less than its inverse."""
    floor: float = number(1e-6, above=0)
    """Of the mean of the diagonal of ``H``, added to each ridge: an input that is always zero stays
    solvable."""


DEFAULT = FitOptions()


@dataclass(frozen=True)
class Solution:
    """What a fit has found for one layer."""

    weights: Matrix
    """``(G, O, D)``, zero where they went."""
    bias: Matrix | None = None
    """``(G, O)``; None: the bias that is there stays."""
    error: float | None = None
    """Share of the variance of the outputs wanted that is missed on this evidence; None: not
    measured."""
    macs: float = 0.0
    """Multiply-accumulates that it took."""
    gram: Gram | None = None
    """Of the inputs, for the next layer that sees the same."""


Fit = Callable[[Matrix, Evidence, int, FitOptions], Solution]
FitPath = Callable[[Matrix, Evidence, Sequence[int], FitOptions], list[Solution]]
"""The same for several numbers of weights that are kept, most first."""


def fit(W: Matrix, evidence: Evidence, keep: int, options: FitOptions = DEFAULT) -> Solution:
    """Keep ``keep`` of the weights ``W`` ``(G, O, D)``, fitted as ``options.method`` says.

    >>> import numpy as np
    >>> from finepruning.core.evidence import Evidence
    >>> from finepruning.core.moments import Marginals, Moments
    >>> X, W = np.random.default_rng(0).normal(size=(1, 500, 8)), np.eye(8)[None, :4]
    >>> joint = Moments.of([(X, X @ W.mT)])
    >>> seen = Evidence(Marginals.of(X), Marginals.of(X @ W.mT), 500, joint=joint)
    >>> int((fit(W, seen, 4).weights != 0).sum())
    4
    """
    methods = {"compensate": compensated, "rescale": rescaled, "gains": scaled}
    return methods[options.method](W, evidence, keep, options)


def fit_path(
    W: Matrix, evidence: Evidence, keeps: Sequence[int], options: FitOptions = DEFAULT
) -> list[Solution]:
    """What :func:`fit` finds for each of ``keeps``, most first, in about the time of one: each goes
    on from the one before it.

    >>> import numpy as np
    >>> from finepruning.core.moments import Marginals, Moments
    >>> X, W = np.random.default_rng(0).normal(size=(1, 500, 8)), np.eye(8)[None, :4]
    >>> joint = Moments.of([(X, X @ W.mT)])
    >>> seen = Evidence(Marginals.of(X), Marginals.of(X @ W.mT), 500, joint=joint)
    >>> [int((s.weights != 0).sum()) for s in fit_path(W, seen, [16, 4, 2])]
    [16, 4, 2]
    """
    if options.method != "compensate":
        return [fit(W, evidence, keep, options) for keep in keeps]
    (moments, gram), schedule = _moments(W, evidence, options), schedule_for(W, evidence, options)
    variance = moments.variance
    if not evidence.free_bias:
        moments = moments.about_zero()
    steps = options.path
    found = removals(
        W, moments.H, moments.C, keeps, [steps] * len(keeps), _ridge(W, moments, options),
        schedule.first, options.floor,
    )  # fmt: skip
    products = schedule.first + (schedule.first > 0) + (steps + 1) * len(keeps)
    # All of it is told of the first, so that the sum is right.
    costs = [products, *[0] * (len(keeps) - 1)]
    return [
        _repaired(
            one,
            gram,
            moments if cost else replace(moments, macs=0.0),
            variance,
            cost,
            evidence.free_bias,
            options,
        )
        for one, cost in zip(found, costs, strict=True)
    ]


def largest(W: Matrix, evidence: Evidence, keep: int, options: FitOptions = DEFAULT) -> Solution:
    """The ``keep`` weights of most output energy, as they are."""
    return Solution(W * top(saliency(W, like(evidence.inputs.energy, W)), keep))


# --- Compensation


def compensated(
    W: Matrix, evidence: Evidence, keep: int, options: FitOptions = DEFAULT
) -> Solution:
    """What the dense network gave, from inputs that carry the damage: the fit of ``best``."""
    (moments, gram), schedule = _moments(W, evidence, options), schedule_for(W, evidence, options)
    variance = moments.variance
    if not evidence.free_bias:
        moments = moments.about_zero()
    found = compensate(
        W, moments.H, moments.C, keep, _ridge(W, moments, options), schedule, options.floor
    )
    return _repaired(found, gram, moments, variance, schedule.products, evidence.free_bias, options)


def _moments(W: Matrix, evidence: Evidence, options: FitOptions) -> tuple[Moments, Gram | None]:
    """Those of all that is known, and the inputs' alone that another layer may see too."""
    joint = evidence.joint
    if joint is not None and not evidence.sampled:
        return joint, None
    if evidence.gram is not None or writes_out(W, evidence, options):
        fresh = Moments.of(evidence.pairs(), evidence.gram)
    else:
        fresh = Moments.few(evidence.pairs())
    return fresh if joint is None else joint.merge(fresh), fresh.gram


def _ridge(W: Matrix, moments: Moments, options: FitOptions) -> float:
    """Fewer samples than inputs over-fit: hold on to the generic weights the more."""
    return options.ridge * max(1.0, W.shape[2] / moments.count)


def _repaired(
    found: tuple[Matrix, Matrix, Matrix],
    gram: Gram | None,
    moments: Moments,
    variance: Matrix,
    products: int,
    free: bool,
    options: FitOptions,
) -> Solution:
    """What :func:`compensate` found, with half of the variance that it shrank brought back.

    ``moments`` are what was fitted to: about the means, where the bias is ``free``, or about zero;
    ``variance`` ``(G, O)`` is that of the outputs wanted.
    """
    fitted, _, now = found
    G, rows, D = fitted.shape
    H, C = moments.H, moments.C
    scale = gain(now, moments.variance, options.gain_limit) ** options.repair
    error = unexplained(scale**2 * now, scale * (fitted * C.mT).sum(-1), moments.variance, variance)
    weights = fitted * scale[..., None]
    product = 2 * H.F.shape[1] * D if isinstance(H, LowRank) else D * D
    macs = moments.macs + G * product * products * rows
    bias = fitted_bias(weights, moments.x_mean, moments.y_mean) if free else None
    return Solution(weights, bias, error, macs, gram)


def schedule_for(W: Matrix, evidence: Evidence, options: FitOptions) -> Schedule:
    """A thorough fit where it costs less than the layer's own forward pass over these samples."""
    size = math.prod(W.shape)
    thorough = options.thorough.products * size * W.shape[2] <= evidence.positions * size
    return options.thorough if thorough else options.quick


def writes_out(W: Matrix, evidence: Evidence, options: FitOptions = DEFAULT) -> bool:
    """Whether ``H`` is written out, or the samples themselves are used where they are fewer: what
    takes less."""
    if not evidence.sampled:
        return True
    _, rows, D = W.shape
    N, products = evidence.count, schedule_for(W, evidence, options).products
    few = 2 * N * D * products * rows
    return N >= D or N * gram_macs(D) + D * D * products * rows <= few


def descend(
    W: Matrix, mask: Matrix, H: Matrix, ridge: Matrix, target: Matrix, steps: int
) -> tuple[Matrix, Matrix]:
    """``steps`` of conjugate gradients on ``W (H + diag(ridge)) = target`` over the weights in
    ``mask``.

    Each row is a least-squares problem of its own, preconditioned by the diagonal; ``W`` ``(G, O,
    D)`` is where it starts, ``ridge`` ``(G, D)``, ``target`` ``(G, O, D)``. Returns the weights and
    what is left of the target there. Source: Hestenes and Stiefel 1952.
    """
    inverse = 1 / (H.diagonal(0, 1, 2) + ridge)[:, None, :]
    ridge = ridge[:, None, :]
    W, residual = W * 1, (target - W @ H - W * ridge) * mask
    direction = residual * inverse
    rz = (residual * direction).sum(-1)[..., None]
    for _ in range(steps):
        image = direction @ H
        image += direction * ridge
        image *= mask
        step = rz / ((direction * image).sum(-1)[..., None] + TINY)
        W += step * direction  # in place: a fresh array costs as much as the arithmetic
        image *= step
        residual -= image
        z = residual * inverse
        rz, before = (residual * z).sum(-1)[..., None], rz
        direction *= rz / (before + TINY)
        direction += z
    return W, residual


def compensate(
    W: Matrix,
    H: Matrix,
    C: Matrix,
    keep: int,
    ridge: float = 0.3,
    schedule: Schedule = THOROUGH,
    floor: float = 1e-6,
) -> tuple[Matrix, Matrix, Matrix]:
    """Keep ``keep`` weights of ``W`` and refit them so that the wanted outputs come out.

    Minimises ``E|W' x - y|^2 + sum_d r_d |w'_d - w_d|^2``, ``r_d = ridge * H_dd``: the inputs ``x``
    carry the damage done upstream, ``y`` is what the dense network gave there, and the second term
    holds on to the generic weights where the person's data says little. Weights go in stages, the
    least ``w'^2 (H_dd + r_d)`` first, and those that stay are refitted after each.

    Returns the weights ``(G, O, D)``, their mask, and the variance ``(G, O)`` of their outputs.
    ``H`` is a matrix or a :class:`~finepruning.core.arrays.LowRank`. Related: Frantar and Alistarh
    2023 (arXiv 2301.00774) remove with one exact solve, Meng et al. 2024 (arXiv 2406.07831) with
    ADMM.
    """
    size, stages = math.prod(W.shape), schedule.stages
    counts, steps, first = [keep], [schedule.last], 0
    if keep < size:
        between = [round(size * (keep / size) ** (i / stages)) for i in range(1, stages)]
        counts, steps, first = (
            [*between, keep],
            [schedule.each] * (stages - 1) + steps,
            schedule.first,
        )
    *_, found = removals(W, H, C, counts, steps, ridge, first, floor)
    return found


def removals(
    W: Matrix,
    H: Matrix,
    C: Matrix,
    counts: Sequence[int],
    steps: Sequence[int],
    ridge: float = 0.3,
    first: int = 0,
    floor: float = 1e-6,
) -> Iterator[tuple[Matrix, Matrix, Matrix]]:
    """The stages of :func:`compensate`: what there is when ``counts[i]`` weights are left, refitted
    by ``steps[i]``; ``first`` are steps before the first removal."""
    diagonal = H.diagonal(0, 1, 2)
    reg = ridge * diagonal + (TINY + floor * diagonal.mean(-1)[:, None])
    target, mask = C.mT + W * reg[:, None, :], W == W
    if first:
        W, _ = descend(W, mask, H, reg, target, first)
    for count, some in zip(counts, steps, strict=True):
        mask = top((saliency(W, diagonal + reg) + TINY) * mask, count)
        W, residual = descend(W * mask, mask, H, reg, target, some)
        # W H W^T without one more product: where W is not zero, W H is what the residual leaves.
        yield W, mask, (W * (target - residual - W * reg[:, None, :])).sum(-1)


# --- Gains


def scaled(W: Matrix, evidence: Evidence, keep: int, options: FitOptions = DEFAULT) -> Solution:
    """The weights that :func:`compensated` keeps, each the generic one times a gain of its output
    and one of its input.

    Minimises ``E|diag(r) A diag(c) x - y|^2``, ``A`` the weights that stay, over ``c`` and ``r`` in
    turn, both held near 1 by a ridge. All outputs share ``c``, found by conjugate gradients; it is
    1 where a layer has groups.
    """
    (moments, gram), free = _moments(W, evidence, options), evidence.free_bias
    variance = moments.variance
    if not free:
        moments = moments.about_zero()
    H, C, ridge = moments.H, moments.C, _ridge(W, moments, options)
    schedule = schedule_for(W, evidence, options)
    _, mask, _ = compensate(W, H, C, keep, ridge, schedule, options.floor)
    A = W * mask
    r, c = W[..., :1] * 0 + 1, W[:, :1, :] * 0 + 1
    for _ in range(options.rounds):
        if len(W) == 1:
            c = of_inputs(A * r, H, C, c, ridge, options.columns)
        B = A * c
        square, cross = (B * (B @ H)).sum(-1)[..., None], (B * C.mT).sum(-1)[..., None]
        r = (cross + ridge * square) / ((1 + ridge) * square + TINY)
    found = A * c * r
    now = (found * (found @ H)).sum(-1)
    products = schedule.products + options.rounds * (options.columns + 2) + 1
    return _repaired((found, mask, now), gram, moments, variance, products, free, options)


# --- Repair


def rescaled(W: Matrix, evidence: Evidence, keep: int, options: FitOptions = DEFAULT) -> Solution:
    """The weights of most output energy, with each output's mean and variance brought back: the fit
    of ``fast``."""
    return repaired(largest(W, evidence, keep, options).weights, evidence, options)


def repaired(W: Matrix, evidence: Evidence, options: FitOptions = DEFAULT) -> Solution:
    """``W`` ``(G, O, D)``, pruned by whatever rule, with each output's mean and variance back."""
    outputs, free = evidence.outputs, evidence.free_bias
    mean_wanted = outputs.mean if free else outputs.mean * 0
    variance = outputs.variance if free else outputs.energy
    count = macs = 0.0
    mean, square, cross = (mean_wanted * 0 for _ in range(3))
    if (joint := evidence.joint) is not None:
        n, y = joint.count, double((W @ joint.x_mean[..., None])[..., 0])
        count, mean = n, n * y
        square = n * (double(((W @ joint.H) * W).sum(-1)) + y**2)
        cross = n * (double((W * joint.C.mT).sum(-1)) + y * joint.y_mean)
        macs = joint.macs + math.prod(W.shape) * W.shape[2]
    for X, wanted, *weight in evidence.pairs():
        w = weight[0] if weight else 1.0
        y = double(X @ W.mT)
        macs += y.shape[1] * math.prod(W.shape)
        count = count + w * y.shape[1]
        mean = mean + w * y.sum(1)
        square = square + w * (y * y).sum(1)
        cross = cross + w * (y * wanted).sum(1)
    mean = mean / count if free else mean * 0
    now, covariance = square / count - mean**2, cross / count - mean * mean_wanted
    scale = gain(now, variance, options.gain_limit)
    error = unexplained(scale**2 * now, scale * covariance, variance, outputs.variance)
    bias = like(mean_wanted - scale * mean, W) if free else None
    return Solution(W * like(scale[..., None], W), bias, error, macs)
