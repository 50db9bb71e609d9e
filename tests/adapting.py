"""The defining property of a layer: columns @ matrix + bias is what its module computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finepruning import Layer
from finepruning.network.find import find_layers
from passes import through


def only(module: nn.Module) -> Layer:
    found = find_layers(module)
    assert len(found.layers) == 1
    assert not found.skipped
    return found.layers[0]


def everywhere(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    samples, positions = layer.positions(x)
    sample = torch.arange(samples).repeat_interleave(positions)
    return sample, torch.arange(positions).repeat(samples)


def adapts(module: nn.Module, x: Tensor) -> None:
    """It holds at all positions and at some, in any order; and the engine computes the same."""
    layer = only(module)
    with torch.no_grad():
        y = module(x)
    output, calls = through(module, x)
    assert torch.equal(output, y)
    assert calls == [""]
    matrix = layer.matrix()
    groups, outputs, _ = matrix.shape
    assert matrix.numel() == layer.size == layer.stored.numel()
    bias = torch.zeros(groups * outputs) if module.bias is None else module.bias.detach()
    sample, position = everywhere(layer, x)
    assert len(sample) * groups * outputs == y.numel()
    some = torch.randperm(len(sample))[: 1 + len(sample) // 2]
    for chosen in (torch.arange(len(sample)), some):
        X = layer.columns(x, sample[chosen], position[chosen])
        Y = layer.rows(y, sample[chosen], position[chosen])
        assert Y.shape == (groups, len(chosen), outputs)
        expected = X @ matrix.mT + bias.view(groups, 1, outputs)
        torch.testing.assert_close(Y.double(), expected.double(), atol=1e-9, rtol=1e-9)
    size = layer.positions(x)
    Y = layer.rows(y, sample, position).transpose(0, 1).reshape(*size, -1)
    for means in (layer.means, lambda *of: Layer.means(layer, *of)):
        torch.testing.assert_close(means(y, size).double(), Y.double().mean(1))
