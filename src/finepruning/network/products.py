"""Products: what a function computes that is handed a weight, such as ``x @ self.w.T``.

A layer is told by what is computed, not by its class. A linear function of an input and of a stored
weight, or of a part of it, is a layer, whichever function computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Part = tuple[tuple[int, ...], tuple[int, ...], int]
"""Size, strides and offset of a view of a stored weight."""

CONVS = (F.conv1d, F.conv2d, F.conv3d)
PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)


@dataclass(frozen=True)
class Product:
    """One product of an input with a weight."""

    input: Any
    weight: Any
    """The weight as the function is handed it,"""
    part: Part
    """and where it lies, as ``(O, ...)``."""
    bias: Any
    geometry: SimpleNamespace | None
    """Of a convolution what ``nn.Conv2d`` calls so."""
    again: Callable[[Any, Any], Any]
    """``again(x, bias)`` computes it anew."""

    @property
    def form(self) -> Any:
        """What tells two products of one weight apart."""
        return self.part, None if self.geometry is None else tuple(vars(self.geometry).values())


def part_of(view: Tensor) -> Part:
    """Where a view lies in its storage."""
    return tuple(view.shape), tuple(view.stride()), int(view.storage_offset())


def product_of(
    function: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    weights: Collection[int],
    stored: Collection[int],
) -> Product | None:
    """What ``function`` computes, where it is a product with a weight: one of these identities. An
    input is none that is ``stored``."""
    try:
        found = _found(function, args, kwargs)
    except (TypeError, ValueError, IndexError):  # arguments of another form
        return None
    if found is None or id(found.weight) not in weights or id(found.input) in stored:
        return None
    return found if isinstance(found.input, Tensor) and found.input.ndim > 1 else None


def _found(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Product | None:
    if function is F.linear:
        x, w, b = _linear(*args, **kwargs)
        return Product(x, w, part_of(w), b, None, lambda x, b: function(x, w, b))
    if function in CONVS:
        x, w, b, *options = _conv(*args, **kwargs)
        return Product(
            x, w, part_of(w), b, _geometry(w, options), lambda x, b: function(x, w, b, *options)
        )
    if function in PRODUCTS:
        x, w = args[0], args[1] if len(args) > 1 else next(iter(kwargs.values()))
        return _times(x, w, function)
    if function in (torch.addmm, Tensor.addmm) and not kwargs and len(args) == 3:
        b, x, w = args
        return Product(x, w, part_of(w.T), b, None, lambda x, b: _plus(x @ w, b))
    if function is torch.einsum:
        return _einsum(*args, **kwargs)
    return None


def _times(x: Any, w: Any, function: Any) -> Product | None:
    if w.ndim != 2:
        return None
    return Product(x, w, part_of(w.T), None, None, lambda x, b: _plus(function(x, w), b))


def _plus(y: Any, bias: Any) -> Any:
    return y if bias is None else y + bias


def _einsum(equation: Any, *operands: Any) -> Product | None:
    """``...d,od->...o`` and the like: the last axis of the input is summed over."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2:
        return None
    x, w = operands
    taken, _, given = equation.replace(" ", "").partition("->")
    left, _, right = taken.partition(",")
    if len(right) != 2 or not left or not given or w.ndim != 2:
        return None
    (o,) = set(right) - {left[-1]}
    if left[-1] not in right or given != left[:-1] + o:
        return None
    matrix = w if right == o + left[-1] else w.T
    return Product(
        x, w, part_of(matrix), None, None, lambda x, b: _plus(torch.einsum(equation, x, w), b)
    )


def _geometry(w: Tensor, options: list[Any]) -> SimpleNamespace:
    stride, padding, dilation, groups = options
    axes = w.ndim - 2
    return SimpleNamespace(
        kernel_size=tuple(w.shape[2:]),
        stride=_each(stride, axes),
        padding=_each(padding, axes),
        dilation=_each(dilation, axes),
        groups=groups,
        padding_mode="zeros",
    )


def _each(option: Any, axes: int) -> Any:
    """An option of a convolution along each axis; ``same`` and ``valid`` as they are."""
    if isinstance(option, str):
        return option
    option = (option,) if isinstance(option, int) else tuple(option)
    return option * axes if len(option) == 1 else option


def _linear(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    return input, weight, bias


def _conv(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:
    return input, weight, bias, stride, padding, dilation, groups
