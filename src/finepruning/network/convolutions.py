"""Convolutions as matrices: an output position sees one patch of the input."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Layer, precise

CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ConvLayer(Layer):
    """``nn.Conv1d/2d/3d`` with any stride, dilation, groups, padding and padding mode."""

    geometry: Any = None
    """Where it is computed with another stride, padding and so on than its module's: these."""

    @property
    def how(self) -> Any:
        """What holds its stride, padding and so on."""
        return self.module if self.geometry is None else self.geometry

    @property
    def groups(self) -> int:  # type: ignore[override]
        return self.how.groups

    @property
    def view(self) -> tuple[Any, ...]:
        m = self.how
        sizes = (m.kernel_size, m.stride, m.padding, m.dilation)
        # A subclass may hold lists.
        return (*(s if isinstance(s, str) else tuple(s) for s in sizes), m.groups, m.padding_mode)

    def sides(self, axis: int) -> tuple[int, int]:
        """How far the input is padded before and after along one axis of the kernel."""
        m = self.how
        if m.padding == "same":
            total = m.dilation[axis] * (m.kernel_size[axis] - 1)
            return total // 2, total - total // 2
        return (0, 0) if m.padding == "valid" else (m.padding[axis],) * 2

    def _padded(self, x: Tensor) -> Tensor:
        m = self.how
        axes = reversed(range(len(m.kernel_size)))
        sides = [side for axis in axes for side in self.sides(axis)]
        if not any(sides):
            return x
        return F.pad(x, sides, mode="constant" if m.padding_mode == "zeros" else m.padding_mode)

    def _batched(self, x: Tensor) -> Tensor:
        return x if x.ndim == len(self.how.kernel_size) + 2 else x[None]

    def _out_shape(self, padded: Tensor) -> list[int]:
        m = self.how
        return [
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(
                padded.shape[2:], m.kernel_size, m.stride, m.dilation, strict=True
            )
        ]

    def positions(self, x: Tensor) -> tuple[int, int]:
        return self._batched(x).shape[0], math.prod(self.out_shape(x))

    def out_shape(self, x: Tensor) -> list[int]:
        """The output's size along each axis of the kernel for input ``x``."""
        return self._out_shape(self._padded(self._batched(x)[:1]))

    def columns(self, x: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        m = self.how
        x = self._padded(self._batched(x))
        out = self._out_shape(x)
        strides = x.stride()
        # A view (samples, *out, channels, *kernel) of every patch; indexing copies the wanted ones.
        patches = x.as_strided(
            (x.shape[0], *out, x.shape[1], *m.kernel_size),
            (
                strides[0],
                *(a * b for a, b in zip(strides[2:], m.stride, strict=True)),
                strides[1],
                *(a * b for a, b in zip(strides[2:], m.dilation, strict=True)),
            ),
        )
        index: list[Tensor] = []
        for n in reversed(out):  # torch.unravel_index would do, but takes 0.6 s to import sympy
            index.insert(0, position % n)
            position = position // n
        taken = patches[(sample, *index)]
        return taken.reshape(len(sample), self.groups, -1).transpose(0, 1)

    def rows(self, y: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        y = self._batched(y).flatten(2)
        return y[sample, :, position].reshape(len(sample), self.groups, -1).transpose(0, 1)

    def means(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        return precise(self._batched(y)).flatten(2).mean(2)


class NormedConvLayer(ConvLayer):
    """A convolution under PyTorch's ``weight_norm``: its weight is ``g v / |v|``."""

    @property
    def stored(self) -> Tensor:
        return self.module.parametrizations.weight.original1

    def write(self, matrix: Tensor, bias: Tensor | None) -> None:
        list_ = self.module.parametrizations.weight
        g, v = list_.original0.data, list_.original1.data
        weight = matrix.reshape(v.shape).to(v.dtype) + 0.0
        norm = torch.norm_except_dim(weight, 2, list_[0].dim)
        # All of a slice may be gone: then |v| is zero too, and 0 / 0 no weight. One entry stays in
        # v, and g, which is zero, makes it vanish.
        nothing = (norm == 0).expand_as(weight)
        first = torch.zeros_like(nothing)
        first[tuple(slice(None) if i == list_[0].dim else 0 for i in range(v.ndim))] = True
        g.copy_(norm)
        v.copy_(torch.where(nothing & first, 1.0, weight))
        if bias is not None:
            self.write_bias(bias)


def is_normed(module: nn.Module) -> bool:
    """Whether it is a convolution whose weight, and nothing else, is under ``weight_norm``."""
    lists = getattr(module, "parametrizations", {})
    return (
        isinstance(module, CONVS)
        and list(lists) == ["weight"]
        and len(lists["weight"]) == 1
        and type(lists["weight"][0]) is nn.utils.parametrizations._WeightNorm
    )
