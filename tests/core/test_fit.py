"""The core on plain matrices: the same in NumPy and PyTorch, and equal to textbook formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finepruning._core import (
    Moments,
    Schedule,
    compensate,
    descend,
    few,
    fitted_bias,
    gain,
    gram,
    ridged,
    saliency,
    top,
    unexplained,
)

GROUPS, OUTPUTS, INPUTS, SAMPLES = 2, 4, 6, 80
RNG = np.random.default_rng(0)
W = RNG.normal(size=(GROUPS, OUTPUTS, INPUTS))
X = RNG.normal(size=(GROUPS, SAMPLES, INPUTS)) @ RNG.normal(size=(GROUPS, INPUTS, INPUTS)) + 1
Y = X @ W.swapaxes(1, 2) + 0.3 * RNG.normal(size=(GROUPS, SAMPLES, OUTPUTS)) - 2


def moments(X: Any = X, Y: Any = Y) -> Moments:
    m = Moments()
    m.add(X, Y)
    return m


H, C, VARIANCE = moments().covariances()


def missed(W: Any, H: Any = H, C: Any = C, variance: Any = VARIANCE) -> float:
    """Share of the variance that the weights ``W`` miss."""
    return unexplained(((W @ H) * W).sum(-1), (W * C.mT).sum(-1), variance)


def both(f: Any, *args: Any) -> None:
    """``f`` gives the same for NumPy arrays and for tensors."""
    as_tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args]
    mine, theirs = f(*args), f(*as_tensors)
    for a, b in zip(*([v] if not isinstance(v, tuple) else v for v in (mine, theirs)), strict=True):
        assert isinstance(b, torch.Tensor) == isinstance(a, np.ndarray)
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_numpy_and_torch_agree() -> None:
    mask = W > 0
    ridge = np.ones((GROUPS, INPUTS))
    both(lambda X, Y: (*moments(X, Y).covariances(), *moments(X, Y).means()), X, Y)
    both(lambda X: gram(X, 0, block=4), X)
    both(saliency, W, ridge)
    both(ridged, H, ridge)
    both(descend, W, mask, H + np.eye(INPUTS), C.swapaxes(1, 2).copy(), 3)
    for keep in (1, 20, W.size):
        both(compensate, W, H, C, keep)
        both(top, W, keep)
    both(gain, VARIANCE, VARIANCE[:, ::-1].copy())
    both(fitted_bias, W, X.mean(1), Y.mean(1))
    both(unexplained, VARIANCE / 2, VARIANCE / 3, VARIANCE)


def test_few_samples_give_the_same_without_a_gram_matrix() -> None:
    (x, y), (low, C_few, variance) = few(X, Y)
    m = moments()
    for mine, theirs in zip((x, y, C_few, variance), (*m.means(), C, VARIANCE), strict=True):
        np.testing.assert_allclose(mine, theirs)
    np.testing.assert_allclose(W @ low, W @ H)
    np.testing.assert_allclose(low.diagonal(0, 1, 2), H.diagonal(0, 1, 2))
    ridge = RNG.random((GROUPS, INPUTS))
    np.testing.assert_allclose(W @ ridged(low, ridge), W @ ridged(H, ridge))
    np.testing.assert_allclose(ridged(low, ridge).diagonal(), ridged(H, ridge).diagonal(0, 1, 2))
    for mine, theirs in zip(compensate(W, low, C, 20), compensate(W, H, C, 20), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)
    both(
        lambda X, Y: compensate(
            W if isinstance(X, np.ndarray) else torch.from_numpy(W), *few(X, Y)[1][:2], 20
        ),
        X,
        Y,
    )


def test_moments() -> None:
    for g in range(GROUPS):
        wanted = np.cov(X[g].T, Y[g].T, bias=True)
        np.testing.assert_allclose(H[g], wanted[:INPUTS, :INPUTS])
        np.testing.assert_allclose(C[g], wanted[:INPUTS, INPUTS:], atol=1e-12)
        np.testing.assert_allclose(VARIANCE[g], np.diag(wanted)[INPUTS:])
    np.testing.assert_allclose(moments().means()[0], X.mean(1))
    np.testing.assert_allclose(moments().means()[1], Y.mean(1))


@given(st.lists(st.integers(1, SAMPLES - 1), max_size=5, unique=True).map(sorted))
def test_moments_stream(cuts: list[int]) -> None:
    """Bit by bit or all at once: the same."""
    streamed = Moments()
    for x, y in zip(np.split(X, cuts, 1), np.split(Y, cuts, 1), strict=True):
        streamed.add(x, y)
    assert streamed.count == SAMPLES
    for mine, wanted in zip(streamed.covariances(), (H, C, VARIANCE), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-9)


@given(st.integers(1, 7), st.booleans())
def test_gram_by_blocks(block: int, started: bool) -> None:
    total = X.swapaxes(1, 2) @ X if started else 0
    once = gram(X, total * 1, block=block)
    np.testing.assert_allclose(once, X.swapaxes(1, 2) @ X * (1 + started))


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40).flatmap(
        lambda s: st.tuples(st.just(s), st.integers(-1, len(s) + 1))
    )
)
def test_top_keeps_exactly_and_the_first_of_equal_ones(drawn: tuple[list[int], int]) -> None:
    values, count = drawn
    order = sorted(range(len(values)), key=lambda i: -values[i])[: max(count, 0)]
    wanted = np.isin(np.arange(len(values)), order)
    scores = np.array(values, dtype=np.float64)
    np.testing.assert_array_equal(top(scores, count), wanted)
    np.testing.assert_array_equal(top(torch.from_numpy(scores), count), wanted)
    np.testing.assert_array_equal(top(scores[None, :, None], count)[0, :, 0], wanted)


def test_top_sees_memory_order_through_a_view() -> None:
    scores = torch.ones(3, 4).T
    assert top(scores, 3).flatten().tolist() == [True] * 3 + [False] * 9


def test_saliency_is_output_energy() -> None:
    """Removing one weight changes the mean squared output by its saliency."""
    scores = saliency(W, (X**2).mean(1))
    g, o, d = 1, 2, 3
    removed = X[g, :, d] * W[g, o, d]
    assert scores[g, o, d] == pytest.approx((removed**2).mean())


def test_descend_reaches_the_solution() -> None:
    ridge, target = np.full((GROUPS, INPUTS), 0.1), RNG.normal(size=W.shape)
    mask = RNG.random(W.shape) < 0.6
    found, left = descend(W * mask, mask, ridged(H, ridge), target, 60)
    np.testing.assert_allclose(left, (target - found @ H - found * 0.1) * mask, atol=1e-9)
    for g, o in np.ndindex(GROUPS, OUTPUTS):
        m = mask[g, o]
        exact = np.linalg.solve((H[g] + np.diag(ridge[g]))[np.ix_(m, m)], target[g, o, m])
        np.testing.assert_allclose(found[g, o, m], exact, rtol=1e-6, atol=1e-9)
        assert not found[g, o, ~m].any()


def test_descend_lowers_the_cost_at_every_step() -> None:
    ridge, target = np.full((GROUPS, INPUTS), 0.1), C.swapaxes(1, 2)

    def cost(V: Any) -> Any:
        return ((V @ H + V * ridge[:, None]) * V / 2 - target * V).sum(-1)

    costs = [cost(descend(W * 0, W == W, ridged(H, ridge), target, steps)[0]) for steps in range(8)]
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


def test_dead_inputs_and_outputs_stay_finite() -> None:
    x, y = X.copy(), Y.copy()
    x[:, :, 2], y[:, :, 1] = 0, 5
    for kind in (np.float64, np.float32):
        H, C, variance = moments(x.astype(kind), y.astype(kind)).covariances()
        found, _, now = compensate(W.astype(kind), H, C, 20)
        assert np.isfinite(found).all()
        assert np.isfinite(now).all()
        assert np.isfinite(missed(found, H, C, variance))
    nothing = moments(x * 0, y * 0).covariances()
    assert np.isfinite(compensate(W, *nothing[:2], 20)[0]).all()
    assert missed(W, *nothing) == 0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [0.3, 1e3, 1e4])
def test_inputs_that_hardly_vary(kind: type, mean: float) -> None:
    """However large their means, rounding does not drive their weights off."""
    x = X.copy()
    x[:, :, 0], x[:, :, 1] = mean, mean + 1e-3 * X[:, :, 1]
    y = x @ W.swapaxes(1, 2)
    m = moments(x.astype(kind), y.astype(kind))
    m.add(x.astype(kind), y.astype(kind))
    found, _, _ = compensate(W.astype(kind), *m.covariances()[:2], 24)
    assert np.abs(found).max() < 3 * np.abs(W).max()
    assert 0 <= missed(found, *m.covariances()) < 1
    np.testing.assert_allclose(m.means()[0], x.mean(1), rtol=1e-6)


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
    out = X @ V.swapaxes(1, 2) + fitted_bias(V, X.mean(1), Y.mean(1))[:, None]
    np.testing.assert_allclose(out.mean(1), Y.mean(1))
    np.testing.assert_allclose(out.var(1), VARIANCE)


def test_unexplained_is_the_residual_variance() -> None:
    residual = (Y - X @ W.swapaxes(1, 2)).var(1).sum() / Y.var(1).sum()
    assert missed(W) == pytest.approx(residual)
    assert missed(W * 0) == pytest.approx(1)
