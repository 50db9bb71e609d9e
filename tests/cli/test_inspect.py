"""``finepruning inspect``: the report, and where the artifact's bytes go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import finepruning
from command import assert_one_line
from finepruning.artifact.layout import JSON, STATISTICS
from finepruning.cli.main import main
from saved import Net, X, reseal
from unchecked import personalize


@pytest.fixture
def me(tmp_path: Path) -> Path:
    personalize(Net(bias=True), X, sparsity=0.6).save(tmp_path / "me")
    return tmp_path / "me"


def test_what_is_shown(me: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(me)]) == 0
    short = capsys.readouterr().out
    assert "bits a weight (mask " in short
    assert max(len(line) for line in short.splitlines()) <= 80
    assert main(["inspect", str(me), "--layers"]) == 0
    assert "head" in capsys.readouterr().out
    assert main(["inspect", str(me), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    sizes, report = told.pop("artifact"), finepruning.read_report(me)
    assert told == report
    files = {f.name: f.stat().st_size for f in me.iterdir()}
    assert sizes["statistics"] == files.pop(STATISTICS)
    assert sum(sizes[part] for part in ("mask", "values", "changed", "rest")) == sum(files.values())
    assert sizes["values"] == 4 * round((1 - report["sparsity"]) * report["weights"])
    assert sizes["kind"] == "exact"


@pytest.mark.parametrize(
    "change", [{"report": {}}, {"report": {"weights": "\x1b[2J"}}, {"pruned": [[]]}]
)
def test_a_hostile_one_is_one_line(
    me: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    reseal(me, **change)
    assert main(["inspect", str(me)]) == 1
    assert_one_line(capsys, "damaged")


def test_tensors_that_are_none_are_one_line(me: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (b"", b"\xff" * 100, (9).to_bytes(8, "little") + b'{"a": 1}\n'):
        (me / "personal.safetensors").write_bytes(text)
        reseal(me)
        assert main(["inspect", str(me)]) == 1
        assert_one_line(capsys, "damaged")
    (me / "personal.safetensors").unlink()
    os.mkfifo(me / "personal.safetensors")
    assert main(["inspect", str(me)]) == 1
    assert_one_line(capsys, "no ordinary file")
    assert (me / JSON).is_file()
