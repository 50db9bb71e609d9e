"""``finepruning evaluate``: the dense network and the person's side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finepruning.cli.main import main


def test_evaluate(model: list[str], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = photos.parent / "classes.txt"
    order.write_text("red\ngreen\nblue\n")
    argv = ["evaluate", *model, "--data", str(photos), "--classes", str(order)]
    assert main(argv) == 0
    printed = capsys.readouterr()
    head, dense, note = printed.out.splitlines()
    assert head == "       all 3 outputs                 told the 3 classes            ms a sample"
    right, latency = dense.rsplit(maxsplit=1)
    assert right == "dense  6/6 = 100.0% [61.0%, 100.0%]  6/6 = 100.0% [61.0%, 100.0%]"
    assert float(latency) >= 0
    assert note == "[95 % Wilson interval]"
    assert "6 images; 1 skipped: " in printed.err


@pytest.mark.usefixtures("calls")
def test_evaluate_dense_and_personal_side_by_side(
    model: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "me").mkdir()
    argv = ["evaluate", *model, "--data", str(photos), "--personal", str(tmp_path / "me")]
    assert main([*argv, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # As many folders as outputs: the sorted order, blue, green, red. Only green is right then.
    assert result["dense"]["correct"] == 2
    assert result["personal"]["n"] == result["images"] == 6
    assert len(result["skipped"]) == 1
    assert main(argv) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["dense", "personal"]
