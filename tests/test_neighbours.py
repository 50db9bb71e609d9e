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
    found = agreed(logits, features, 1.0)
    assert (logits[:4].argmax(1) != which[:4]).all()
    assert ((logits + found.change).argmax(1) == which).all()
    assert found.neighbours > 0
    assert found.same > 0.8


def test_nothing_changes_where_neighbours_disagree() -> None:
    features, _ = heaps(60, 3)
    generator = torch.Generator().manual_seed(1)
    found = agreed(4 * torch.randn(60, 5, generator=generator), features, 1.0)
    assert not found.change.any()
    assert (found.neighbours, found.weight) == (0, 0.0)


def test_few_samples_a_class_ask_few_neighbours() -> None:
    """With two of each class the second neighbour is another class's, and is not asked."""
    for each in (2, 4, 12):
        features, which = heaps(each * 8, 8)
        found = agreed(answers(which, 8), features, 1.0)
        assert 0 < found.neighbours <= max(each - 1, 1)
        assert found.weight == 1.0


def test_many_samples_are_looked_at_in_several_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    features, which = heaps(90, 3)
    logits = answers(which, 3, wrong=5)
    whole = agreed(logits, features, 1.0)
    monkeypatch.setattr(_neighbours, "BLOCK", 40)
    parts = agreed(logits, features, 1.0)
    assert ((logits + parts.change).argmax(1) == which).all()
    assert parts.macs < whole.macs
    for i in range(3):
        alone = agreed(logits[i::3], features[i::3], 1.0)
        assert torch.equal(parts.change[i::3], alone.change)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40), K=st.integers(2, 6), D=st.integers(1, 5),
    most=st.floats(0, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_bounded_and_the_same_in_any_order(n: int, K: int, D: int, most: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, D, generator=generator, dtype=torch.float64)
    logits = 3 * features @ torch.randn(D, K, generator=generator, dtype=torch.float64)
    found = agreed(logits, features, most)
    assert found.change.shape == (n, K)
    assert bool((found.change >= 0).all())  # a neighbour speaks for a class, never against one
    assert float(found.change.sum()) <= found.weight * found.neighbours * n * (1 + 1e-9)
    assert found.weight <= most
    order = torch.randperm(n, generator=generator)
    again = agreed(logits[order], features[order], most)
    # Ties apart: in one dimension all cosines are 1 or -1.
    if D > 1:
        torch.testing.assert_close(again.change, found.change[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_are_all_alike(value: float) -> None:
    """Without a direction nobody is nearer than others; nothing breaks."""
    found = agreed(answers(torch.arange(6) % 2, 2), torch.full((6, 3), value), 1.0)
    assert bool(found.change.isfinite().all())


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
    right = {}
    for most in (0.0, 1.0):
        config = Config(sparsity=0.0, neighbours=most)
        result = personalize(Border(), x[:200], config=config, progress=False)
        right[most] = float((result.model(x[200:]).argmax(1) == which[200:]).float().mean())
        assert result.report.neighbours["applied"] == (most > 0)
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
    assert f"not believed: {reason}" in str(report)


@pytest.mark.parametrize("most", [-1.0, math.inf, math.nan, "1"])
def test_a_weight_is_finite_and_not_negative(most: float) -> None:
    with pytest.raises(FinepruningError, match="neighbours="):
        Config(neighbours=most)
