"""``finepruning bank``: who is there, in and out, in one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import assert_one_line
from finepruning.cli.main import main
from saved import Net, X
from unchecked import personalize


def test_in_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    me, bank = str(tmp_path / "me"), str(tmp_path / "bank")
    personalize(Net(), X).save(me)
    for name in ("user-1", "user-0"):
        assert main(["bank", "add", bank, name, me]) == 0
    capsys.readouterr()
    assert main(["bank", "list", bank]) == 0
    assert capsys.readouterr().out == "user-0\nuser-1\n"
    assert main(["bank", "list", bank, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"names": ["user-0", "user-1"]}
    assert main(["bank", "remove", bank, "user-1"]) == 0
    assert "user-1: removed, 1 in" in capsys.readouterr().out
    (tmp_path / "bank" / ".finepruning-left").mkdir()
    assert main(["bank", "gc", bank]) == 0
    assert capsys.readouterr().out.startswith("1 folders")
    for name in ([], ["user-0"]):
        assert main(["bank", "verify", bank, *name]) == 0
        assert "whole" in capsys.readouterr().out
    file = tmp_path / "bank" / "user-0" / "personal.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["bank", "verify", bank]) == 1
    assert_one_line(capsys, "1 of 1 damaged", "user-0")


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["add", "BANK"], "give NAME and DIR"),
        (["add", "BANK", "me"], "give NAME and DIR"),
        (["add", "BANK", "a/b", "BANK"], "no name for a person"),
        (["remove", "BANK"], "give NAME after"),
        (["remove", "BANK", "nobody"], "nobody is called 'nobody'"),
        (["verify", "BANK", "nobody"], "nobody is called 'nobody'"),
        (["list", "none"], "there is no such folder; bank add makes it"),
        (["list", "BANK", "me"], "me: not asked for; leave it out"),
        (["remove", "BANK", "me", "more"], "more: not asked for; leave it out"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], why: str
) -> None:
    assert main(["bank", *(str(tmp_path) if word == "BANK" else word for word in argv)]) == 1
    assert_one_line(capsys, why)
