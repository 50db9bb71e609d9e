"""Pruning in one pass: what layers are fitted to, and networks that go other ways when damaged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from finepruning import Config
from unchecked import personalize

EFFORTS = ("best", "fast", "paper")


class Gate(nn.Module):
    """Takes a way that depends on what a layer says, so that pruning may change it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.d, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.ways: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        way = "bc"[int(x.sum() * 1e4) % 2]  # as good as random
        self.ways.append(way)
        x = getattr(self, way)(x).relu()
        if int(x.sum() * 1e4) % 2:
            x = self.d(self.d(x))
        return self.head(x)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("seed", range(4))
def test_ways_that_change(effort: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = Gate()
    result = personalize(model, torch.randn(24, 6).split(4), effort=effort, sparsity=0.6)
    assert result.report.sparsity >= 0.6
    assert all(p.isfinite().all() for p in result.model.parameters())


class Dead(nn.Module):
    """Does not reach its last layer once the first is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.dense = float(self.a.weight.detach().abs().sum())

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if float(self.a.weight.detach().abs().sum()) == pytest.approx(self.dense):
            x = self.b(x)
        return self.head(x)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_layer_that_is_no_longer_reached_is_pruned_all_the_same(effort: str) -> None:
    result = personalize(Dead(), torch.randn(24, 6).split(8), effort=effort, sparsity=0.6)
    assert result.report.sparsity >= 0.6
    assert {la.name: la.error is None for la in result.report.layers}["b"]


@pytest.mark.parametrize("effort", ["best", "fast"])
def test_constant_inputs(effort: str) -> None:
    """Nothing varies, so nothing can be measured; the outputs stay what they were."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.ones(16, 4).double()
    result = personalize(model, x, effort=effort, readout=False)
    with torch.inference_mode():
        torch.testing.assert_close(result.model(x), model(x), atol=1e-6, rtol=1e-6)
    assert all(la.error == pytest.approx(0, abs=1e-3) for la in result.report.layers)


@pytest.mark.parametrize("effort", ["best", "fast"])
def test_mean_outputs_are_restored(effort: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )
    x = torch.randn(64, 3, 6, 6)
    result = personalize(model, x, effort=effort, readout=False)
    with torch.inference_mode():
        torch.testing.assert_close(result.model(x).mean(0), model(x).mean(0), atol=1e-4, rtol=1e-4)


def test_best_is_better_than_fast_and_fast_than_paper() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)
    )
    mix = torch.randn(4, 16)  # the person's data lie in a small corner
    x, new = torch.randn(256, 4) @ mix, torch.randn(256, 4) @ mix

    def error(effort: str) -> float:
        result = personalize(model, x, effort=effort, readout=False)
        with torch.inference_mode():
            return float((result.model(new) - model(new)).pow(2).mean())

    best, fast, paper = map(error, EFFORTS)
    assert best < fast < paper


@pytest.mark.parametrize("effort", ["best", "fast"])
def test_sampled_positions_come_close_to_all(effort: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    x = torch.randn(32, 3, 12, 12)
    errors = []
    for positions in (10**6, 4000):
        config = Config(effort=effort, observe={"positions": positions}, sparsity=0.5)
        result = personalize(model, x, config=config)
        with torch.inference_mode():
            errors.append(float((result.model(x) - model(x)).pow(2).mean()))
    assert errors[1] < 1.5 * errors[0]


@pytest.mark.parametrize("effort", EFFORTS)
def test_groups_are_pruned_where_it_hurts_least(effort: str) -> None:
    """A group whose inputs never vary loses its weights first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 6, 3))
    x = torch.randn(64, 4, 8)
    x[:, 2:] *= 1e-3
    result = personalize(model, x, effort=effort, sparsity=0.5, readout=False)
    zeros = (result.model[0].weight == 0).flatten(1).sum(1)
    assert zeros[2:].sum() > zeros[:2].sum()
