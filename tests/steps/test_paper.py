"""The published rule: equal steps, activity measured anew before each, exact to the weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finepruning.network.find import find_layers
from finepruning.steps.paper import PaperOptions, prune_by_activity
from passes import batch, engine_of

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)).double()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def pruned(model: nn.Module, keep: int, steps: int, batches: int = 4) -> nn.Module:
    engine = engine_of(model)
    parts = [batch(x) for x in X.chunk(batches)]
    counted: list[int] = []
    prune_by_activity(
        engine, find_layers(engine.model), parts, keep, PaperOptions(steps), counted.append
    )
    assert len(counted) == steps * batches
    return engine.model


def by_hand(model: nn.Sequential, keep: int, steps: int) -> list[Tensor]:
    layers = [m for m in model if isinstance(m, nn.Linear)]
    total = sum(layer.weight.numel() for layer in layers)
    for i in range(1, steps + 1):
        x, scores = X, []
        for module in model:
            if isinstance(module, nn.Linear):
                scores.append((module.weight.abs() * x.abs().mean(0)).flatten())
            x = module(x)
        flat = torch.cat(scores)
        left = total - round((total - keep) * i / steps)
        mask = torch.zeros_like(flat, dtype=torch.bool)
        mask[flat.topk(left).indices] = True
        for layer, part in zip(
            layers, mask.split([la.weight.numel() for la in layers]), strict=True
        ):
            layer.weight *= part.view_as(layer.weight)
    return [layer.weight for layer in layers]


@torch.no_grad()
def test_against_a_loop() -> None:
    for keep, steps in ((60, 1), (60, 7), (13, 7)):
        got = pruned(net().double(), keep, steps)
        wanted = by_hand(net().double(), keep, steps)
        mine = [m.weight for m in got if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
        assert sum(int((w != 0).sum()) for w in mine) == keep
        for one, two in zip(mine, wanted, strict=True):
            assert torch.equal(one, two)


def test_the_batches_do_not_matter() -> None:
    one, two = (pruned(net().double(), 50, 7, batches) for batches in (1, 8))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_biases_stay() -> None:
    model = net().double()
    got = pruned(model, 50, 7)
    for name, value in got.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(value, model.get_parameter(name))


def test_a_layer_that_is_no_longer_called_keeps_its_activity() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            dense = bool(self.a.weight.all())
            return self.head(self.b(self.a(x)) if dense else self.a(x))

    got = pruned(Dead(), 40, 7)
    assert sum(int((m.weight != 0).sum()) for m in (got.a, got.b, got.head)) == 40  # type: ignore[union-attr]
