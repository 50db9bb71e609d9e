"""Counts what PyTorch really multiplies in forward passes, and networks that this is done on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SAMPLES, BATCH = 24, 8
GENERATOR = torch.Generator().manual_seed(0)

FORWARDS: list[tuple[int, int]] = []
"""Multiply-accumulates of each forward pass: in its layers, and in all."""


def macs(mode: FlopCounterMode) -> int:
    """Multiply-accumulates of Conv and Linear. Attention's own products (bmm) are no layer's."""
    counts = mode.get_flop_counts()["Global"]
    layers = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)
    return sum(flops for operation, flops in counts.items() if operation in layers) // 2


class Counted(nn.Module):
    """A network that notes what each of its forward passes multiplies."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        with FlopCounterMode(display=False) as mode:
            output = self.inner(x)
        FORWARDS.append((macs(mode), mode.get_total_flops() // 2))
        return output


class Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, stride, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
        self.conv2 = nn.Conv2d(b, b, 3, padding=1, bias=False)
        self.stride, self.more = stride, b - a

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        short = x[:, :, :: self.stride, :: self.stride]
        return (y + nn.functional.pad(short, (0, 0, 0, 0, 0, self.more))).relu()


class Residual(nn.Module):
    """As for CIFAR, with three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions, a dilated one, and a wide head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, groups=4, dilation=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(288, 10)  # more inputs than samples

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


IMAGES = torch.randn(SAMPLES, 3, 32, 32, generator=GENERATOR)
