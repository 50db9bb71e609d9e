"""``finepruning personalize-many``: a list of people in, a bank out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command import assert_one_line
from finepruning.cli.main import main

PHOTOS = """name,data
ann,photos/red
bob,photos/green
eve,nowhere
"""


def test_the_command(
    tmp_path: Path, photos: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "people.csv").write_text(PHOTOS)
    argv = [
        "personalize-many", *model, "--manifest", str(tmp_path / "people.csv"), "--workers", "2",
        "--out", str(tmp_path / "bank"), "--sparsity", "0.5", "--no-check", "--values", "int8",
    ]  # fmt: skip
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("2 done, 0 there before, 1 failed; 2 in ")
    assert "eve: failed" in shown.out
    assert "nowhere" in shown.err
    assert "ann: 1 " in shown.out  # what is damaged
    assert "broken.jpg" in shown.out
    assert "bob: stored as int8: " in shown.out
    assert "answers are the same" in shown.out
    assert main(["bank", "verify", str(tmp_path / "bank")]) == 0
    (tmp_path / "people.csv").write_text(PHOTOS[: PHOTOS.index("eve")])
    capsys.readouterr()
    assert main([*argv, "--format", "json"]) == 0
    assert '"there": [\n    "ann",\n    "bob"\n  ]' in capsys.readouterr().out
    for other, why in (
        (["--values", "exact"], "ann: is in .* already, stored as int8;"),
        (["--mean", "0.1"], "ann: is in .* already, from inputs prepared otherwise"),
        (["--seed", "1"], "ann: is in .* already, by other choices"),
    ):
        assert main([*argv, *other]) == 1
        assert re.search(why, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its first line is None; name the columns: name,data"),
        ("who,where\na,b\n", "its first line is ['who', 'where']"),
        ("name,data\n", "nobody is in it"),
        ("name,data\nann,photos\nann,photos\n", "line 3: ann is there twice"),
        ("name,data\n../ann,photos\n", "line 2: '../ann': no name for a person"),
        ("name,data\nann\n", "line 2: no folder; give name,data"),
        (None, "cannot be read"),
    ],
)
def test_a_list_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, why: str
) -> None:
    file = tmp_path / "people.csv"
    if text is not None:
        file.write_text(text)
    argv = [
        "--manifest",
        str(file),
        "--model",
        "torchvision:resnet18",
        "--out",
        str(tmp_path / "b"),
    ]
    assert main(["personalize-many", *argv]) == 1
    assert_one_line(capsys, f"--manifest {file}", why)
    assert not (tmp_path / "b").exists()
