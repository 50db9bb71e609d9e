"""The commands that bring a network to the device, one behind the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finepruning.cli.main import main

NET = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()
"""


@pytest.fixture
def me(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("photos").mkdir()
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{i:02}.png")
    prepared = ["--resize", "16", "--crop", "16", "--mean", "0.5", "--std", "0.5"]
    assert main(["personalize", "--model", "net.py:net", "--data", "photos", *prepared,
                 "--macs", "0.5x", "--out", "me"]) == 0  # fmt: skip
    return tmp_path


def test_from_a_persons_photos_to_a_file_that_runs(
    me: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "photos"]
    capsys.readouterr()
    assert main(["shrink", "me", *data, "--out", "small", "--format", "json"]) == 0
    shrunk = json.loads(capsys.readouterr().out)
    assert shrunk["params"]["after"] < 0.7 * shrunk["params"]["before"]
    assert main(["export", "small", *data, "--to", "small.onnx"]) == 0
    assert main(["export", "me", *data, "--to", "me.onnx"]) == 0
    assert main(["export", "small", *data, "--to", "int8.onnx", "--int8"]) == 0
    assert main(["export", "small", *data, "--to", "small.pt2"]) == 0
    answers = []
    for file in ("me.onnx", "small.onnx"):
        capsys.readouterr()
        assert main(["run", file, *data, "--format", "json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["predictions"])
    assert len(answers[0]) == 24
    assert [a["output"] for a in answers[0]] == [a["output"] for a in answers[1]]
    assert Path("small.onnx").stat().st_size < Path("me.onnx").stat().st_size


def test_a_table_of_latencies(me: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["bench", "me", "--data", "photos", "--rounds", "2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {row["name"] for row in found["rows"]}
    runtimes = ("PyTorch", "ONNX Runtime")
    assert names == {f"{r}: {n}" for r in runtimes for n in ("dense", "with zeros", "small")}
    assert {row["batch"] for row in found["rows"]} == {1, 16}
    size = {row["name"]: row["bytes"] for row in found["rows"] if "bytes" in row}
    assert size["ONNX Runtime: small"] < size["ONNX Runtime: with zeros"]
    assert main(["bench", "me", "--data", "photos", "--rounds", "1"]) == 0
    assert "VNNI, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shrink", "me", "--data", "photos", "--out", "photos"], "--out photos: exists already"),
        (["export", "me", "--data", "photos", "--to", "m.bin"], "a name that ends in .onnx or"),
        (["export", "photos", "--data", "photos", "--to", "m.onnx"], "not a finepruning artifact"),
        (["run", "no.onnx", "--data", "photos"], "no.onnx: there is no such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    me: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
