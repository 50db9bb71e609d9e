"""Networks with channels that can go, for the tests of several rooms."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A residual block, with batch norms."""

    def __init__(self, outer: int, inner: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(outer, inner, 1, bias=False)
        self.na = nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, inner, 3, padding=1)
        self.c = nn.Conv2d(inner, outer, 1)
        self.nc = nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.na(self.a(x)))
        return torch.relu(x + self.nc(self.c(torch.relu(self.b(y)))))


def residual(seed: int = 0, outer: int = 24, inner: int = 16) -> nn.Module:
    """Two blocks between a stem and a head."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, outer, 3, padding=1), nn.ReLU(),
        Bottleneck(outer, inner), Bottleneck(outer, inner),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outer, 5),
    ).eval()  # fmt: skip


class Branches(nn.Module):
    """A concatenation, a depthwise convolution, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.squeeze, self.excite = nn.Conv2d(20, 6, 1), nn.Conv2d(6, 20, 1)
        self.last = nn.Conv2d(20, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.depthwise(torch.cat([self.one(x), self.two(x)], 1)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(torch.relu(self.last(y * gate)).mean((2, 3)))


class Mixed(nn.Module):
    """A transformer's block: a layer norm, and a size that the code has written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(6, 16)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.fixed, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        y = y + self.down(torch.nn.functional.gelu(self.up(self.norm(y))))
        return self.head(self.fixed(y).view(len(y), 8))


def pictures(n: int, seed: int = 0, size: int = 8) -> Tensor:
    """Random pictures ``(n, 3, size, size)``."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
