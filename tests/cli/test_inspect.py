"""``finepruning inspect``, with a stand-in for the numerical core."""

from __future__ import annotations

import json

import pytest

from finepruning.cli.main import main


@pytest.mark.usefixtures("calls")
def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "me"]) == 0
    assert capsys.readouterr().out == "in short {'path': 'me'}\n"
    assert main(["inspect", "me", "--layers"]) == 0
    assert capsys.readouterr().out == "formatted {'path': 'me'}\n"
    assert main(["inspect", "me", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "me"}
