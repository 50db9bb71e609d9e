"""Networks of timm."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finepruning import Preprocess, load_model


def test_with_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stand-in with timm's interface."""
    config = {
        "input_size": (3, 64, 64),
        "crop_pct": 0.5,
        "crop_mode": "center",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
    }
    made: list[tuple[bool, int]] = []

    def create_model(name: str, pretrained: bool, num_classes: int = 10) -> nn.Module:
        made.append((pretrained, num_classes))
        model: Any = nn.Sequential()
        model.head = nn.Linear(4, num_classes)
        model.pretrained_cfg, model.num_classes = {"classifier": "head"}, num_classes
        return model

    data = SimpleNamespace(
        resolve_model_data_config=lambda model: config,
        create_transform=lambda **options: "timm's own",
    )
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, data=data))
    half = ((0.5,) * 3,) * 2
    assert load_model("timm:x").preprocess == Preprocess(128, 64, *half, 3, "bicubic")
    assert made == [(True, 10)]
    config["crop_mode"] = "squash"
    assert load_model("timm:x").preprocess == Preprocess((128, 128), 64, *half, 3, "bicubic")
    config["crop_mode"] = "border"
    assert load_model("timm:x").preprocess == "timm's own"
    # A checkpoint with a head of another size, as after fine-tuning.
    weights = tmp_path / "w.safetensors"
    save_file({"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)}, weights)
    assert load_model("timm:x", weights).model.head.out_features == 3
    assert made[-1] == (False, 3)
