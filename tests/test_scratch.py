"""Models that keep intermediate results on ``self`` while they run."""

from __future__ import annotations

import pytest
import torch
from finepruning._scratch import Scratch
from torch import Tensor, nn

import finepruning


class Keeping(nn.Module):
    """Two ways to the last layer, one over an attribute."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 20), nn.Linear(20, 20), nn.Linear(20, 4)
        self.keeps = keeps
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        h = torch.relu(self.a(x))
        if self.keeps:
            self.h = h
        k = self.b(h)
        return self.c((self.h if self.keeps else h) + k)


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_the_same_result_as_with_a_local_variable(effort: str) -> None:
    batches = torch.randn(61, 6, generator=torch.Generator().manual_seed(1)).split(10)
    one, two = (
        finepruning.personalize(Keeping(keeps), batches, sparsity=0.5, effort=effort).model
        for keeps in (True, False)
    )
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not hasattr(one, "h"), "a batch of the person's activations stays on the network"
    assert one.calls == 0


def test_take_and_put() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].old = 1
    scratch = Scratch(model)
    model.new, model[0].old = [1], 2
    mine = scratch.take()
    assert not hasattr(model, "new")
    assert model[0].old == 1
    assert scratch.take() == {}
    scratch.put(mine)
    assert (model.new, model[0].old) == ([1], 2)
    del model[0].old
    scratch.take()
    assert model[0].old == 1
