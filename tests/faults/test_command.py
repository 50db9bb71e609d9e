"""The user's own code, names and places: none of it reaches the result, or hides a reason."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finepruning.cli.common import printable
from finepruning.scoring.classes import match_classes

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 4))
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def run(code: str, photos: Path, *more: str) -> subprocess.CompletedProcess[str]:
    (photos.parent / "net.py").write_text(code)
    command = [
        sys.executable, "-m", "finepruning", "personalize", "--model",
        f"{photos.parent / 'net.py'}:net", "--data", str(photos), "--resize", "8", "--crop", "8",
        "--out", str(photos.parent / "me"), "--format", "json", *more,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_the_users_code_prints_is_none_of_the_result(photos: Path) -> None:
    code = "import os, argparse\nprint('hello')\nos.system('echo there')\n" + NET
    code += "argparse.ArgumentParser().parse_args()\n"
    done = run(code, photos)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 24
    assert "hello" in done.stderr
    assert "there" in done.stderr


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys\nsys.exit(0)\n" + NET, "SystemExit at .*net.py:2"),
        ("import sys\nsys.exit(3)\n" + NET, "SystemExit at .*net.py:2"),
        (NET.replace("return", "raise ValueError('no')\n    return"), "ValueError at .*net.py:7"),
        (
            NET + "class Bad(nn.Linear):\n    def forward(self, x):\n        raise KeyError('k')\n"
            "_net = net\ndef net():\n    return nn.Sequential(nn.Flatten(), Bad(192, 4))\n",
            "KeyError: 'k' at .*net.py:10",
        ),
        (
            NET + "class Bad(nn.Linear):\n    def forward(self, x):\n        raise SystemExit(0)\n"
            "_net = net\ndef net():\n    return nn.Sequential(nn.Flatten(), Bad(192, 4))\n",
            r"called sys.exit\(0\)",
        ),
    ],
)
def test_what_the_users_code_does_wrong_is_told_with_its_place(
    code: str, reason: str, photos: Path
) -> None:
    import re

    done = run(code, photos)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert re.search(reason, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("", "give a name"),
        ("x" * 300, "File name too long"),
        ("none/me", "there is no folder"),
        ("photos", "exists already"),
    ],
)
def test_a_place_that_cannot_be_is_known_before_the_work(
    out: str, reason: str, photos: Path
) -> None:
    done = run("raise AssertionError('it ran')", photos, "--out", out and str(photos.parent / out))
    assert done.returncode == 1
    assert reason in done.stderr
    assert "it ran" not in done.stderr


def test_names_that_a_terminal_would_obey(photos: Path) -> None:
    (photos / "\x1b[31mred\x07.txt").write_text("x")
    done = run(NET, photos)
    assert "\x1b" not in done.stderr
    assert r"\x1b[31mred\x07.txt" in done.stderr
    assert printable("a\tb\nc\x1bé") == "a\tb\nc\\x1bé"


def test_an_accent_that_is_written_apart() -> None:
    one, two = unicodedata.normalize("NFC", "Bébé"), unicodedata.normalize("NFD", "Bébé")
    assert one != two
    assert match_classes([two], 2, names=["x", one]) == {two: 1}


def test_folders_with_numbers_that_a_file_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("101\n7\n0\n")
    found = match_classes(["0", "101"], 3, file=tmp_path / "classes.txt")
    assert found == {"0": 2, "101": 0}
    assert match_classes(["0", "2"], 3) == {"0": 0, "2": 2}
