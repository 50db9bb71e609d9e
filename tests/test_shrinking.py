"""Real model families: whole channels go and are taken out, or it is said which stay and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config, FinepruningError, shrink
from test_families import FAMILIES, outputs
from test_speech_families import MAKERS, clips, made

NONE = {"bit", "gpt2", "language"}
"""Of which no channel goes."""


def first(data: Any) -> Any:
    return data[:2] if isinstance(data, Tensor) else data[0]


def look_at(model: nn.Module, data: Any, name: str, compare: bool) -> None:
    config = Config(structure={"params": 0.7}, readout=False, check=False, task="values")
    if name in NONE:
        with pytest.raises(FinepruningError, match="channels: "):
            finepruning.personalize(model, data, config=config, progress=False)
        return
    result = finepruning.personalize(model, data, config=config, progress=False)
    small = shrink(result.model, first(data), plain=result.plain)
    assert small.removed
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small.model))
    assert after < before
    if not compare:  # padded samples: shrink itself has compared what is left without padding
        return
    for one, two in zip(outputs(result.model, data), outputs(small.model, data), strict=True):
        assert torch.allclose(one, two, atol=2e-3 * float(one.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    make, data_of, _ = FAMILIES[family]
    torch.manual_seed(0)
    look_at(make().eval(), data_of(), family, True)


@pytest.mark.parametrize("name", MAKERS)
def test_speech(name: str) -> None:
    look_at(made(name), list(clips(name)), name, False)
