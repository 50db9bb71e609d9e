"""The commands that follow personalize: what has changed, and taking it in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from command import COLOURS, assert_one_line
from finepruning import read_report
from finepruning.cli.main import main
from saved import reseal

NET = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return model.eval()
"""


def photos(folder: Path, count: int, start: int = 0) -> Path:
    """Pictures of three colours, no two alike."""
    folder.mkdir(parents=True)
    for i, (name, (r, g, b)) in enumerate(COLOURS.items()):
        for j in range(start, start + count):
            picture = Image.new("RGB", (8, 8), (max(0, r - 7 * j), max(0, g - j), b // (j + 1) + i))
            picture.putpixel((j % 8, j // 8), (j, 9 * i, 80))
            picture.save(folder / f"{name}{j}.png")
    return folder


@pytest.fixture
def me(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    argv = ["--model", f"{tmp_path / 'net.py'}:net", "--resize", "8", "--crop", "8"]
    argv += ["--data", str(photos(tmp_path / "old", 12)), "--out", str(tmp_path / "me")]
    argv += ["--sparsity", "0.3", "--classes", str(tmp_path / "names.txt"), "--no-check"]
    assert main(["personalize", *argv]) == 0
    capsys.readouterr()
    return tmp_path / "me"


@pytest.mark.parametrize("values", ["int8", "differences", "mask"])
def test_what_is_stored_of_the_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: str
) -> None:
    (tmp_path / "net.py").write_text(NET)
    out, data = tmp_path / "me", str(photos(tmp_path / "data", 12))
    argv = ["--model", f"{tmp_path / 'net.py'}:net", "--resize", "8", "--crop", "8", "--data", data]
    argv += ["--sparsity", "0.3", "--no-check", "--values", values]
    capsys.readouterr()
    assert main(["personalize", *argv, "--out", str(out), "--format", "json"]) == 0
    shown = capsys.readouterr()
    stored = json.loads(shown.out)["stored"]
    assert stored["values"] == values
    assert 0 <= stored["same"] <= stored["answers"] >= 12
    assert stored["off"] < 0.2
    assert (
        f"stored as {values}: {stored['same']} of {stored['answers']} answers are the same"
        in shown.err
    )
    for again in (False, True):
        capsys.readouterr()
        assert main(["inspect", str(out), "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["artifact"]["kind"] == values
        if not again:
            assert main(["update", str(out), "--data", data]) == 0


def test_all_that_was_said_the_first_time_is_known(
    me: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the command is run from."""
    new = photos(tmp_path / "new", 6, start=20)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["monitor", str(me), "--data", str(new), "--format", "json"]) == 0
    drift = json.loads(capsys.readouterr().out)
    assert drift["samples"] == 18
    assert drift["false_alarms"] == 0.05
    before = read_report(me)
    assert main(["update", str(me), "--data", str(new), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(me)
    report = read_report(me)
    assert report == told["report"]
    assert report["update"] == {"remembered": 36, "aligned": report["update"]["aligned"]}
    assert report["samples"] == 18
    assert before["update"] is None
    assert report["classes"]["in_use"][0]["name"] in COLOURS
    assert main(["update", str(me), "--data", str(new)]) == 0  # and so it goes on
    assert read_report(me)["update"]["remembered"] == 54
    assert "54 earlier samples" in capsys.readouterr().out


def test_another_folder_leaves_the_first_one(
    me: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, before = photos(tmp_path / "new", 6, start=20), (me / "finepruning.json").read_bytes()
    out = str(tmp_path / "then")
    assert main(["update", str(me), "--data", str(new), "--out", out]) == 0
    assert (me / "finepruning.json").read_bytes() == before
    assert read_report(out)["update"]["remembered"] == 36
    capsys.readouterr()
    assert main(["update", str(me), "--data", str(new), "--out", out]) == 1
    assert_one_line(capsys, "exists already")


def test_a_change_is_told_with_what_to_do(
    me: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dark = tmp_path / "dark"
    dark.mkdir()
    for j in range(20):
        Image.new("RGB", (8, 8), (4 * j, 250 - 3 * j, 250)).save(dark / f"{j}.png")
    assert main(["monitor", str(me), "--data", str(dark), "--false-alarms", "0.2"]) == 0
    told = capsys.readouterr().out
    assert f"finepruning update {me}" in told


def test_what_cannot_be_is_one_line(
    me: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = str(photos(tmp_path / "new", 2))
    assert main(["monitor", str(tmp_path / "none"), "--data", new]) == 1
    assert_one_line(capsys, "not a finepruning artifact")
    reseal(me, source=...)
    for command in ("monitor", "update"):
        assert main([command, str(me), "--data", new]) == 1
        assert_one_line(capsys, "--model: not known of this artifact; give it")
    model = ["--model", f"{tmp_path / 'net.py'}:net", "--resize", "8", "--crop", "8"]
    (me / "statistics.safetensors").unlink()
    for command in ("monitor", "update"):
        assert main([command, str(me), *model, "--data", new]) == 1
        assert "nothing was kept" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_where_it_may_not_write(
    me: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = str(photos(tmp_path / "new", 2))
    tmp_path.chmod(0o500)
    try:
        assert main(["update", str(me), "--data", new]) == 1
    finally:
        tmp_path.chmod(0o700)
    assert_one_line(capsys, "cannot write in")
