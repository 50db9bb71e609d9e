"""Neighbours: what samples that lie together make of each other's answers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from finepruning import Config, FinepruningError, _neighbours, personalize
from finepruning._neighbours import agreed
from finepruning.report.text import format_report


def heaps(n: int, classes: int, seed: int = 0, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Features of samples in well-separated heaps, and which heap each is in."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(n) % classes
    noise = torch.randn(n, classes + 3, generator=generator, dtype=torch.float64)
    return F.one_hot(which, classes + 3).double() + spread * noise, which


def answers(which: Tensor, classes: int, wrong: int = 0, sure: float = 4.0) -> Tensor:
    """Logits that are right but for the first ``wrong`` samples, which are barely so."""
    logits = F.one_hot(which, classes).double() * sure
    logits[:wrong] = 0.2 * F.one_hot((which[:wrong] + 1) % classes, classes).double()
    return logits


def test_the_odd_ones_out_are_corrected() -> None:
    features, which = heaps(60, 3)
    logits = answers(which, 3, wrong=4)
    change, found = agreed(logits, features, 1.0)
    assert (logits[:4].argmax(1) != which[:4]).all()
    assert ((logits + change).argmax(1) == which).all()
    assert found.neighbours > 0
    assert 0.8 < found.same < 1


def test_nothing_changes_where_neighbours_disagree() -> None:
    features, _ = heaps(60, 3)
    generator = torch.Generator().manual_seed(1)
    change, found = agreed(4 * torch.randn(60, 5, generator=generator), features, 1.0)
    assert not change.any()
    assert found.weight == 0
    assert 0 < found.same < 0.8


def test_a_class_of_most_samples_agrees_by_chance() -> None:
    """Features that say nothing: nobody is voted out by a majority that is everywhere."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(400, 8, generator=generator, dtype=torch.float64)
    rare = (torch.arange(400) % 20 == 0).long()
    change, found = agreed(answers(rare, 2), features, 1.0)
    assert not change.any()
    assert found.same < 0.6


@pytest.mark.parametrize("rare", [2, 3, 4])
def test_a_rare_class_among_others_is_not_voted_out(rare: int) -> None:
    """A few samples between three heaps ask neighbours of other classes, which shows."""
    features, which = heaps(90, 3)
    generator = torch.Generator().manual_seed(3)
    between = features.mean(0) + 0.1 * torch.randn(rare, 6, generator=generator)
    features, which = torch.cat([features, between]), torch.cat([which, torch.full((rare,), 3)])
    logits = answers(which, 4, sure=2.0)
    change, found = agreed(logits, features, 1.0)
    assert ((logits + change).argmax(1) == which).all()
    assert found.neighbours < 10


def test_few_samples_a_class_ask_few_neighbours() -> None:
    """With two of each class the second neighbour is another class's, and is not asked."""
    for each in (2, 4, 12):
        features, which = heaps(each * 8, 8)
        _, found = agreed(answers(which, 8), features, 1.0)
        assert 0 < found.neighbours <= max(each - 1, 1)
        assert found.weight == 1.0


def test_many_samples_are_looked_at_in_several_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many are asked, and their weight, are the same in all of them."""
    features, which = heaps(120, 4)
    logits = answers(which, 4, wrong=6)
    logits[:, 3] += 1e-3 * torch.arange(120)  # no two alike
    _, whole = agreed(logits, features, 1.0)
    monkeypatch.setattr(_neighbours, "BLOCK", 40)
    change, parts = agreed(logits, features, 1.0)
    assert ((logits + change).argmax(1) == which).all()
    assert parts.macs < whole.macs
    # Each sample's share of what all say, which is the weight times those asked, is in its row.
    assert float(change.sum()) == pytest.approx(120 * parts.weight * parts.neighbours)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40), K=st.integers(2, 6), D=st.integers(2, 5),
    most=st.floats(0, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_bounded_and_the_same_in_any_order(n: int, K: int, D: int, most: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, D, generator=generator, dtype=torch.float64)
    logits = 3 * features @ torch.randn(D, K, generator=generator, dtype=torch.float64)
    change, found = agreed(logits, features, most)
    assert change.shape == (n, K)
    assert bool((change >= 0).all())  # a neighbour speaks for a class, never against one
    said = n * found.weight * found.neighbours
    assert float(change.sum()) == pytest.approx(said, rel=1e-9, abs=1e-9)
    assert found.weight <= most
    assert found.weight == 0 or n > _neighbours.MOST_NEIGHBOURS
    order = torch.randperm(n, generator=generator)
    again, _ = agreed(logits[order], features[order], most)
    torch.testing.assert_close(again, change[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_are_all_alike(value: float) -> None:
    """Without a direction nobody is nearer than others; nothing breaks."""
    change, _ = agreed(answers(torch.arange(12) % 2, 2), torch.full((12, 3), value), 1.0)
    assert bool(change.isfinite().all())


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
        config = Config(sparsity=0.0, neighbours=most)
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
    config = Config(sparsity=0.3, **options)  # type: ignore[arg-type]
    report = personalize(Border(), torch.randn(20, 2), config=config, progress=False).report
    assert report.neighbours == {"applied": False, "reason": reason}
    assert f"left out: {reason}" in str(report)


@pytest.mark.parametrize("most", [-1.0, 101, math.inf, math.nan, "1"])
def test_a_weight_is_between_0_and_100(most: float) -> None:
    with pytest.raises(FinepruningError, match="neighbours="):
        Config(neighbours=most)
