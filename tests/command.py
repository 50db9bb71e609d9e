"""What the tests of the command share."""

from __future__ import annotations

import pytest

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
"""


def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("finepruning: error: ")
    assert all(part in line for part in parts)
