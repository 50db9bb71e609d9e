"""The budget: exact counts whatever was measured."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from finepruning import personalize
from finepruning.core.evidence import Evidence
from finepruning.core.plan import (
    PlanOptions,
    budget,
    global_threshold,
    plan,
    relative_saliency,
    spared,
    spread,
)
from problems import Unchanged, in_torch, sampled

Drawn = tuple[list[tuple[int, int]], int, float]


@st.composite
def layers(draw: st.DrawFn) -> Drawn:
    """Pairs (size, measured), how many to keep in all, and the exponent."""
    sizes = draw(st.lists(st.integers(1, 100_000), min_size=1, max_size=12))
    pairs = [(s, draw(st.integers(0, s))) for s in sizes]
    return pairs, draw(st.integers(len(sizes), sum(sizes))), draw(st.floats(0, 1))


@given(layers())
def test_spread_is_exact(drawn: Drawn) -> None:
    pairs, keep, planned = drawn
    sizes = {str(i): s for i, (s, _) in enumerate(pairs)}
    counts = spread(sizes, {str(i): m for i, (_, m) in enumerate(pairs)}, keep, planned)
    assert list(counts) == list(sizes)
    assert sum(counts.values()) == keep
    assert all(1 <= counts[name] <= sizes[name] for name in sizes)


@given(layers())
def test_spread_keeps_the_order_of_shares(drawn: Drawn) -> None:
    """Of two layers of one size, the one that measured more keeps no less."""
    pairs, _, planned = drawn
    size = 1000
    measured = {str(i): m % (size + 1) for i, (_, m) in enumerate(pairs)}
    counts = spread(dict.fromkeys(measured, size), measured, 300 * len(pairs), planned)
    names = sorted(measured, key=lambda n: measured[n])
    for less, more in pairwise(names):
        assert counts[less] <= counts[more] + 1


def test_spread_between_even_and_measured() -> None:
    sizes, measured = {"a": 100, "b": 300}, {"a": 90, "b": 30}
    assert spread(sizes, measured, 120, 0.0) == {"a": 30, "b": 90}
    assert spread(sizes, measured, 120, 1.0) == measured
    assert spread(sizes, measured, 120, 0.5)["a"] in range(31, 90)
    assert spread(sizes, measured, 400, 0.5) == sizes
    assert spread(sizes, measured, 500, 0.5) == sizes  # no more than there is


def test_spread_fills_a_layer_and_deals_out_the_rest() -> None:
    counts = spread({"a": 10, "b": 1000}, {"a": 10, "b": 1}, 600, 1.0)
    assert counts == {"a": 10, "b": 590}


def test_no_layer_is_emptied() -> None:
    counts = spread({"a": 1000, "b": 5, "c": 5}, {"a": 1000, "b": 0, "c": 0}, 3, 1.0)
    assert counts == {"a": 1, "b": 1, "c": 1}


def test_global_threshold() -> None:
    scores = {"a": np.array([[3.0, 1], [9, 0]]), "b": np.array([2.0, 8, 7])}
    assert global_threshold(scores, 4) == {"a": 2, "b": 2}
    assert global_threshold(scores, 0) == {"a": 0, "b": 0}
    assert global_threshold(scores, 7) == {"a": 4, "b": 3}


def test_relative_saliency_ignores_scale() -> None:
    rng = np.random.default_rng(0)
    W, x, y = rng.normal(size=(1, 3, 4)), rng.random((1, 4)), rng.random((1, 3))
    np.testing.assert_allclose(relative_saliency(W, x, y), relative_saliency(W * 5, x, y * 25))
    np.testing.assert_allclose(relative_saliency(W, x, y), W**2 * x[:, None] / y.sum())
    assert np.isfinite(relative_saliency(W, x, y * 0)).all()


@given(st.integers(0, 10**8), st.floats(0, 1, exclude_max=True))
def test_budget_meets_the_sparsity(total: int, sparsity: float) -> None:
    keep = budget(total, sparsity)
    assert 0 <= keep <= total
    assert total - keep >= sparsity * total - 1e-6
    assert total - keep - 1 < sparsity * total  # and not one weight more than asked


@pytest.mark.parametrize(
    ("total", "sparsity", "keep"),
    [(10, 0.7, 3), (10, 0, 10), (100, 0.9, 10), (25_000_000, 0.99999, 250)],
)
def test_budget_does_not_stumble_over_rounding(total: int, sparsity: float, keep: int) -> None:
    assert budget(total, sparsity) == keep


def test_narrow_layers_are_spared_where_they_are_few() -> None:
    shapes = {"first": (1, 8, 9), "depthwise": (8, 1, 15), "pointwise": (1, 64, 16)}
    assert spared(shapes, keep=576) == {"first": 72, "depthwise": 120}
    assert spared(shapes, keep=575) == {}  # they would take more than a third of it
    assert spared({"a": (1, 4, 3), "b": (1, 2, 4)}, keep=20) == {}  # there is nothing else


def test_what_is_narrow_and_how_few_are_options() -> None:
    shapes = {"narrow": (1, 8, 9), "wide": (1, 64, 20)}
    assert spared(shapes, 216) == {"narrow": 72}
    assert spared(shapes, 216, PlanOptions(narrow=9)) == {}
    assert spared(shapes, 216, PlanOptions(spared=0.3)) == {}
    assert spared(shapes, 216, PlanOptions(narrow=0)) == {}
    assert spared(shapes, 72, PlanOptions(spared=1.0)) == {"narrow": 72}


# --- The plan of a network


def network(to: Any = np.asarray) -> tuple[dict[str, Any], dict[str, Evidence]]:
    """Three layers; the second carries most of its output in few weights."""
    rng = np.random.default_rng(0)
    weights, evidence = {}, {}
    for name, shape, power in (("a", (2, 4, 20), 1), ("b", (1, 8, 20), 5), ("c", (1, 3, 9), 1)):
        G, _, D = shape
        W, X = rng.normal(size=shape) ** power, rng.normal(size=(G, 50, D)) + 2
        weights[name] = to(W)
        evidence[name] = sampled(to(X), to(X @ W.mT))
    return weights, evidence


@given(st.integers(27 * 3, 347), st.floats(0, 1))
def test_a_plan_is_exact_and_the_same_for_tensors(keep: int, tempering: float) -> None:
    options = PlanOptions(tempering)
    weights, evidence = network()
    tensors, seen = network(in_torch)
    with Unchanged(weights, evidence, tensors, seen):
        counts = plan(weights, evidence, {}, keep, options)
        assert plan(tensors, seen, {}, keep, options) == counts
    assert sum(counts.values()) == keep
    assert counts["c"] == 27  # narrow
    assert all(1 <= counts[name] <= weights[name].size for name in weights)


def test_a_plan_follows_what_was_measured() -> None:
    weights, evidence = network()
    even, some, measured = (
        plan(weights, evidence, {}, 147, PlanOptions(tempering)) for tempering in (0.0, 0.3, 1.0)
    )
    assert even["a"] == even["b"] == 60
    assert measured["a"] > some["a"] > 60 > some["b"] > measured["b"]
    scores = {
        name: relative_saliency(
            weights[name], evidence[name].inputs.variance, evidence[name].outputs.variance
        )
        for name in "ab"
    }
    assert {name: measured[name] for name in "ab"} == global_threshold(scores, 120)


def test_what_no_input_moves_counts_for_nothing() -> None:
    """By variance: a constant input, however large, is a matter of the bias."""
    weights, evidence = network()
    X = np.random.default_rng(1).normal(size=(2, 50, 20))
    X[:, :, :10] = 100.0
    evidence["a"] = sampled(X, X @ weights["a"].mT)
    counts = plan(weights, evidence, {}, 347 - 80, PlanOptions(1.0))
    assert counts["a"] == 80


@pytest.mark.parametrize("to", [np.asarray, in_torch], ids=["numpy", "torch"])
def test_silent_rows_hold_no_weights(to: Any) -> None:
    weights, evidence = network(to)
    silent = {"b": to(np.arange(8) < 6)}
    with Unchanged(silent):
        counts = plan(weights, evidence, silent, 227)
    assert counts == {"a": 160, "b": 40, "c": 27}
    assert plan(weights, evidence, silent, 150)["b"] <= 40


def test_a_depthwise_layer_is_left_whole() -> None:
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 64, 1), nn.Flatten(),
        nn.Linear(64 * 16, 4),
    )  # fmt: skip
    report = personalize(model, torch.randn(32, 16, 4, 4), sparsity=0.7, progress=False).report
    assert report.layers[0].zeros == 0
    assert report.sparsity == pytest.approx(0.7, abs=1e-3)
