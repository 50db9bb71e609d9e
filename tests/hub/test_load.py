"""Models by name: which source is asked, and never random weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from finepruning import FinepruningError, load_model

DATA = Path(os.environ.get("FINEPRUNING_DATA", "../shared/data"))


def test_never_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FinepruningError, match=r"needs torchvision.*--weights FILE"):
        load_model("torchvision:resnet50")
    with pytest.raises(FinepruningError, match="pip install timm"):
        load_model("timm:vit_tiny_patch16_224")


@pytest.mark.parametrize("spec", ["resnet50", "./nowhere", "a/b/c", "", "keras:resnet50"])
def test_bad_spec(spec: str) -> None:
    with pytest.raises(FinepruningError, match=r"not found; give torchvision:NAME"):
        load_model(spec)


# Real data


def test_the_resnet_and_the_dogs() -> None:
    """One image a breed through the real network: 5 of the 10 are right over 1000 outputs."""
    folder = DATA / "imagenet"
    if not folder.is_dir():
        pytest.skip(f"no real data: FINEPRUNING_DATA={DATA} has no folder imagenet")
    loaded = load_model("torchvision:resnet50", folder / "resnet50.safetensors")
    paths = [sorted(f.iterdir())[0] for f in sorted((folder / "dogs" / "test").iterdir())]
    x = torch.stack([loaded.preprocess(Image.open(p).convert("RGB")) for p in paths])
    with torch.inference_mode():
        best = loaded.model(x).argmax(1)
    truth = torch.tensor([155, 159, 162, 167, 182, 193, 207, 229, 258, 273])
    assert int((best == truth).sum()) == 5
