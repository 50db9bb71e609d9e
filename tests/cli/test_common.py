"""The model that the options name, with its inputs prepared as they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import finepruning
from command import assert_one_line
from finepruning import FinepruningError, Loaded, Preprocess
from finepruning.cli.common import load
from finepruning.cli.main import _parser, main
from finepruning.data.pictures import IMAGES


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none(
    model: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *model, "--data", str(photos), "--device", "cuda"]) == 1
    assert_one_line(capsys, "--device cpu")


def test_options_replace_a_models_own_preprocessing_only_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        finepruning,
        "load_model",
        lambda *_: Loaded(nn.Identity(), lambda image: torch.zeros(1), name="m"),
    )
    options = ["--crop", "32", "--resize", "32", "--mean", "0", "--std", "1"]
    parse = _parser().parse_args
    base = ["evaluate", "--model", "m", "--data", "d"]
    loaded = load(parse([*base, *options]), IMAGES)
    assert loaded.preprocess == Preprocess(32, 32, (0.0,), (1.0,))
    with pytest.raises(FinepruningError, match="--crop: m brings its own preprocessing"):
        load(parse([*base, *options[:2]]), IMAGES)
