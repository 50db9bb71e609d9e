"""The networks that are measured, with weights from the data folder or trained on data there.

Data and weights are third parties' and never part of this project: they are found through the
environment variable FINEPRUNING_DATA (default ../shared/data). Where they are absent a benchmark
says so and ends without an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import speech_networks
import torch
from adapt import folded
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from finepruning.research import resnet

CHECKPOINTS = Path(__file__).parent.parent / "build" / "speech"
"""Where ``train_speech.py`` puts the networks that it trains."""


def need(folder: str) -> Path:
    """The folder of a data set, or a clean end that says what is missing."""
    path = Path(os.environ.get("FINEPRUNING_DATA", "../shared/data"), folder)
    if not path.is_dir():
        print(f"skipped: no {path}; set FINEPRUNING_DATA to a folder that holds {folder}/")
        sys.exit(0)
    return path


class CifarBlock(nn.Module):
    """Basic block with the option-A shortcut of He et al. 2016: subsample and pad channels."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.pad = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return torch.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet-20, -32, -44, -56 for 32x32 images."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, channels = (depth - 2) // 6, 16
        for i, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
            stage = []
            for j in range(blocks):
                stage.append(CifarBlock(channels, width, 1 if j else stride))
                channels = width
            setattr(self, f"layer{i}", nn.Sequential(*stage))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def trained(name: str) -> nn.Module:
    """A speech network that ``train_speech.py`` has trained, or a clean end that says how to."""
    path = CHECKPOINTS / f"{name}.safetensors"
    if not path.is_file():
        kind = name.removesuffix("-dev").removesuffix("-smoke")
        options = " --dev" * name.endswith("-dev") + " --smoke" * name.endswith("-smoke")
        print(f"skipped: no {path.name}; run python benchmarks/train_speech.py {kind}{options}")
        sys.exit(0)
    model = speech_networks.build(name.removesuffix("-dev").removesuffix("-smoke"))
    model.load_state_dict(load_file(path))
    return model.eval()


FOLDED = ("resnet50",)
"""Networks whose BatchNorm statistics are folded into weight and bias (mean 0, variance 1)."""


def load_network(name: str) -> nn.Module:
    """``resnet50`` (ImageNet), ``resnet20`` and ``resnet56`` (CIFAR-10), in float32, or one that
    :func:`trained` knows."""
    if not name.startswith("resnet"):
        return trained(name)
    if name == "resnet50":
        model: nn.Module = resnet(name).eval()
        state = load_file(need("imagenet") / "resnet50.safetensors")
        state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    else:
        model = CifarResNet(int(name.removeprefix("resnet"))).eval()
        state = load_file(need("cifar10_jpeg") / f"{name}.safetensors")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert all(k.endswith("num_batches_tracked") for k in missing), missing
    assert not unexpected, unexpected
    assert folded(model) == (name in FOLDED)
    return model
