"""The adapter: columns @ matrix + bias is the layer, and what is written can be read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapting import adapts, everywhere, only
from finepruning.network.find import find_layers
from passes import through


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (4, 2, 3), (4, 2, 5, 3)])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    adapts(nn.Linear(3, 5, bias).double(), torch.randn(shape).double())


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_huggingface_conv1d(shape: tuple[int, ...]) -> None:
    module = Conv1D(5, 3).double()
    layer = only(module)
    x = torch.randn(shape).double()
    sample, position = everywhere(layer, x)
    y, _ = through(module, x)
    assert torch.equal(y, module(x))
    X, Y = layer.columns(x, sample, position), layer.rows(y, sample, position)
    torch.testing.assert_close(X @ layer.matrix().mT + module.bias.detach(), Y)


@pytest.mark.parametrize(
    "make",
    [
        partial(nn.Linear, 6, 4),
        partial(nn.Linear, 6, 4, bias=False),
        partial(Conv1D, 4, 6),
        partial(nn.Conv2d, 4, 6, 3, groups=2),
        partial(nn.Conv3d, 2, 4, 2, bias=False),
        lambda: nn.MultiheadAttention(4, 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_write_and_read_back(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    module = make().to(dtype)
    for layer in find_layers(module).layers:
        before = layer.matrix().clone()
        layer.write(before, None)
        assert torch.equal(layer.matrix(), before)
        matrix = torch.randn(before.shape)
        groups, outputs, _ = matrix.shape
        bias = torch.randn(groups * outputs)
        layer.write(matrix, bias)
        assert torch.equal(layer.matrix(), matrix.to(dtype))
        assert torch.equal(layer.bias, bias.to(dtype))
    for parameter in module.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_zero_has_a_sign(dtype: torch.dtype) -> None:
    """Not even one that a small number is rounded to: the artifact could not tell it."""
    layer = only(nn.Linear(3, 1).to(dtype))
    layer.write(torch.tensor([[[-0.0, 0.0, -1e-9 if dtype == torch.float16 else -0.0]]]), None)
    assert not layer.weight.signbit().any()
