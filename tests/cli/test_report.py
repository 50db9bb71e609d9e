"""``finepruning report``: a page, with some of the person's samples only if they ask."""

from __future__ import annotations

import json
import math
import struct
import wave
from pathlib import Path

import pytest
from PIL import Image

from command import COLOURS, assert_one_line
from finepruning.cli.main import main

NET = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3)).eval()


def hears():
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 8, 9, 4), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def wave_itself(waveform):
    return waveform
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (name, (r, g, b)) in enumerate(COLOURS.items()):
        for j in range(6):
            Image.new("RGB", (300, 200), (max(0, r - 9 * j), g, b // (j + 1) + i)).save(
                folder / f"{name}{j}.png"
            )
    return folder


def personal(tmp_path: Path, data: Path, *more: str) -> Path:
    me = tmp_path / "me"
    argv = ["personalize", "--data", str(data), "--out", str(me), "--sparsity", "0.3", *more]
    assert main([*argv, "--no-check"]) == 0
    return me


def test_pictures_only_if_asked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("red\ngreen\n<b>blue\n")
    me = personal(
        tmp_path, photos, "--model", f"{tmp_path / 'net.py'}:net", "--resize", "8", "--crop", "8",
        "--classes", str(tmp_path / "names.txt"),
    )  # fmt: skip
    capsys.readouterr()
    assert main(["report", str(me)]) == 0
    assert "<img" not in (me / "report.html").read_text()
    argv = ["report", str(me), "--with-samples", str(photos), "--format", "json"]
    assert main(argv) == 0
    told = json.loads(capsys.readouterr().out.split("report.html\n", 1)[1])
    text = (me / "report.html").read_text()
    assert text.count("<img") == 12
    assert text.count("data:image/jpeg;base64,") == 12
    assert "<b>blue" not in text
    assert "keep this page to yourself" in text
    assert told["bytes"] < 1_000_000


def test_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(NET)
    voice = tmp_path / "voice"
    voice.mkdir()
    for i in range(8):
        samples = [int(9000 * math.sin(t * (1 + i) / 9)) for t in range(8000)]
        with wave.open(str(voice / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    net = f"{tmp_path / 'net.py'}"
    me = personal(
        tmp_path, voice, "--model", f"{net}:hears", "--front-end", f"{net}:wave_itself",
        "--rate", "8000",
    )  # fmt: skip
    assert main(["report", str(me), "--with-samples", str(voice)]) == 0
    text = (me / "report.html").read_text()
    assert text.count("<audio controls") == 8
    assert "data:audio/wav;base64," in text
    assert len(text) < 1_000_000


def test_what_cannot_be_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = personal(
        tmp_path, photos, "--model", f"{tmp_path / 'net.py'}:net", "--resize", "8", "--crop", "8"
    )
    capsys.readouterr()
    assert main(["report", str(me), "--with-samples", str(tmp_path / "none")]) == 1
    assert_one_line(capsys, "none: does not exist")
    assert main(["report", str(tmp_path / "none")]) == 1
    assert_one_line(capsys, "not a finepruning artifact")
