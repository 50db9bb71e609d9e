"""Fits: what stays of a layer, equal to textbook formulas, the same in NumPy and PyTorch."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finepruning.core.arrays import LowRank, gram_macs, top
from finepruning.core.evidence import Evidence
from finepruning.core.fit import (
    QUICK,
    THOROUGH,
    FitOptions,
    Schedule,
    Solution,
    compensate,
    compensated,
    descend,
    fit,
    fitted_bias,
    gain,
    largest,
    repaired,
    rescaled,
    saliency,
    schedule_for,
    unexplained,
    writes_out,
)
from finepruning.core.moments import Gram, Moments
from problems import (
    GROUPS,
    INPUTS,
    OUTPUTS,
    SAMPLES,
    Unchanged,
    W,
    X,
    Y,
    close,
    in_torch,
    joint,
    parts,
    plain,
    sampled,
)

BOTH = pytest.mark.parametrize("to", [np.asarray, in_torch], ids=["numpy", "torch"])
METHODS = pytest.mark.parametrize("method", ["compensate", "rescale", "gains"])
MOMENTS = Moments.of([(X, Y)])
H, C, VARIANCE = MOMENTS.H, MOMENTS.C, MOMENTS.variance
FEW = 3
"""Samples that are used as they are: with these sizes, a Gram matrix of 4 costs less."""


def known(x: Any, y: Any) -> Evidence:
    """Evidence with the Gram matrix of another layer that sees the same."""
    return replace(sampled(x, y, 1.0, 1.0), gram=Moments.of([(x, y)]).gram)


FORMS: dict[str, Any] = {
    "joint": joint,
    "sampled": sampled,
    "in parts": lambda x, y: sampled(x, y, 1.0, 0.5, 0.25),
    "few": lambda x, y: sampled(x[:, :FEW], y[:, :FEW]),
    "few, in parts": lambda x, y: sampled(x[:, :FEW], y[:, :FEW], 1.0, 0.5),
    "thorough": lambda x, y: sampled(x, y, positions=10**6),
    "few, thorough": lambda x, y: sampled(x[:, :FEW], y[:, :FEW], 1.0, 1.0, positions=10**6),
    "known": known,
}
EVIDENCE = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


def missed(W: Any, H: Any = H, C: Any = C, variance: Any = VARIANCE) -> float:
    """Share of the variance that the weights ``W`` miss."""
    return unexplained(((W @ H) * W).sum(-1), (W * C.mT).sum(-1), variance, variance)


def both(f: Any, *args: Any) -> None:
    """``f`` gives the same for NumPy arrays and for tensors, and changes none of them."""
    as_tensors = [in_torch(a) for a in args]
    with Unchanged(*args), Unchanged(*as_tensors):
        mine, theirs = f(*args), f(*as_tensors)
    for a, b in zip(*([v] if not isinstance(v, tuple) else v for v in (mine, theirs)), strict=True):
        assert isinstance(b, torch.Tensor) == isinstance(a, np.ndarray)
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_numpy_and_torch_agree() -> None:
    mask = W > 0
    ridge = np.ones((GROUPS, INPUTS))
    both(saliency, W, ridge)
    both(descend, W, mask, H + np.eye(INPUTS), ridge, C.mT.copy(), 3)
    for keep in (1, 20, W.size):
        both(compensate, W, H, C, keep)
        both(top, W, keep)
    both(gain, VARIANCE, VARIANCE[:, ::-1].copy())
    both(fitted_bias, W, X.mean(1), Y.mean(1))
    both(unexplained, VARIANCE / 2, VARIANCE / 3, VARIANCE, VARIANCE)


# --- A layer and its evidence


@METHODS
@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_what_was_seen_before_counts_as_if_it_were_there(
    as_tensors: bool, method: str, weight: float
) -> None:
    """Moments of earlier samples beside new ones are worth what the samples themselves are."""
    cut, options = SAMPLES // 2, FitOptions(method=method)
    earlier, later = slice(None, cut), slice(cut, None)
    b = np.ones((GROUPS, OUTPUTS))
    dense = X @ W.mT + b[:, None, :]

    def mine() -> Solution:
        to = in_torch if as_tensors else np.asarray
        new = sampled(to(X[:, later]), to(dense[:, later]))
        past = Moments.linear(to(W), to(b), Gram.few(to(X[:, earlier])).decayed(weight))
        known = Evidence(past.gram.marginals(), past.outputs, joint=past)
        return fit(to(W), new.merge(known), 20, options)

    new = sampled(X[:, later], dense[:, later])
    both = sampled(X[:, earlier], dense[:, earlier], weight)
    wanted = replace(
        both,
        inputs=both.inputs.decayed(weight).merge(new.inputs),
        outputs=both.outputs.decayed(weight).merge(new.outputs),
        sampled={**both.sampled, 1: new.sampled[0]},
    )
    theirs = fit(W, wanted, 20, options)
    close(replace(mine(), macs=0.0, gram=None), replace(theirs, macs=0.0, gram=None), 1e-9)


@METHODS
@EVIDENCE
@pytest.mark.parametrize("keep", [1, 20, W.size])
def test_a_solution_is_the_same_in_numpy_and_torch(method: str, form: Any, keep: int) -> None:
    options = FitOptions(method=method)
    mine = form(X, Y)
    theirs = form(in_torch(X), in_torch(Y))
    found = fit(in_torch(W), theirs, keep, options)
    assert isinstance(found.weights, torch.Tensor)
    assert found.weights.dtype == torch.float64
    close(found, fit(W, mine, keep, options), 1e-9)


@METHODS
@EVIDENCE
@BOTH
def test_a_fit_changes_nothing_that_it_is_given(method: str, form: Any, to: Any) -> None:
    options = FitOptions(method=method)
    weights, x, y = to(W), to(X), to(Y)
    seen = form(x, y)
    with Unchanged(weights, x, y, seen, options):
        first = fit(weights, seen, 20, options)
        with Unchanged(first):
            second = fit(weights, seen, 20, options)
    close(second, first, 0)


@METHODS
@EVIDENCE
@settings(max_examples=10)
@given(keep=st.integers(0, W.size))
def test_counts_are_exact(method: str, form: Any, keep: int) -> None:
    found = fit(W, form(X, Y), keep, FitOptions(method=method))
    assert (found.weights != 0).sum() == keep
    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.bias).all()
    assert found.bias.shape == (GROUPS, OUTPUTS)


def test_the_method_is_the_options() -> None:
    seen = sampled(X, Y)
    close(fit(W, seen, 20), compensated(W, seen, 20))
    close(fit(W, seen, 20, FitOptions(method="rescale")), rescaled(W, seen, 20))


def test_few_samples_give_the_same_without_a_gram_matrix() -> None:
    few = Moments.few([(X, Y)])
    assert isinstance(few.H, LowRank)
    for mine, wanted in zip(compensate(W, few.H, C, 20), compensate(W, H, C, 20), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-9)
    # A layer that is so fitted, and the same layer with its moments written out.
    for form in ("few", "few, in parts", "few, thorough"):
        seen = FORMS[form](X, Y)
        assert not writes_out(W, seen)
        mine = compensated(W, seen, 20)
        assert isinstance(mine.gram.H, LowRank)
        wanted = compensated(W, replace(seen, joint=Moments.of(seen.pairs()), sampled={}), 20)
        close(replace(mine, macs=0.0, gram=None), replace(wanted, macs=0.0), 1e-9)


@BOTH
@pytest.mark.parametrize("keep", [20, W.size])
def test_a_known_gram_gives_the_same_at_less_cost(to: Any, keep: int) -> None:
    weights, seen = to(W), sampled(to(X), to(Y), 1.0, 0.5)
    first = compensated(weights, seen, keep)
    again = compensated(weights, replace(seen, gram=first.gram), keep)
    assert again.gram is first.gram
    assert first.macs - again.macs == GROUPS * SAMPLES * gram_macs(INPUTS)
    close(replace(again, macs=first.macs), first, 1e-12)
    few = sampled(to(X[:, :FEW]), to(Y[:, :FEW]))
    first = compensated(weights, few, keep)
    again = compensated(weights, replace(few, gram=first.gram), keep)
    close(again, first, 1e-12)  # a low rank is used again too


def test_moments_of_a_layer_alone_are_shared_with_none() -> None:
    assert compensated(W, joint(X, Y), 20).gram is None
    assert compensated(W, sampled(X, Y), 20).gram is not None
    assert rescaled(W, sampled(X, Y), 20).gram is None


@pytest.mark.parametrize("form", [joint, sampled, known])
@pytest.mark.parametrize("ridge", [1e-9, 0.3])
def test_with_all_weights_it_is_least_squares(form: Any, ridge: float) -> None:
    """That of outputs on inputs, however far from them the generic weights are, or held to them."""
    many = Schedule(stages=1, first=0, each=0, last=200)
    options = FitOptions(ridge=ridge, repair=0.0, quick=many, thorough=many)
    generic = np.random.default_rng(1).normal(size=W.shape)
    found = fit(generic, form(X, Y), W.size, options)
    for g, o in np.ndindex(GROUPS, OUTPUTS):
        # One row a sample, one row a weight that is held on to: a little in any case, so that an
        # input that is always zero can be solved for.
        held = (ridge * X[g].var(0) + 1e-6 * X[g].var(0).mean()) ** 0.5
        A = np.block([[X[g], np.ones((SAMPLES, 1))], [np.diag(held), np.zeros((INPUTS, 1))]])
        A[:SAMPLES] /= SAMPLES**0.5
        b = np.concatenate([Y[g, :, o] / SAMPLES**0.5, held * generic[g, o]])
        *exact, bias = np.linalg.lstsq(A, b)[0]
        np.testing.assert_allclose(found.weights[g, o], exact, rtol=1e-5, atol=1e-5)
        assert found.bias[g, o] == pytest.approx(bias, rel=1e-4, abs=1e-4)
    out = X @ found.weights.mT + found.bias[:, None]
    assert found.error == pytest.approx(((out - Y) ** 2).mean(1).sum() / Y.var(1).sum())


@EVIDENCE
@pytest.mark.parametrize("method", ["compensate", "rescale"])
def test_groups_are_fitted_each_by_itself(form: Any, method: str) -> None:
    """Which weights go is settled over all of them; what the others become is each group's own."""
    one_stage = Schedule(stages=1, first=0, each=0, last=4)
    options = FitOptions(method=method, quick=one_stage, thorough=one_stage)
    found = fit(W, form(X, Y), 30, options)
    counts = (found.weights != 0).sum((1, 2))
    assert counts.sum() == 30
    for g in range(GROUPS):
        mine = fit(W[g : g + 1], form(X[g : g + 1], Y[g : g + 1]), int(counts[g]), options)
        np.testing.assert_allclose(mine.weights[0], found.weights[g], atol=1e-9)
        np.testing.assert_allclose(mine.bias[0], found.bias[g], atol=1e-9)


def test_what_is_missed_is_measured() -> None:
    for method, form in product(("compensate", "rescale", "gains"), (joint, sampled)):
        found = fit(W, form(X, Y), 30, FitOptions(method=method))
        out = X @ found.weights.mT + found.bias[:, None]
        np.testing.assert_allclose(out.mean(1), Y.mean(1), atol=1e-9)
        assert found.error == pytest.approx((Y - out).var(1).sum() / Y.var(1).sum(), rel=1e-6)


def test_older_batches_count_less() -> None:
    """Weights of samples: as if each were there so often."""
    for method in ("compensate", "rescale", "gains"):
        options = FitOptions(method=method)
        a, b = (X[:, :50], Y[:, :50]), (X[:, 50:], Y[:, 50:])
        twice = sampled(*(np.concatenate([p, p, q], 1) for p, q in zip(a, b, strict=True)))
        batches = {0: replace(sampled(*a).sampled[0], weight=2.0), 1: sampled(*b).sampled[0]}
        old = Evidence(twice.inputs, twice.outputs, sampled=batches)
        mine, wanted = fit(W, old, 20, options), fit(W, twice, 20, options)
        close(replace(mine, macs=0.0), replace(wanted, macs=0.0), 1e-9)


def test_the_ridge_grows_where_samples_are_fewer_than_inputs() -> None:
    """By their weights: samples that have grown old are fewer."""
    generic = np.random.default_rng(1).normal(size=W.shape)
    seen = sampled(X[:, :FEW], Y[:, :FEW])
    found = compensated(generic, seen, W.size)
    moments = Moments.of(seen.pairs())
    exact, _, _ = compensate(generic, moments.H, moments.C, W.size, 0.3 * INPUTS / FEW, QUICK)
    assert (np.sign(found.weights) == np.sign(exact)).all()
    scale = found.weights / exact
    np.testing.assert_allclose(scale, scale[..., :1] * np.ones(INPUTS), rtol=1e-9)
    apart = [
        np.abs(compensated(generic, old, W.size, FitOptions(repair=0.0)).weights - generic).mean()
        for old in (seen, seen.decayed(0.5), seen.decayed(0.1))
    ]
    assert apart[0] > apart[1] > apart[2]


@pytest.mark.parametrize("repair", [0.0, 0.5, 1.0])
def test_repair_brings_back_a_share_of_the_variance(repair: float) -> None:
    found = fit(W, joint(X, Y), 30, FitOptions(repair=repair, gain_limit=100.0))
    plain_ = fit(W, joint(X, Y), 30, FitOptions(repair=0.0)).weights
    now = ((plain_ @ H) * plain_).sum(-1)
    wanted = now * (VARIANCE / now) ** repair
    np.testing.assert_allclose(((found.weights @ H) * found.weights).sum(-1), wanted)


@BOTH
def test_largest_are_those_of_most_output_energy(to: Any) -> None:
    found = largest(to(W), sampled(to(X), to(Y)), 20)
    kept = plain(found.weights)
    np.testing.assert_array_equal(kept, W * top(saliency(W, (X**2).mean(1)), 20))
    assert (kept != 0).sum() == 20
    assert found == Solution(found.weights)


@pytest.mark.parametrize("form", [joint, sampled, known])
@BOTH
def test_repaired_has_the_dense_mean_and_variance(form: Any, to: Any) -> None:
    cut = to(W * top(W**2, 40))
    seen = form(to(X), to(Y))
    found = repaired(cut, seen, FitOptions(gain_limit=100.0))
    out = X @ plain(found.weights).mT + plain(found.bias)[:, None]
    np.testing.assert_allclose(out.mean(1), Y.mean(1))
    np.testing.assert_allclose(out.var(1), Y.var(1))


@pytest.mark.parametrize("form", [joint, sampled, known])
@pytest.mark.parametrize("way", [compensated, rescaled])
@BOTH
def test_without_a_free_bias_all_is_about_zero(form: Any, way: Any, to: Any) -> None:
    """As if each input came with its opposite: then all means are zero."""
    seen = replace(form(to(X), to(Y)), free_bias=False)
    found = way(to(W), seen, 40, FitOptions(gain_limit=100.0))
    assert found.bias is None
    mirrored = form(to(np.concatenate([X, -X], 1)), to(np.concatenate([Y, -Y], 1)))
    wanted = way(
        to(W), replace(mirrored, positions=seen.positions), 40, FitOptions(gain_limit=100.0)
    )
    np.testing.assert_allclose(plain(found.weights), plain(wanted.weights), atol=1e-6)
    out = X @ plain(found.weights).mT
    missed = ((Y - out) ** 2).mean(1).sum() / Y.var(1).sum()
    assert found.error == pytest.approx(missed)


# --- Gains


@BOTH
def test_gains_against_equations_written_out(to: Any) -> None:
    """One round: the inputs' gains solve a linear system, then each output's is a quotient."""
    w, x, y = W[:1], X[:1], Y[:1]
    options = FitOptions("gains", repair=0.0, rounds=1, columns=60)
    found = fit(to(w), joint(to(x), to(y)), 20, options)
    kept = plain(compensated(to(w), joint(to(x), to(y)), 20).weights)[0] != 0
    moments = Moments.of([(x, y)])
    H, C, A = moments.H[0], moments.C[0], w[0] * kept
    rows, D = A.shape
    N, b = np.zeros((D, D)), np.zeros(D)
    for o in range(rows):
        N += H * np.outer(A[o], A[o])
        b += A[o] * C[:, o]
    own = N.diagonal() * options.ridge
    c = np.linalg.lstsq(N + np.diag(own), b + own, rcond=None)[0]
    c[N.diagonal() == 0] = 1  # an input that nobody reads
    wanted = np.zeros_like(A)
    for o in range(rows):
        B = A[o] * c
        square = B @ H @ B
        r = (B @ C[:, o] + options.ridge * square) / ((1 + options.ridge) * square)
        wanted[o] = r * B
    np.testing.assert_allclose(plain(found.weights)[0], wanted, atol=1e-5)
    missed = ((y - (x @ wanted.T + plain(found.bias)[:, None])) ** 2).mean(1).sum() / y.var(1).sum()
    assert found.error == pytest.approx(missed, rel=1e-4)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_gains_miss_less_than_a_gain_of_outputs_alone(form: Any) -> None:
    seen = form(X[:1], Y[:1])
    missed = [
        fit(W[:1], seen, 20, FitOptions("gains", repair=0.0, ridge=0.01, columns=n)).error
        for n in (0, 8)
    ]
    assert missed[1] < missed[0]


def test_gains_of_groups_are_of_outputs_alone() -> None:
    found = plain(fit(W, joint(X, Y), 40, FitOptions("gains")).weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(found != 0, found / W, np.nan)
    np.testing.assert_allclose(
        np.nanmax(ratio, -1), np.nanmin(ratio, -1), err_msg="one gain of each output"
    )


# --- Which way, and what it costs


@pytest.mark.parametrize(("positions", "thorough"), [(0, False), (281, False), (282, True)])
def test_thorough_where_it_costs_less_than_the_layer_itself(positions: int, thorough: bool) -> None:
    """47 products of 6 inputs squared, for each row; 6 inputs for each row and position."""
    assert THOROUGH.products == 2 + 7 * 4 + 8 + 8 + 1 == 47
    seen = sampled(X, Y, positions=positions)
    assert schedule_for(W, seen, FitOptions()) == (THOROUGH if thorough else QUICK)
    swapped = FitOptions(quick=THOROUGH, thorough=QUICK)
    assert schedule_for(W, seen, swapped) == (QUICK if positions >= 6 * 6 else THOROUGH)


@pytest.mark.parametrize(
    ("count", "written"), [(1, False), (3, False), (4, True), (6, True), (80, True)]
)
def test_a_gram_matrix_is_written_out_where_that_costs_less(count: int, written: bool) -> None:
    """6 inputs, 4 rows, 6 products: 36 n + 36 * 24 against 2 * 6 * 24 n."""
    seen = sampled(X[:, :count], Y[:, :count])
    assert writes_out(W, seen) == written
    assert writes_out(W, joint(X[:, :count], Y[:, :count]))
    thorough = sampled(X[:, :count], Y[:, :count], positions=282)
    assert writes_out(W, thorough) == (count * 36 + 36 * 47 * 4 <= 12 * 47 * 4 * count)


@settings(max_examples=60)
@given(
    G=st.integers(1, 2), rows=st.integers(1, 5), D=st.integers(1, 12),
    count=st.integers(1, 14), positions=st.sampled_from([0, 10**6]),
)  # fmt: skip
def test_the_way_taken_is_the_cheaper_one(
    G: int, rows: int, D: int, count: int, positions: int
) -> None:
    rng = np.random.default_rng(0)
    V, x = rng.normal(size=(G, rows, D)), rng.normal(size=(G, count, D))
    seen = sampled(x, x @ V.mT, positions=positions)
    products = rows * schedule_for(V, seen, FitOptions()).products
    outer = G * count * D * rows
    dense = outer + G * (count * gram_macs(D) + D * D * products)
    samples = outer + G * 2 * count * D * products
    assert compensated(V, seen, rows).macs == (dense if count >= D else min(dense, samples))


@pytest.mark.parametrize("form", ["few, in parts", "few, thorough"])
def test_macs_of_few_samples_in_parts(form: str) -> None:
    """How the parts' means lie apart is one sample more."""
    seen = FORMS[form](X, Y)
    products = 47 if "thorough" in form else 6
    macs = GROUPS * (FEW * INPUTS * OUTPUTS + 2 * (FEW + 1) * INPUTS * OUTPUTS * products)
    assert compensated(W, seen, 20).macs == macs


def test_macs_of_repair() -> None:
    assert rescaled(W, sampled(X, Y, 1.0, 0.5), 20).macs == SAMPLES * W.size
    moments = joint(X, Y)
    assert rescaled(W, moments, 20).macs == moments.joint.macs + W.size * INPUTS


class Counting(LowRank):
    """Counts the products with it."""

    products = 0

    def __rmatmul__(self, W: Any) -> Any:
        self.products += 1
        return super().__rmatmul__(W)


@pytest.mark.parametrize("schedule", [QUICK, THOROUGH, Schedule(3, 0, 2, 4), Schedule(1, 5, 9, 1)])
def test_the_products_of_a_schedule_are_those_that_it_takes(schedule: Schedule) -> None:
    covariance = Counting(X)
    compensate(W, covariance, C, 20, schedule=schedule)
    assert covariance.products == schedule.products
    covariance = Counting(X)
    compensate(W, covariance, C, W.size, schedule=schedule)  # nothing is to be removed
    assert covariance.products == 1 + schedule.last <= schedule.products


# --- The parts of a fit


def test_saliency_is_output_energy() -> None:
    """Removing one weight changes the mean squared output by its saliency."""
    scores = saliency(W, (X**2).mean(1))
    g, o, d = 1, 2, 3
    removed = X[g, :, d] * W[g, o, d]
    assert scores[g, o, d] == pytest.approx((removed**2).mean())


def test_descend_reaches_the_solution() -> None:
    rng = np.random.default_rng(1)
    ridge, target = np.full((GROUPS, INPUTS), 0.1), rng.normal(size=W.shape)
    mask = rng.random(W.shape) < 0.6
    found, left = descend(W * mask, mask, H, ridge, target, 60)
    np.testing.assert_allclose(left, (target - found @ H - found * 0.1) * mask, atol=1e-9)
    for g, o in np.ndindex(GROUPS, OUTPUTS):
        m = mask[g, o]
        exact = np.linalg.solve((H[g] + np.diag(ridge[g]))[np.ix_(m, m)], target[g, o, m])
        np.testing.assert_allclose(found[g, o, m], exact, rtol=1e-6, atol=1e-9)
        assert not found[g, o, ~m].any()


def test_descend_lowers_the_cost_at_every_step() -> None:
    ridge, target = np.full((GROUPS, INPUTS), 0.1), C.mT

    def cost(V: Any) -> Any:
        return ((V @ H + V * ridge[:, None]) * V / 2 - target * V).sum(-1)

    costs = [cost(descend(W * 0, W == W, H, ridge, target, steps)[0]) for steps in range(8)]
    assert (np.diff(costs, axis=0) <= 1e-12).all()


@pytest.mark.parametrize("keep", [7, 24, 47, 48])
@pytest.mark.parametrize("ridge", [1e-3, 0.3])
def test_compensate_is_masked_least_squares(keep: int, ridge: float) -> None:
    """With many steps it is the minimum of E|W'x - y|^2 + sum r_d |w'_d - w_d|^2 on its mask."""
    found, mask, now = compensate(W, H, C, keep, ridge, Schedule(3, 80, 80, 80))
    np.testing.assert_allclose(now, ((found @ H) * found).sum(-1), atol=1e-9)
    assert mask.sum() == keep
    assert not found[~mask].any()
    for g, o in np.ndindex(GROUPS, OUTPUTS):
        m = mask[g, o]
        r = ridge * np.diag(H[g])[m]
        # As ordinary least squares: one row a sample, one row a weight that is held on to.
        A = np.concatenate([(X[g] - X[g].mean(0))[:, m] / SAMPLES**0.5, np.diag(r**0.5)])
        b = np.concatenate([(Y[g, :, o] - Y[g, :, o].mean()) / SAMPLES**0.5, r**0.5 * W[g, o, m]])
        exact = np.linalg.lstsq(A, b)[0]
        np.testing.assert_allclose(found[g, o, m], exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_compensate_beats_cutting(stages: int) -> None:
    found, mask, now = compensate(W, H, C, 24, schedule=Schedule(stages, 2, 2, 2))
    assert mask.sum() == 24
    cut = W * top(saliency(W, H.diagonal(0, 1, 2)), 24)
    assert missed(found) < missed(cut)
    np.testing.assert_allclose(now, ((found @ H) * found).sum(-1))


def test_compensate_leaves_the_last_weight_and_takes_all() -> None:
    for keep in (0, 1):
        found, mask, _ = compensate(W, H, C, keep)
        assert mask.sum() == (found != 0).sum() == keep


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0.3, 1e3, 1e4])
def test_inputs_that_hardly_vary(kind: type, mean: float) -> None:
    """However large their means, rounding does not drive their weights off."""
    x = X.copy()
    x[:, :, 0], x[:, :, 1] = mean, mean + 1e-3 * X[:, :, 1]
    y = x @ W.mT
    pair = x.astype(kind), y.astype(kind)
    m = Moments.of([pair, pair])
    found, _, _ = compensate(W.astype(kind), m.H, m.C, 24)
    assert np.abs(found).max() < 3 * np.abs(W).max()
    assert 0 <= missed(found, m.H, m.C, m.variance) < 1
    np.testing.assert_allclose(m.x_mean, x.mean(1), rtol=1e-6)


def test_gain() -> None:
    one = np.ones((1, 1))
    assert gain(one * 4, one)[0, 0] == pytest.approx(0.5)
    assert gain(one, one * 4)[0, 0] == pytest.approx(2)
    assert gain(one, one * 100)[0, 0] == pytest.approx(3)
    assert gain(one * 100, one)[0, 0] == pytest.approx(1 / 3)
    assert gain(one, one * 100, limit=5)[0, 0] == pytest.approx(5)
    assert gain(one * 0, one * 0)[0, 0] == 1  # an output that never moves is left as it is
    assert gain(one * -1e-9, one * -1e-9)[0, 0] == 1  # rounding below zero


def test_gain_and_bias_restore_the_dense_statistics() -> None:
    V = W * top(W**2, 30)
    V = V * gain(((V @ H) * V).sum(-1), VARIANCE, limit=100)[..., None]
    out = X @ V.mT + fitted_bias(V, X.mean(1), Y.mean(1))[:, None]
    np.testing.assert_allclose(out.mean(1), Y.mean(1))
    np.testing.assert_allclose(out.var(1), VARIANCE)


def test_unexplained_is_the_residual_variance() -> None:
    residual = (Y - X @ W.mT).var(1).sum() / Y.var(1).sum()
    assert missed(W) == pytest.approx(residual)
    assert missed(W * 0) == pytest.approx(1)


class Watching(LowRank):
    """Notes how many weights there are, each time that another number of them is left."""

    def __rmatmul__(self, W: Any) -> Any:
        self.seen = getattr(self, "seen", [])
        left = int((W != 0).sum())
        self.seen += [left] * (self.seen[-1:] != [left])
        return super().__rmatmul__(W)


def test_the_same_share_goes_at_every_stage() -> None:
    covariance = Watching(X)
    compensate(W, covariance, C, 6, schedule=Schedule(stages=3, first=1, each=1, last=1))
    assert covariance.seen == [48, 24, 12, 6]


# --- What stays finite


def _dead(kind: Any) -> dict[str, tuple[Any, Any, Any]]:
    """Weights, inputs and outputs that say nothing in one way or another."""
    x, y = X.copy(), Y.copy()
    x[:, :, 2], y[:, :, 1] = 0, 5
    constant = np.full_like(X, 0.1), np.full_like(Y, 1e4)
    cases = {
        "a dead input and output": (W, x, y),
        "all zero": (W, X * 0, Y * 0),
        "constant": (W, *constant),
        "zero inputs": (W, X * 0, Y),
        "zero outputs": (W, X, Y * 0),
        "no weights": (W * 0, X, Y),
        "nothing at all": (W * 0, X * 0, Y * 0),
        "tiny": (W, X * 1e-18, Y * 1e-18),
    }
    return {name: tuple(a.astype(kind) for a in case) for name, case in cases.items()}


@METHODS
@EVIDENCE
@BOTH
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("case", _dead(np.float64))
def test_dead_inputs_and_outputs_stay_finite(
    method: str, form: Any, to: Any, kind: type, case: str
) -> None:
    V, x, y = map(to, _dead(kind)[case])
    found = fit(V, form(x, y), 20, FitOptions(method=method))
    numbers = parts(found)
    assert numbers["weights."].dtype == kind
    assert {"bias.", "error."} <= numbers.keys()
    for path, value in numbers.items():
        assert np.isfinite(value).all(), path
    assert (numbers["weights."] != 0).sum() <= 20
    if case in ("all zero", "nothing at all"):
        assert found.error == 0


@METHODS
@BOTH
@pytest.mark.parametrize("form", [joint, sampled])
def test_one_sample_is_fitted(method: str, to: Any, form: Any) -> None:
    found = fit(to(W), form(to(X[:, :1]), to(Y[:, :1])), 20, FitOptions(method=method))
    assert all(np.isfinite(value).all() for value in parts(found).values())
    out = X[:, :1] @ plain(found.weights).mT + plain(found.bias)[:, None]
    np.testing.assert_allclose(out, Y[:, :1])
