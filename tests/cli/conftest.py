"""Photos, a network for them, and a stand-in for the numerical core."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import finepruning
from command import COLOURS, NET
from finepruning.report import text


@pytest.fixture(autouse=True)
def _same_path_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        for i in range(2):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 8), colour).save(path)
    (tmp_path / "photos" / "red" / "broken.jpg").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """Options for a network whose outputs are red, green and blue."""
    (tmp_path / "net.py").write_text(NET)
    save_file({"2.weight": torch.eye(3), "2.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    return ["--model", f"{tmp_path / 'net.py'}:net", "--weights", str(tmp_path / "w.safetensors")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a stand-in in the place of the numerical core, and see how it is called."""
    calls: dict[str, Any] = {}

    class Report:
        warnings = ("the samples are few",)
        check = MappingProxyType({"passed": False, "reason": "it would not help"})
        readout = MappingProxyType({"applied": True})

        def to_dict(self) -> dict[str, Any]:
            return {"sparsity": 0.7}

        def __str__(self) -> str:
            return "a report"

    def personalize(model: nn.Module, batches: Iterable[Any], **options: Any) -> SimpleNamespace:
        calls.update(options, shapes=[tuple(x.shape) for x in batches])
        return SimpleNamespace(
            report=Report(), save=lambda path, **_: Path(path).mkdir(), model=nn.Identity()
        )

    def load(path: str, base: nn.Module) -> nn.Module:
        return nn.Sequential(base, nn.Hardtanh(-1, 0))  # all ties: always the first class

    monkeypatch.setattr(text, "format_report", lambda report: f"formatted {report}")
    monkeypatch.setattr(text, "summary", lambda report: f"in short {report}")
    monkeypatch.setattr(finepruning, "personalize", personalize)
    monkeypatch.setattr(finepruning, "load", load)
    monkeypatch.setattr(finepruning, "read_report", lambda path: {"path": str(path)})
    return calls
