"""Which channels go, and what that misses, against plain least squares in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finepruning.core.arrays import LowRank
from finepruning.core.channels import (
    ChannelOptions,
    Path,
    Reader,
    eliminate,
    refitted,
    spend,
)
from finepruning.core.evidence import Evidence, Rectified, Sampled
from finepruning.core.fit import FitOptions
from finepruning.core.moments import Marginals

FAINT = ChannelOptions(hold=1e-9, at_once=1000)
PLAIN = FitOptions(ridge=1e-9, repair=0.0, floor=1e-12)


def reader(seed: int, channels: int, n: int, outputs: int) -> Reader:
    random = np.random.default_rng(seed)
    D = channels * n
    X = random.normal(size=(200, D)) @ random.normal(size=(D, D))
    H, W = X.T @ X / 200, random.normal(size=(outputs, D))
    columns = random.permutation(D).reshape(channels, n)
    return Reader(H, W, float(((W @ H) * W).sum()), columns)


def least_missed(one: Reader, gone: list[int]) -> float:
    """What refitted columns miss at the least, of the variance: by the normal equations."""
    S = one.columns[gone].reshape(-1)
    K = np.setdiff1d(np.arange(len(one.H)), S)
    V = np.zeros_like(one.W)
    V[:, K] = np.linalg.solve(one.H[np.ix_(K, K)], one.H[K] @ one.W.T).T
    E = V - one.W
    return float(((E @ one.H) * E).sum() / one.variance)


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(2, 6), st.integers(1, 3), st.integers(1, 4))
def test_what_is_missed_is_what_least_squares_misses(
    seed: int, channels: int, n: int, outputs: int
) -> None:
    readers = [reader(seed, channels, n, outputs), reader(seed + 1, channels, n, 2)]
    path = eliminate(readers, FAINT)
    assert sorted(path.order) == list(range(channels))
    for count in range(channels):
        wanted = sum(least_missed(r, path.order[:count].tolist()) for r in readers)
        assert path.missed[count] == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_the_first_to_go_is_the_one_that_misses_least(seed: int) -> None:
    one = reader(seed, 5, 2, 3)
    first = eliminate([one], FAINT).order[0]
    alone = [least_missed(one, [c]) for c in range(5)]
    assert alone[first] == pytest.approx(min(alone), rel=1e-4, abs=1e-9)


def test_both_libraries_give_the_same() -> None:
    one = reader(3, 8, 2, 3)
    two = Reader(torch.from_numpy(one.H), torch.from_numpy(one.W), one.variance, one.columns)
    a, b = eliminate([one]), eliminate([two])
    assert a.order.tolist() == b.order.tolist()
    assert np.allclose(a.missed, b.missed)


def test_a_dead_channel_goes_first_and_misses_nothing() -> None:
    one = reader(0, 4, 1, 3)
    one.H[2] = one.H[:, 2] = 0
    path = eliminate([one])
    assert path.order[0] == 2
    assert path.missed[1] < 1e-4  # what holds on to the weights counts a little
    assert path.kept(3).tolist() == [True, True, False, True]


# --- The budget


def line(*missed: float) -> Path:
    return Path(np.arange(len(missed) - 1), np.array(missed))


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 5), min_size=2, max_size=5), st.floats(0.2, 1))
def test_the_budget_is_kept_and_no_group_is_emptied(slopes: list[float], target: float) -> None:
    paths = {str(i): line(*(s * np.arange(65.0))) for i, s in enumerate(slopes)}
    whole = 64.0 * len(slopes)
    kept = spend(paths, lambda k: sum(k.values()), target * whole)
    assert sum(kept.values()) <= max(target, 0.07) * whole
    assert min(kept.values()) >= 3
    order = sorted(kept, key=lambda n: slopes[int(n)])
    assert [kept[n] for n in order] == sorted(kept.values())


def test_what_cannot_be_reached_is_gone_towards() -> None:
    kept = spend({"a": line(*range(33))}, lambda k: 100.0 + k["a"], 10)
    assert 2 <= kept["a"] <= 3


# --- The refit


def evidence(X: np.ndarray, Y: np.ndarray, free: bool = True) -> Evidence:
    n = X.shape[1]
    each = np.arange(n)
    sampled = {0: Sampled((n, 1), each, each * 0, Y, x=lambda: X)}
    return Evidence(Marginals.of(X), Marginals.of(Y), n, sampled=sampled, free_bias=free)


@pytest.mark.parametrize("free", [True, False])
def test_what_stays_is_the_least_squares_fit(free: bool) -> None:
    random = np.random.default_rng(1)
    X = random.normal(size=(1, 300, 6)) + 1
    W = random.normal(size=(1, 3, 6))
    Y = X @ W.mT + 2 + 0.1 * random.normal(size=(1, 300, 3))
    live = np.array([True, False, True, True, False, True])
    found = refitted(W, evidence(X, Y, free), live, PLAIN)
    assert not found.weights[:, :, ~live].any()
    A = X[0][:, live]
    if free:
        A = np.hstack([A, np.ones((300, 1))])
    wanted, *_ = np.linalg.lstsq(A, Y[0], rcond=None)
    assert np.allclose(found.weights[0][:, live], wanted[: live.sum()].T, atol=1e-6)
    if free:
        assert found.bias is not None
        assert np.allclose(found.bias[0], wanted[-1], atol=1e-6)
        missed = ((A @ wanted - Y[0]) ** 2).mean() / Y[0].var(0).mean()
        assert found.error == pytest.approx(missed, rel=1e-6)
    else:
        assert found.bias is None


def test_a_strong_ridge_holds_on_to_the_weights() -> None:
    random = np.random.default_rng(2)
    X, W = random.normal(size=(1, 50, 4)), random.normal(size=(1, 2, 4))
    Y = random.normal(size=(1, 50, 2))
    found = refitted(W, evidence(X, Y), None, FitOptions(ridge=1e6, repair=0.0))
    assert np.allclose(found.weights, W, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_a_rectifier_cuts_off_need_not_be_met(seed: int) -> None:
    """What has to be met is met better, the more often it is fitted again; so more comes through of
    what was wanted."""
    random = np.random.default_rng(seed)
    X, W = random.normal(size=(1, 400, 12)), random.normal(size=(1, 5, 12))
    Y = X @ W.mT
    slope, offset = np.array([1.0, 2, 0.5, -1, -2]), np.array([-1.0, -2, 0, 1, -3])
    some = replace(evidence(X, Y), rectified=Rectified(slope, {0: offset}))
    live = np.arange(12) < 7

    def read(Y: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(0, slope * Y + offset))

    rectified, unmet, missed = some.rectified, [], []
    assert rectified is not None
    for times in (0, 1, 3, 30):
        found = refitted(W, some, live, PLAIN, times)
        assert found.bias is not None
        now = X @ found.weights.mT + found.bias[:, None, :]
        unmet.append(((now - rectified.wanted(0, Y, now)) ** 2).mean())
        missed.append(((read(now) - read(Y)) ** 2).mean())
    assert unmet == sorted(unmet, reverse=True)
    assert missed[2] < 0.95 * missed[0]


def test_outputs_wanted_where_a_rectifier_follows() -> None:
    rectified = Rectified(np.array([2.0, -1.0, 0.0]), {3: np.array([-2.0, 0.0, 5.0])})
    Y = np.array([[[3.0, -2.0, -9.0], [0.0, 4.0, 1.0], [0.0, 4.0, 1.0]]])
    now = np.array([[[0.0, 1.0, 0.0], [-7.0, 9.0, 0.0], [8.0, -3.0, 0.0]]])
    # Read as it is; cut off in both: as it is now; cut off in what was wanted alone: to the edge.
    wanted = [[[3.0, -2.0, -9.0], [-7.0, 9.0, 1.0], [1.0, 0.0, 1.0]]]
    assert rectified.wanted(3, Y, now).tolist() == wanted
    assert rectified.wanted(4, Y, now) is Y
    assert rectified.rows(np.array([True, False, True])).slope.tolist() == [2.0, 0.0]


def test_both_libraries_rectify_alike() -> None:
    random = np.random.default_rng(3)
    X, W = random.normal(size=(1, 200, 6)), random.normal(size=(1, 3, 6))
    one = replace(evidence(X, X @ W.mT), rectified=Rectified(np.ones(3), {0: np.zeros(3)}))
    tensors = {
        0: replace(one.sampled[0], kept=torch.from_numpy(X @ W.mT), x=lambda: torch.from_numpy(X))
    }
    two = replace(
        one,
        sampled=tensors,
        rectified=Rectified(torch.ones(3).double(), {0: torch.zeros(3).double()}),
    )
    live = np.arange(6) < 4
    a = refitted(W, one, live, PLAIN, 2)
    b = refitted(torch.from_numpy(W), two, live, PLAIN, 2)
    assert np.allclose(a.weights, b.weights.numpy())
    assert a.macs == b.macs


@pytest.mark.parametrize("to", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("rest", [False, True])
def test_of_few_samples_the_path_is_the_same(to: Any, rest: bool) -> None:
    """Without the covariance being written out."""
    random = np.random.default_rng(0)
    few, D = random.normal(size=(1, 10, 40)), random.uniform(0.1, 1, size=(1, 40)) * rest
    low = LowRank(to(few), to(D) if rest else None)
    columns, W = random.permutation(40)[:36].reshape(12, 3), random.normal(size=(5, 40))
    options = ChannelOptions(at_once=4)
    wanted = eliminate([Reader(np.asarray(low.dense())[0], W, 7.0, columns)], options)
    found = eliminate([Reader(low, to(W), 7.0, columns)], options)
    assert found.order.tolist() == wanted.order.tolist()
    np.testing.assert_allclose(found.missed, wanted.missed, rtol=1e-8)
