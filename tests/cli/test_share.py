"""``finepruning push`` and ``pull``: to a hub and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest

import finepruning
from command import assert_one_line
from finepruning import load, pull, push
from finepruning.cli.main import main
from hubserver import hub
from saved import Net, X, same_bits
from unchecked import personalize


def test_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = personalize(Net(), X, sparsity=0.6)
    result.save(tmp_path / "me")
    with hub() as there:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        for call in (push, pull):
            here = partial(call, endpoint=there.url, token="hf_x")
            monkeypatch.setattr(finepruning, call.__name__, here)
        assert main(["push", str(tmp_path / "me"), "ann/me", "--public"]) == 0
        assert capsys.readouterr().out == f"{there.url}/ann/me\n"
        assert there.visibility == {"ann/me": "public"}
        assert main(["pull", "ann/me", str(tmp_path / "back")]) == 0
        assert same_bits(load(tmp_path / "back", Net()), result.model)
        capsys.readouterr()
        assert main(["pull", "ann/other", str(tmp_path / "other")]) == 1
        assert_one_line(capsys, "ann/other: the hub cannot be used")
