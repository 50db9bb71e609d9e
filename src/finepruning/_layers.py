"""The adapter between PyTorch modules and matrices: the only room that knows both.

A :class:`Layer` is one prunable weight seen as a stack of matrices ``(G, O, D)``: ``G`` groups,
``O`` output channels and ``D`` inputs per group, so that at one output position ``y[g] = W[g] @
x[g] + b[g]``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONVS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}


@dataclass
class Layer(ABC):
    """One prunable weight. Subclasses say how it is stored and how its inputs become columns."""

    name: str
    module: Any  # PyTorch types every attribute of a module Tensor | Module
    weight_name: str = "weight"
    bias_name: str = "bias"
    aliases: list[str] = field(default_factory=list)
    tied: list[nn.Module] = field(default_factory=list)
    """Other modules, named in ``aliases``, that hold the same weight."""

    groups = 1

    @property
    def weight(self) -> Tensor:
        """The stored weight (or the slice of it that is this layer), in the module's own layout."""
        return getattr(self.module, self.weight_name).data

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weight.numel()

    @property
    def bias(self) -> Tensor | None:
        """The stored bias ``(G * O,)``, or None."""
        bias = getattr(self.module, self.bias_name, None)
        return None if bias is None else bias.data

    def matrix(self) -> Tensor:
        """The weight as ``(G, O, D)``."""
        return self.weight.reshape(self.groups, -1, self.weight[0].numel())

    def write(self, matrix: Tensor, bias: Tensor | None) -> None:
        """Store ``matrix`` ``(G, O, D)`` and ``bias`` ``(G * O,)`` (None: leave the bias alone)."""
        # A zero of negative sign would be lost in the artifact: adding zero makes it positive.
        self.weight.copy_(matrix.reshape(self.weight.shape).to(self.weight.dtype) + 0.0)
        if bias is not None:
            self.write_bias(bias)

    def write_bias(self, bias: Tensor) -> None:
        """Store ``bias`` ``(G * O,)``."""
        if self.bias is None:
            for module in (self.module, *self.tied):
                value = bias.to(self.weight.dtype).clone()
                setattr(module, self.bias_name, nn.Parameter(value, requires_grad=False))
        else:
            self.bias.copy_(bias)

    @property
    def stored(self) -> Tensor:
        """The parameter that holds the weight, or of which it is computed."""
        return getattr(self.module, self.weight_name)

    @abstractmethod
    def run(self, x: Tensor) -> Tensor:
        """The layer's own output for input ``x``."""

    @abstractmethod
    def positions(self, x: Tensor) -> tuple[int, int]:
        """``(samples, output positions a sample)`` of a call with input ``x``."""

    @abstractmethod
    def columns(self, x: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """The inputs ``(G, N, D)`` that output positions ``(sample[i], position[i])`` see."""

    @abstractmethod
    def rows(self, y: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """The outputs ``(G, N, O)`` at the same positions."""


class LinearLayer(Layer):
    """``nn.Linear``: every leading index is a position."""

    def run(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def positions(self, x: Tensor) -> tuple[int, int]:
        if x.ndim < 2:
            return 1, 1
        return x.shape[0], math.prod(x.shape[1:-1])

    def columns(self, x: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        samples, positions = self.positions(x)
        return x.reshape(samples, positions, x.shape[-1])[sample, position][None]

    def rows(self, y: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        return self.columns(y, sample, position)


class TransposedLinearLayer(LinearLayer):
    """Hugging Face's ``Conv1D`` (GPT-2): a linear layer that stores its weight as ``(D, O)``."""

    def matrix(self) -> Tensor:
        return self.weight.T[None]

    def write(self, matrix: Tensor, bias: Tensor | None) -> None:
        super().write(matrix[0].T, bias)

    def run(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


class ProjectionLayer(LinearLayer):
    """Rows ``part`` of three of the packed ``in_proj_weight`` of ``nn.MultiheadAttention``."""

    part = 0

    def _slice(self, value: Tensor) -> Tensor:
        return value.chunk(3)[self.part]

    @property
    def weight(self) -> Tensor:
        return self._slice(self.module.in_proj_weight.data)

    @property
    def bias(self) -> Tensor | None:
        bias = self.module.in_proj_bias
        return None if bias is None else self._slice(bias.data)

    def write(self, matrix: Tensor, bias: Tensor | None) -> None:
        if bias is not None and self.module.in_proj_bias is None:
            value = self.module.in_proj_weight.new_zeros(self.module.in_proj_weight.shape[0])
            self.module.in_proj_bias = nn.Parameter(value, requires_grad=False)
        super().write(matrix, bias)


class ConvLayer(Layer):
    """``nn.Conv1d/2d/3d`` with any stride, dilation, groups, padding and padding mode."""

    @property
    def groups(self) -> int:  # type: ignore[override]
        return self.module.groups

    def sides(self, axis: int) -> tuple[int, int]:
        """How far the input is padded before and after along one axis of the kernel."""
        m = self.module
        if m.padding == "same":
            total = m.dilation[axis] * (m.kernel_size[axis] - 1)
            return total // 2, total - total // 2
        return (0, 0) if m.padding == "valid" else (m.padding[axis],) * 2

    def _padded(self, x: Tensor) -> Tensor:
        m = self.module
        axes = reversed(range(len(m.kernel_size)))
        sides = [side for axis in axes for side in self.sides(axis)]
        if not any(sides):
            return x
        return F.pad(x, sides, mode="constant" if m.padding_mode == "zeros" else m.padding_mode)

    def run(self, x: Tensor) -> Tensor:
        m = self.module
        conv = next(f for kind, f in CONVS.items() if isinstance(m, kind))
        if m.padding_mode == "zeros":
            return conv(x, self.weight, self.bias, m.stride, m.padding, m.dilation, m.groups)
        return conv(self._padded(x), self.weight, self.bias, m.stride, 0, m.dilation, m.groups)

    def _batched(self, x: Tensor) -> Tensor:
        return x if x.ndim == len(self.module.kernel_size) + 2 else x[None]

    def _out_shape(self, padded: Tensor) -> list[int]:
        m = self.module
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
        m = self.module
        x = self._padded(self._batched(x)).contiguous()
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
