"""A small generic network for handwritten digits: ``--model demo/digits.py:digits``.

This is all that the command needs to know of a network of your own: a function without arguments
that returns the trained network and what turns an image into its input.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits.safetensors")  # train.py wrote it
SIDE = 16


class DigitNet(nn.Sequential):
    """Four convolutions and a linear layer, 79,264 weights: ``(B, 1, 16, 16)`` to 10 logits."""

    def __init__(self) -> None:
        super().__init__(
            *_block(1, 32),
            *_block(32, 48, stride=2),
            *_block(48, 64),
            *_block(64, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


def _block(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


def preprocess(image: Image.Image) -> Tensor:
    """Return a white digit on black as the network's input, float32 ``(1, 16, 16)``."""
    image = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return ((pixels - 0.3) / 0.35)[None]


def digits() -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    """Return the trained network and its preprocessing."""
    model = DigitNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval(), preprocess
