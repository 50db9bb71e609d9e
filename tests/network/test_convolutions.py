"""Convolutions as matrices, whatever their geometry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from adapting import adapts, only

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kernel, dilation, stride, padding = (
        [draw(st.integers(low, high)) for _ in range(dims)]
        for low, high in ((1, 3), (1, 2), (1, 3), (0, 2))
    )
    size = [draw(st.integers(3, 6)) for _ in range(dims)]
    named = draw(st.sampled_from(["same", "valid", None]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    if named == "same":
        stride = [1] * dims
        sides = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    elif named == "valid":
        sides = [0] * dims
    else:
        sides = [2 * p for p in padding]
    for n, k, d, s in zip(size, kernel, dilation, sides, strict=True):
        assume(n + s >= d * (k - 1) + 1)
        assume((s + 1) // 2 < n)
    module = CONVS[dims](
        groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), tuple(kernel),
        stride=tuple(stride), padding=named or tuple(padding), dilation=tuple(dilation),
        groups=groups, bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip
    return module.double(), torch.randn(draw(st.integers(1, 3)), module.in_channels, *size).double()


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_any_convolution(drawn: tuple[nn.Module, Tensor]) -> None:
    adapts(*drawn)


def test_convolution_of_one_sample_and_of_channels_last() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2).double()
    adapts(conv, torch.randn(4, 5, 6).double())
    adapts(conv, torch.randn(2, 4, 5, 6).double().to(memory_format=torch.channels_last))


def normed(module: nn.Module, dim: int = 0) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(module, dim=dim)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_weight_norm(dim: int) -> None:
    conv = normed(nn.Conv1d(4, 6, 3, padding=1, groups=2).double(), dim)
    adapts(conv, torch.randn(2, 4, 7).double())
    layer = only(conv)
    matrix, bias = torch.randn_like(layer.matrix()), torch.randn(6).double()
    matrix[0, 1] = 0  # a whole slice: its norm is zero
    matrix[:, :, 2::3] = 0
    layer.write(matrix, bias)
    torch.testing.assert_close(layer.matrix(), matrix)
    assert torch.equal(layer.matrix() == 0, matrix == 0)
    assert torch.equal(conv.bias, bias)
    assert not any(p.isnan().any() for p in conv.parameters())


@pytest.mark.parametrize("dim", [None, -1])
def test_weight_norm_of_all_at_once(dim: int | None) -> None:
    conv = normed(nn.Conv1d(4, 6, 3).double(), dim)  # type: ignore[arg-type]
    layer = only(conv)
    matrix = torch.randn_like(layer.matrix())
    layer.write(matrix, None)
    torch.testing.assert_close(layer.matrix(), matrix)
