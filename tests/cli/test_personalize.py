"""``finepruning personalize``, with a stand-in for the numerical core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import finepruning
from command import assert_one_line
from finepruning.cli import common
from finepruning.cli.main import main


def test_personalize(
    model: list[str],
    photos: Path,
    tmp_path: Path,
    calls: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "me"
    argv = ["personalize", *model, "--data", str(photos), "--out", str(out)]
    assert main([*argv, "--batch-size", "4"]) == 0
    assert out.is_dir()
    assert calls["shapes"] == [(4, 3, 224, 224), (2, 3, 224, 224)]
    assert calls["config"] == finepruning.Config()
    printed = capsys.readouterr()
    assert printed.out == "a report\n"
    assert "assumed; change with --resize" in printed.err
    assert "6 images; 1 skipped: " in printed.err
    assert "broken.jpg: not an image" in printed.err
    assert "warning: the samples are few\n" in printed.err
    assert "the dense weights are returned, with the read-out: it would not help\n" in printed.err


def test_personalize_options_and_json(
    model: list[str],
    photos: Path,
    tmp_path: Path,
    calls: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["personalize", *model, "--data", str(photos), "--out", str(tmp_path / "me")]
    argv += ["--sparsity", "0.5", "--effort", "fast", "--no-readout", "--seed", "3"]
    argv += ["--task", "classes", "--only-classes", "0, 2", "--norms", "0.25", "--no-check"]
    argv += ["--resize", "none", "--crop", "6x4", "--mean", "0.5", "--std", ".1,.2", "0.3"]
    assert main([*argv, "--device", "cpu", "--format", "json"]) == 0
    config = finepruning.Config(
        sparsity=0.5, effort="fast", readout=False, seed=3, norms=0.25, check=False,
        task={"kind": "classes", "classes": (0, 2)},
    )  # fmt: skip
    assert calls == {"config": config, "device": "cpu", "shapes": [(6, 3, 6, 4)]}
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == {"sparsity": 0.7}
    assert result["images"] == 6
    assert [Path(s["path"]).name for s in result["skipped"]] == ["broken.jpg"]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("where", ["me", "nowhere/me"])
def test_out_is_checked_before_any_work(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "me").mkdir()
    monkeypatch.setattr(common, "load", None)
    argv = ["personalize", "--model", "timm:x", "--data", str(tmp_path)]
    assert main([*argv, "--out", str(tmp_path / where)]) == 1
    assert_one_line(capsys, "--out")
