"""Pixels: in how many a network still answers the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError
from finepruning.deploy.pixels import Tried, chosen, fewest_pixels, sizes_below


class Brightness(nn.Module):
    """Answers with the brightest channel, or with the finest detail."""

    def __init__(self, fine: bool) -> None:
        super().__init__()
        self.scale, self.fine = nn.Parameter(torch.tensor(5.0)), fine

    def forward(self, x: Tensor) -> Tensor:
        y = (x[..., 1:] - x[..., :-1]).abs() if self.fine else x
        return self.scale * y.mean((2, 3))


def pictures(side: int) -> list[Tensor]:
    """Flat colours with a fine pattern of another channel, which fewer pixels blur away."""
    torch.manual_seed(0)
    flat = torch.rand(60, 3, 1, 1).expand(-1, -1, 32, 32).clone()
    strength = torch.rand(60, 3, 1, 1)
    flat += strength * (torch.arange(32) % 2 - 0.5)
    return [*nn.functional.interpolate(flat, (side, side), mode="area").split(20)]


def test_fewer_where_that_changes_no_answer() -> None:
    tried = fewest_pixels(Brightness(False), pictures, 32, 0.1)
    assert [one.pixels for one in tried] == [32, *sizes_below(32)]
    assert all(one.stays == 1 for one in tried)
    assert chosen(tried, 0.1) == 12
    assert tried[-1].macs == pytest.approx((12 / 32) ** 2)


def test_all_where_details_count() -> None:
    tried = fewest_pixels(Brightness(True), pictures, 32, 0.02)
    assert chosen(tried, 0.02) > 12
    assert tried[-1].stays < 0.98  # no fewer are tried then


def test_a_network_made_for_one_size_keeps_it() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    tried = fewest_pixels(model, pictures, 32, 0.1)
    assert tried == [Tried(32, 1.0, 1.0)]
    assert chosen(tried, 0.1) == 32


def test_only_one_class_a_sample() -> None:
    model: Any = nn.Conv2d(3, 4, 1)
    with pytest.raises(FinepruningError, match="one class a sample"):
        fewest_pixels(model, pictures, 32, 0.1)
