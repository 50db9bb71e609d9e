"""Models by name: which source is asked, and never random weights."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from finepruning import FinepruningError, Loaded, Preprocess, load_model
from finepruning.hub import load
from finepruning.hub.libraries import import_library

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


# Sources


def test_another_source_is_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it needs: how it is asked for, whether it is, and how it loads."""
    net = nn.Linear(2, 3).train()
    zoo = SimpleNamespace(
        FORM="zoo:NAME",
        takes=lambda spec: spec.startswith("zoo:"),
        load=lambda spec, weights: Loaded(net, Preprocess(), ("a", "b", "c")),
    )
    monkeypatch.setattr(load, "SOURCES", (*load.SOURCES, zoo))
    loaded = load_model("zoo:lion")
    assert (loaded.model, loaded.name, net.training) == (net, "zoo:lion", False)
    with pytest.raises(FinepruningError, match=r"give torchvision:NAME, .*, zoo:NAME"):
        load_model("lion")


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("torchvision:resnet50", "torchvision"),
        ("timm:vit_tiny", "timm"),
        ("code/net.py:build", "user_code"),
        ("org/name", "hugging_face"),
        (".", "hugging_face"),
        ("resnet50", None),
        ("", None),
    ],
)
def test_who_takes_what(spec: str, source: str | None) -> None:
    takers = [s.__name__.rpartition(".")[2] for s in load.SOURCES if s.takes(spec)]  # type: ignore[attr-defined]
    assert takers == ([source] if source else [])


def test_a_file_of_that_name_does_not_hide_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """``hub/timm.py`` and ``hub/torchvision.py`` are not what ``import timm`` finds."""
    for name in ("timm", "torchvision"):
        library = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, library)
        assert import_library(name, "") is library
        monkeypatch.delitem(sys.modules, name)
        spec = importlib.util.find_spec(name)
        assert spec is None or "finepruning" not in str(spec.origin)
