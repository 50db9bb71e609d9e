"""Where the library that finds what depends on what fails, or would not end: that layer is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from finepruning.network import dependency
from finepruning.network.channels import find_channels
from finepruning.network.dependency import groups_of

X = torch.randn(2, 3, 8, 8)


def flattened() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 64, 5), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip


def test_a_group_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = {"0", "2", "5", "7"}
    whole = find_channels(flattened(), lambda m: m(X), usable)
    assert {g.name for g in whole.groups} == {"0", "2", "5"}
    monkeypatch.setattr(dependency, "INDICES", 6 * 64 - 1)
    found = find_channels(flattened(), lambda m: m(X), usable)
    assert {g.name for g in found.groups} == {"0", "5"}
    assert found.left["2"] == "its channels are mixed up with too many others"
    monkeypatch.undo()
    monkeypatch.setattr(dependency, "STEPS", 1)
    assert not find_channels(flattened(), lambda m: m(X), usable).groups
    monkeypatch.undo()
    assert len(find_channels(flattened(), lambda m: m(X), usable).groups) == 3


def test_a_layer_that_the_library_fails_at_is_left() -> None:
    good, bad = nn.Linear(2, 2), nn.Linear(3, 3)
    item = SimpleNamespace(dep=SimpleNamespace(handler=None, target=SimpleNamespace(module=good)))

    def group(root: nn.Module, way: Any, indices: list[int]) -> list[Any]:
        if root is bad:
            raise IndexError("list index out of range")
        return [item]

    graph = SimpleNamespace(
        module2node=[bad, good, nn.ReLU()],
        get_pruner_of_module=lambda m: SimpleNamespace(
            get_out_channels=lambda m: m.out_features, prune_out_channels=None
        ),
        get_pruning_group=group,
        is_out_channel_pruning_fn=lambda way: True,
    )
    assert [*groups_of(graph, (nn.Linear,))] == [
        (bad, "the network cannot be followed from here (IndexError)"),
        (good, [item]),
    ]
