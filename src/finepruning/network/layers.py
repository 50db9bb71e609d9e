"""A layer as a matrix: the adapter between PyTorch's modules and the numerical core.

A :class:`Layer` is one prunable weight seen as a stack of matrices ``(G, O, D)``: ``G`` groups,
``O`` output channels and ``D`` inputs per group, so that at one output position ``y[g] = W[g] @
x[g] + b[g]``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass
class Layer(ABC):
    """One prunable weight. Subclasses say how it is stored and how its inputs become columns.

    ``weight`` is ``(O, ...)`` unless :meth:`matrix` and :meth:`write` say otherwise. What a
    subclass must say is :meth:`positions`, :meth:`columns` and :meth:`rows`.
    """

    name: str
    module: Any  # PyTorch types every attribute of a module Tensor | Module
    weight_name: str = "weight"
    bias_name: str = "bias"
    aliases: list[str] = field(default_factory=list)
    tied: list[nn.Module] = field(default_factory=list)
    """Other modules, named in ``aliases``, that hold the same weight."""
    norm: Any = None
    """The batch norm that takes up a bias which the layer has not; None: there is none."""
    plain: bool = True
    """Whether its module's bias is added to its outputs, or would be, had it one."""
    part: Any = None
    """Where in the stored weight it lies; None: it is all of it."""

    groups = 1
    view: ClassVar[Any] = None
    """What :meth:`columns` depends on beside the input: layers of one view see the same columns of
    the same input, and share their statistics. None: no other layer does."""

    @property
    def weight(self) -> Tensor:
        """The stored weight (or the slice of it that is this layer), in the module's own layout."""
        return getattr(self.module, self.weight_name).data

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weight.numel()

    @property
    def free_bias(self) -> bool:
        """Whether the mean of its outputs can be moved."""
        return self.bias is not None or self.norm is not None

    @property
    def bias(self) -> Tensor | None:
        """The stored bias ``(G * O,)``, or None."""
        bias = getattr(self.module, self.bias_name, None) if self.plain else None
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
        """Store ``bias`` ``(G * O,)``; where there is none, lend the layer one."""
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
    def positions(self, x: Tensor) -> tuple[int, int]:
        """``(samples, output positions a sample)`` of a call with input ``x``."""

    @abstractmethod
    def columns(self, x: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """The inputs ``(G, N, D)`` that output positions ``(sample[i], position[i])`` see."""

    @abstractmethod
    def rows(self, y: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        """The outputs ``(G, N, O)`` at the same positions."""

    def means(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        """Mean outputs ``(samples, C)`` of each sample over all its positions, which
        :meth:`positions` gave as ``size``."""
        samples, positions = size
        sample = torch.arange(samples, device=y.device).repeat_interleave(positions)
        position = torch.arange(positions, device=y.device).repeat(samples)
        rows = precise(self.rows(y, sample, position))
        return rows.transpose(0, 1).reshape(samples, positions, -1).mean(1)


class LinearLayer(Layer):
    """``nn.Linear``: every leading index is a position."""

    view: ClassVar[Any] = ("linear",)

    def positions(self, x: Tensor) -> tuple[int, int]:
        if x.ndim < 2:
            return 1, 1
        return x.shape[0], math.prod(x.shape[1:-1])

    def columns(self, x: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        samples, positions = self.positions(x)
        return x.reshape(samples, positions, x.shape[-1])[sample, position][None]

    def rows(self, y: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        return self.columns(y, sample, position)

    def means(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        return precise(y.reshape(*size, y.shape[-1])).mean(1)


class PartLayer(LinearLayer):
    """A linear layer that is a part of a parameter, or all of it turned."""

    view: ClassVar[Any] = ("linear",)

    @property
    def weight(self) -> Tensor:
        return self.stored.data.as_strided(*self.part)


class TransposedLinearLayer(LinearLayer):
    """Hugging Face's ``Conv1D`` (GPT-2): a linear layer that stores its weight as ``(D, O)``."""

    def matrix(self) -> Tensor:
        return self.weight.T[None]

    def write(self, matrix: Tensor, bias: Tensor | None) -> None:
        super().write(matrix[0].T, bias)


def precise(value: Tensor) -> Tensor:
    """``value`` in float32, or float64 where it is already: statistics are never kept in half."""
    return value if value.dtype == torch.float64 else value.float()


def version(x: Tensor) -> int | None:
    """How often ``x`` has been written to; None: an inference tensor does not tell."""
    return None if x.is_inference() else x._version
