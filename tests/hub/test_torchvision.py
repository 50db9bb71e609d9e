"""Networks of torchvision, with the library and without."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError, Preprocess, load_model


def test_torchvision_name_with_weights_needs_no_torchvision(
    resnet18: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    path, state = resnet18
    loaded = load_model("torchvision:resnet18", path)
    assert not loaded.model.training
    assert loaded.preprocess == Preprocess()
    own = loaded.model.state_dict()
    assert own["fc.weight"].dtype == torch.float32
    assert all(torch.equal(own[key].to(value.dtype), value) for key, value in state.items())


def test_with_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with torchvision's interface: the real one is not always importable."""
    preset = SimpleNamespace(
        resize_size=[20],
        crop_size=[16],
        mean=[0.5, 0.5, 0.5],
        std=[0.1, 0.2, 0.3],
        interpolation=SimpleNamespace(value="bicubic"),
    )
    weights = SimpleNamespace(transforms=lambda: preset, meta={"categories": ["cat", "dog"]})

    class Enumeration(list[Any]):
        DEFAULT = weights

    def get_model(name: str, weights: Any = None) -> nn.Module:
        if name != "tiny":
            raise ValueError(f"Unknown model {name}")
        return nn.Linear(3, 2)

    models = SimpleNamespace(
        get_model_weights=lambda name: Enumeration([weights]), get_model=get_model
    )
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    loaded = load_model("torchvision:tiny")
    assert loaded.classes == ("cat", "dog")
    assert loaded.preprocess == Preprocess(
        20, 16, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3), interpolation="bicubic"
    )
    with pytest.raises(FinepruningError, match="Unknown model resnet_of_mine"):
        load_model("torchvision:resnet_of_mine")
