"""A checkpoint in torchvision's layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import Tensor

from finepruning.hub.resnet import resnet


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    state = resnet("resnet18", 7).half().state_dict()
    path = tmp_path_factory.mktemp("resnet") / "half.safetensors"
    save_file(state, path)
    return path, state
