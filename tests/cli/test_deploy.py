"""The commands that bring a network to the device, one behind the other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finepruning import Deployed
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


PREPARED = ["--resize", "16", "--crop", "16", "--mean", "0.5", "--std", "0.5"]
PERSONAL = ["personalize", "--model", "net.py:net", "--data", "photos", *PREPARED]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, and what was made of them."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("net.py").write_text(NET)
        Path("photos").mkdir()
        for i in range(24):
            pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{i:02}.png")
        assert main([*PERSONAL, "--macs", "0.5x", "--out", "me"]) == 0
    return place


@pytest.fixture
def me(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


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
    assert main(["bench", "me", "--data", "photos", "--rounds", "1", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = {row["name"] for row in found["rows"]}
    runtimes = ("PyTorch", "ONNX Runtime")
    assert names == {f"{r}: {n}" for r in runtimes for n in ("dense", "with zeros", "small")}
    assert {row["batch"] for row in found["rows"]} == {1, 16}
    size = {row["name"]: row["bytes"] for row in found["rows"] if "bytes" in row}
    assert size["ONNX Runtime: small"] < size["ONNX Runtime: with zeros"]
    assert "VNNI" in found["processor"]


def test_a_size_and_a_number_of_pixels(me: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "25KB", "--pixels", "12", "--out", "sized", "--format", "json"]
    assert main([*PERSONAL, *words]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert 4 * (report["weights"] - report["zeros"]) < 25_000 < 4 * report["weights"]
    assert main(["export", "sized", "--data", "photos", "--to", "sized.onnx"]) == 0
    assert Deployed("sized.onnx").preprocess.crop == 12


def test_pixels_chosen_by_the_answers_that_stay(
    me: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--pixels", "auto", "--tolerance", "1", "--sparsity", "0.5", "--out", "few"]
    assert main([*PERSONAL, *words]) == 0
    said = capsys.readouterr().err
    assert "pixels: 8: " in said
    assert "of the answers stay, 25% of the multiply-accumulates" in said
    assert "resize 8 bilinear, crop 8" in said


def test_a_latency_is_timed(me: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PERSONAL, "--latency", "0.9x", "--out", "quick", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["zeros"] > 0
    assert any("of the dense network's time, in PyTorch" in line for line in report["warnings"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shrink", "me", "--data", "photos", "--out", "photos"], "--out photos: exists already"),
        (["export", "me", "--data", "photos", "--to", "m.bin"], "a name that ends in .onnx or"),
        (["export", "photos", "--data", "photos", "--to", "m.onnx"], "not a finepruning artifact"),
        (["run", "no.onnx", "--data", "photos"], "no.onnx: there is no such file"),
        ([*PERSONAL, "--size", "1MB", "--out", "new"], "size: the network takes 0.0 MB as it is"),
        ([*PERSONAL, "--size", "10B", "--out", "new"], "size: what is not pruned takes 0.0 MB"),
        (
            [*PERSONAL, "--size", "9KB", "--params", "0.5", "--out", "new"],
            "--size and --params: give one of them",
        ),
        (
            [*PERSONAL, "--pixels", "auto", "--task", "values", "--out", "new"],
            "--pixels auto: is judged by classes, and --task is values; give a number",
        ),
        (
            [*PERSONAL, "--macs", "0.5", "--latency", "0.5", "--out", "new"],
            "macs and latency; give one of them",
        ),
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
