"""A network, what came of it, and its artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from finepruning import Result
from saved import Net, X
from unchecked import personalize


@pytest.fixture
def base() -> nn.Module:
    return Net(bias=True)


@pytest.fixture
def result(base: nn.Module) -> Result:
    return personalize(base, X, sparsity=0.6)


@pytest.fixture
def me(result: Result, tmp_path: Path) -> Path:
    result.save(tmp_path / "me")
    return tmp_path / "me"
