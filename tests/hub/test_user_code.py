"""The user's own function: run, with its neighbours importable, and blamed by line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from finepruning import FinepruningError, Preprocess, load_model

USER_CODE = """
import helper
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

def pair():
    return net().train(), helper.preprocess

def broken():
    raise KeyError("weights")

def wrong():
    return 3
"""


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text("def preprocess(image):\n    return 'prepared'\n")
    (tmp_path / "mine.py").write_text(USER_CODE)
    return tmp_path / "mine.py"


def test_user_function(user_file: Path) -> None:
    loaded = load_model(f"{user_file}:net")
    assert loaded.assumed
    assert loaded.preprocess == Preprocess()
    loaded = load_model(f"{user_file}:pair")
    assert not loaded.assumed
    assert not loaded.model.training
    assert loaded.preprocess(Image.new("RGB", (2, 2))) == "prepared"


def test_user_function_with_weights(user_file: Path, tmp_path: Path) -> None:
    state = {"1.weight": torch.randn(3, 12), "1.bias": torch.randn(3)}
    save_file(state, tmp_path / "w.safetensors")
    model = load_model(f"{user_file}:net", tmp_path / "w.safetensors").model
    assert torch.equal(model.state_dict()["1.weight"], state["1.weight"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "no function 'nothing' in"),
        ("broken", r"KeyError at .*mine\.py:12: 'weights'"),
        ("wrong", r"returned int; return a torch\.nn\.Module"),
    ],
)
def test_user_function_errors(user_file: Path, function: str, message: str) -> None:
    with pytest.raises(FinepruningError, match=message) as error:
        load_model(f"{user_file}:{function}")
    assert "\n" not in str(error.value)


def test_user_file_that_does_not_parse_or_exist(user_file: Path) -> None:
    user_file.write_text("def net(:\n")
    with pytest.raises(FinepruningError, match="SyntaxError"):
        load_model(f"{user_file}:net")
    with pytest.raises(FinepruningError, match="no such file"):
        load_model(f"{user_file.parent / 'none.py'}:net")
