"""ResNets in torchvision's layout, so that its checkpoints load where torchvision cannot be
imported.

Key names and strides follow torchvision's v1.5 networks (the stride of a bottleneck sits on its 3x3
convolution); the architecture is He et al. 2016, arXiv 1512.03385.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions (basic) or 1x1, 3x3, 1x1 (bottleneck)."""

    def __init__(self, channels_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        channels_out = width * 4 if bottleneck else width
        plan = (
            [(channels_in, width, 1, 1), (width, width, 3, stride), (width, channels_out, 1, 1)]
            if bottleneck
            else [(channels_in, width, 3, stride), (width, width, 3, 1)]
        )
        self.depth = len(plan)
        for i, (a, b, kernel, step) in enumerate(plan, 1):
            conv = nn.Conv2d(a, b, kernel, step, padding=kernel // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = torch.relu(y)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet with torchvision's key names. Input ``(N, 3, H, W)``, output ``(N, classes)``."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for i, depth in enumerate(depths):
            width = 64 * 2**i
            blocks = []
            for j in range(depth):
                blocks.append(_Block(channels, width, 2 if i and not j else 1, bottleneck))
                channels = width * 4 if bottleneck else width
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


RESNETS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
"""Names of torchvision's networks that :func:`resnet` builds: (blocks per stage, bottleneck)."""


def resnet(name: str, classes: int = 1000) -> ResNet:
    """Build one of :data:`RESNETS` with random weights."""
    depths, bottleneck = RESNETS[name]
    return ResNet(depths, bottleneck, classes)
