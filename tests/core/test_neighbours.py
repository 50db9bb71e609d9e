"""Neighbours: what samples that lie together make of each other's answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finepruning import Config, FinepruningError
from finepruning.core.neighbours import DEFAULT, NeighbourOptions, agreed
from finepruning.report.text import format_report
from problems import Unchanged
from unchecked import personalize


def heaps(n: int, classes: int, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Features of samples in well-separated heaps, and which heap each is in."""
    which = np.arange(n) % classes
    noise = np.random.default_rng(0).normal(size=(n, classes + 3))
    return np.eye(classes + 3)[which] + spread * noise, which


def answers(which: np.ndarray, classes: int, wrong: int = 0, sure: float = 4.0) -> np.ndarray:
    """Logits that are right but for the first ``wrong`` samples, which are barely so."""
    logits = np.eye(classes)[which] * sure
    logits[:wrong] = 0.2 * np.eye(classes)[(which[:wrong] + 1) % classes]
    return logits


def test_the_odd_ones_out_are_corrected() -> None:
    features, which = heaps(60, 3)
    logits = answers(which, 3, wrong=4)
    change, found = agreed(logits, features)
    assert (logits[:4].argmax(1) != which[:4]).all()
    assert ((logits + change).argmax(1) == which).all()
    assert found.neighbours > 0
    assert 0.8 < found.same < 1


def test_nothing_changes_where_neighbours_disagree() -> None:
    features, _ = heaps(60, 3)
    change, found = agreed(4 * np.random.default_rng(1).normal(size=(60, 5)), features)
    assert not change.any()
    assert found.weight == 0
    assert 0 < found.same < 0.8


def test_a_class_of_most_samples_agrees_by_chance() -> None:
    """Features that say nothing: nobody is voted out by a majority that is everywhere."""
    features = np.random.default_rng(2).normal(size=(400, 8))
    rare = (np.arange(400) % 20 == 0).astype(int)
    change, found = agreed(answers(rare, 2), features)
    assert not change.any()
    assert found.same < 0.6


@pytest.mark.parametrize("rare", [2, 3, 4])
def test_a_rare_class_among_others_is_not_voted_out(rare: int) -> None:
    """A few samples between three heaps ask neighbours of other classes, which shows."""
    features, which = heaps(90, 3)
    between = features.mean(0) + 0.1 * np.random.default_rng(3).normal(size=(rare, 6))
    features, which = np.concatenate([features, between]), np.append(which, [3] * rare)
    logits = answers(which, 4, sure=2.0)
    change, _ = agreed(logits, features)
    assert ((logits + change).argmax(1) == which).all()


def test_few_samples_a_class_ask_few_neighbours() -> None:
    """With two of each class the second neighbour is another class's, and is not asked."""
    for each in (2, 4, 12):
        features, which = heaps(each * 8, 8)
        _, found = agreed(answers(which, 8), features)
        assert 0 < found.neighbours <= max(each - 1, 1)
        assert found.weight == NeighbourOptions().weight


def test_many_samples_are_looked_at_in_several_sets() -> None:
    """How many are asked, and their weight, are the same in all of them."""
    features, which = heaps(120, 4)
    logits = answers(which, 4, wrong=6)
    logits[:, 3] += 1e-3 * np.arange(120)  # no two alike
    _, whole = agreed(logits, features)
    change, parts = agreed(logits, features, NeighbourOptions(block=40))
    assert ((logits + change).argmax(1) == which).all()
    assert parts.macs < whole.macs
    # Each sample's share of what all say, which is the weight times those asked, is in its row.
    assert change.sum() == pytest.approx(120 * parts.weight * parts.neighbours)


def test_macs_are_those_of_the_products() -> None:
    features, which = heaps(120, 4)
    _, found = agreed(answers(which, 4, wrong=6), features, NeighbourOptions(block=40, steps=3))
    cosines, rounds = 3 * 40 * 40 * 7, 3 * 40 * 40 * 4
    assert found.macs in {cosines + rounds * steps for steps in (1, 2, 3)}
    _, nobody = agreed(answers(np.arange(120) // 4 % 4, 4), features)
    assert nobody.weight == 0
    assert nobody.macs == 120 * 120 * 7


@settings(max_examples=40)
@given(
    n=st.integers(1, 40), K=st.integers(2, 6), D=st.integers(2, 5),
    most=st.floats(0, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_bounded_and_the_same_in_any_order(n: int, K: int, D: int, most: float, seed: int) -> None:
    rng, options = np.random.default_rng(seed), NeighbourOptions(weight=most)
    features = rng.normal(size=(n, D))
    logits = 3 * features @ rng.normal(size=(D, K))
    with Unchanged(logits, features):
        change, found = agreed(logits, features, options)
    assert change.shape == (n, K)
    assert (change >= 0).all()  # a neighbour speaks for a class, never against one
    said = n * found.weight * found.neighbours
    assert change.sum() == pytest.approx(said, rel=1e-9, abs=1e-9)
    assert found.weight <= most
    assert found.weight == 0 or n > DEFAULT.most
    order = rng.permutation(n)
    again, _ = agreed(logits[order], features[order], options)
    np.testing.assert_allclose(again, change[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_are_all_alike(value: float) -> None:
    """Without a direction nobody is nearer than others; nothing breaks."""
    change, _ = agreed(answers(np.arange(12) % 2, 2), np.full((12, 3), value))
    assert np.isfinite(change).all()


def test_of_one_answer_all_agree_and_that_says_nothing() -> None:
    features = np.random.default_rng(2).normal(size=(60, 8))
    change, found = agreed(np.tile([3.0, 0.0, -1.0], (60, 1)), features)
    assert not change.any()
    assert (found.same, found.weight) == (0.0, 0.0)


def test_the_weight_rises_with_the_share_that_agrees() -> None:
    """Of six pairs one disagrees: of one class 4 of 5 agree with their nearest, of one 6 of 7."""
    features = np.repeat(np.arange(6)[:, None] == np.arange(6), 2, 0) * 1.0
    which = np.repeat(np.arange(6) % 2, 2)
    which[0] = 1
    logits, share = answers(which, 2), (4 / 5 + 6 / 7) / 2

    def weight(disagree: float, agree: float) -> float:
        o = NeighbourOptions(weight=2.0, most=1, disagree=disagree, agree=agree)
        _, found = agreed(logits, features, o)
        assert found.same == pytest.approx(share)
        assert found.neighbours == 1
        return found.weight

    assert weight(0.5, 0.8) == 2.0
    assert weight(0.9, 1.0) == 0.0
    assert weight(0.5, 1.0) == pytest.approx(2 * (share - 0.5) / 0.5)


def test_as_many_are_asked_as_say_most() -> None:
    """Weight times the root of their number. The nearest always agrees; of five samples a class
    the next one agrees for the three that are alike, and for the two beside another class not."""
    alike, pair, beside = np.eye(6)[:2], np.eye(6)[2:4], 0.3 * np.eye(6)[4]
    features = np.concatenate([np.repeat(alike, 3, 0), np.repeat(pair + beside, 2, 0)])
    logits = answers(np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 1]), 2)
    for disagree, asked, weight in ((0.5, 1, 1.0), (0.25, 2, 0.55 / 0.75)):
        options = NeighbourOptions(weight=1.0, most=2, disagree=disagree, agree=1.0)
        _, found = agreed(logits, features, options)
        assert found.neighbours == asked
        assert found.weight == pytest.approx(weight)


# --- In a personalisation


class Border(nn.Sequential):
    """Answers by the first of two inputs alone, with the border at 1/2."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2), nn.Linear(2, 2))
        with torch.no_grad():
            self[0].weight.copy_(torch.eye(2))
            self[0].bias.zero_()
            self[1].weight.copy_(torch.tensor([[-8.0, 0.01], [8.0, 0.01]]))
            self[1].bias.copy_(torch.tensor([4.0, -4.0]))


def test_the_network_learns_it() -> None:
    """One person's second class lies across the border, but it lies together."""
    which = torch.arange(400) % 2
    noise = 0.12 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[0.0, 0.0], [0.6, 1.0]])[which] + noise
    right, macs = {}, {}
    for most in (0.0, 1.0):
        config = Config(sparsity=0.0, neighbours=most, task="classes")
        result = personalize(Border(), x[:200], config=config, progress=False)
        right[most] = float((result.model(x[200:]).argmax(1) == which[200:]).float().mean())
        found = result.report.neighbours
        assert found["applied"] == (most > 0)
        text = f"{found['asked']} a sample asked" if most else "left out: not asked for"
        assert text in str(result.report)
        old = {k: v for k, v in result.report.to_dict().items() if k != "neighbours"}
        assert "left out: an earlier version" in format_report(old)
        macs[most] = result.report.forward_passes
    assert macs[1.0] > macs[0.0]
    assert right[0.0] < 0.92
    assert right[1.0] > 0.97


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"neighbours": 0.0}, "not asked for"),
        ({"effort": "fast"}, "not asked for"),
        ({"readout": False}, "readout=False"),
    ],
)
def test_left_out_with_a_reason(options: dict[str, float | str | bool], reason: str) -> None:
    config = Config(sparsity=0.3, task="classes", **options)  # type: ignore[arg-type]
    report = personalize(Border(), torch.randn(20, 2), config=config, progress=False).report
    assert report.neighbours == {"applied": False, "reason": reason}
    assert f"left out: {reason}" in str(report)


@pytest.mark.parametrize("most", [-1.0, 101, math.inf, math.nan, "1"])
def test_a_weight_is_between_0_and_100(most: float) -> None:
    with pytest.raises(FinepruningError, match=r"neighbours(\.weight)?="):
        Config(neighbours=most)
