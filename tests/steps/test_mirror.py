"""Mirrored pictures are calibration data where left and right are the same to the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config
from finepruning.data.batches import Batch
from finepruning.steps.mirror import mirrored
from shrinking import residual


class Sided(nn.Module):
    """Convolutions to which left and right are the same, and more on the left, or not."""

    def __init__(self, symmetric: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.symmetric = residual(), symmetric
        for p in self.net.parameters():
            if p.ndim == 4:
                p.data = (p.data + p.data.flip(-1)) / 2
        self.side = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + (0 if self.symmetric else 5 * self.side(x.mean((1, 2))))


def smooth(n: int, seed: int, wide: int = 8) -> Tensor:
    """Pictures with structure, whose left half tells nothing of the right one."""
    small = torch.randn(n, 3, 3, 2, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, (8, wide), mode="bilinear")


def told(model: nn.Module, data: Any, **options: Any) -> dict[str, Any]:
    config = Config(structure={"macs": 0.6, **options}, check=False)
    return finepruning.personalize(model, data, config=config, progress=False).report.mirrored


@pytest.mark.parametrize("symmetric", [True, False])
def test_used_where_the_answers_stay(symmetric: bool) -> None:
    found = told(Sided(symmetric).eval(), smooth(48, 1))
    assert found["samples"] == 48
    assert found["used"] == symmetric
    assert found["changed"] < 1e-3 if symmetric else found["changed"] > 0.5


def test_what_is_not_used_changes_nothing() -> None:
    model, x = Sided(False).eval(), smooth(48, 1)
    one, two = (
        finepruning.personalize(
            model, x, config=Config(structure={"macs": 0.6, "mirror": m}), progress=False
        ).model.state_dict()
        for m in (0.0, 0.5)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_more_calibration_data_is_better() -> None:
    """Of a network to which left and right are the same, with few samples."""
    model, new = Sided(True).eval(), smooth(200, 9)
    missed = dict.fromkeys((0.0, 0.5), 0.0)
    for limit in missed:
        config = Config(structure={"macs": 0.5, "mirror": limit}, check=False, readout=False)
        for seed in range(4):
            made = finepruning.personalize(model, smooth(8, seed), config=config, progress=False)
            with torch.no_grad():
                missed[limit] += float((made.model(new) - model(new)).square().mean())
    assert missed[0.5] < 0.95 * missed[0.0]


def test_no_more_than_there_is_room_for() -> None:
    config = Config(structure={"macs": 0.6}, check=False, observe={"memory": 3e5})
    model = residual()
    report = finepruning.personalize(model, smooth(40, 1), config=config, progress=False).report
    assert report.calibration_samples + report.mirrored["samples"] < 80


@pytest.mark.parametrize("x", [torch.zeros(4, 7), torch.zeros(4, 3, 8, 1), torch.zeros(4, 9, 9)])
def test_only_pictures_have_a_mirror(x: Tensor) -> None:
    assert mirrored(Batch(x, 4)) is None
    assert mirrored(Batch({"x": torch.zeros(4, 3, 8, 8)}, 4)) is None


def test_left_and_right_are_exchanged() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    found = mirrored(Batch(x, 1))
    assert found is not None
    assert torch.equal(found.inputs, torch.tensor([[[[2.0, 1, 0], [5, 4, 3]]]]))
