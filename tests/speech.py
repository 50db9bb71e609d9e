"""A small network that listens, and clips for it, which several tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn


class Speech(nn.Module):
    """Convolutions over the waveform, frames, a pooled answer; with a window, or without."""

    def __init__(self, window: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.window = window
        self.first = nn.Conv1d(1, 8, 4, 2)
        self.norm = nn.GroupNorm(8, 8) if norm else nn.Identity()
        self.second = nn.Conv1d(8, 12, 3, 2)
        self.frame = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.window and input_values.shape[1] != self.window:
            raise ValueError(f"{self.window} samples")
        x = self.second(self.norm(self.first(input_values[:, None])).relu()).relu()
        x = self.frame(x.transpose(1, 2)).relu()
        if attention_mask is None:
            return self.head(x.mean(1))
        frames = (((attention_mask.sum(1) - 4) // 2 + 1) - 3) // 2 + 1
        real = (torch.arange(x.shape[1]) < frames[:, None]).to(x.dtype)[..., None]
        return self.head((x * real).sum(1) / real.sum(1))


def clips(whole: int, each: bool, dtype: torch.dtype, garbage: float = 0.0) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(30, 60, (24,), generator=generator)
    x = torch.randn(24, 60, generator=generator)
    x = nn.functional.pad(x, (0, whole - 60))
    mask = (torch.arange(whole) < lengths[:, None]).long()
    x = torch.where(mask.bool(), x, garbage).to(dtype)
    sizes = 1 if each else 6
    return [
        {"input_values": a, "attention_mask": m}
        for a, m in zip(x.split(sizes), mask.split(sizes), strict=True)
    ]


def clip(path: Path, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).normal(0, 0.1, round(seconds * 16000))
    soundfile.write(path, noise, 16000)
    return path
