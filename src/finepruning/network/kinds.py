"""Which module is which kind of layer: the registry that others may add to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from .._errors import FinepruningError
from .convolutions import ConvLayer
from .layers import Layer, LinearLayer, TransposedLinearLayer

LayerClass = TypeVar("LayerClass", bound=type[Layer])


@dataclass(frozen=True)
class Kind:
    """Modules that are seen as one kind of layer."""

    layer: type[Layer]
    base: type[nn.Module] | None
    """The class whose ``forward`` the layer describes; a subclass with another is left alone."""
    matches: Callable[[nn.Module], bool]


def _of(base: type[nn.Module], layer: type[Layer]) -> Kind:
    return Kind(layer, base, lambda module: isinstance(module, base))


def _is_hugging_face_conv1d(module: nn.Module) -> bool:
    """By name, so that transformers need not be there."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


_KINDS = [
    _of(nn.Linear, LinearLayer),
    _of(nn.Conv1d, ConvLayer),
    _of(nn.Conv2d, ConvLayer),
    _of(nn.Conv3d, ConvLayer),
    Kind(TransposedLinearLayer, None, _is_hugging_face_conv1d),
]


def kind_of(module: nn.Module) -> Kind | None:
    """What kind of layer a module is, the one registered last first; None: no layer."""
    return next((kind for kind in reversed(_KINDS) if kind.matches(module)), None)


def register_layer(base: type[nn.Module]) -> Callable[[LayerClass], LayerClass]:
    """Prune modules of class ``base`` too, as the layers that the decorated class describes.

    >>> import torch
    >>> class Scaled(torch.nn.Linear):
    ...     def forward(self, x):
    ...         return 2 * super().forward(x)
    >>> @register_layer(Scaled)
    ... class ScaledLayer(LinearLayer):
    ...     def matrix(self):
    ...         return 2 * super().matrix()
    ...
    ...     def write(self, matrix, bias):
    ...         super().write(matrix / 2, None if bias is None else bias / 2)
    >>> kind_of(Scaled(2, 3)).layer.__name__
    'ScaledLayer'

    The class, a subclass of :class:`Layer`, says how the stored weight is a matrix and how one
    input becomes its columns. ``base.forward`` takes one input; subclasses of ``base`` with a
    ``forward`` of their own are left alone. Raises :class:`FinepruningError` for anything else.
    """
    if not (isinstance(base, type) and issubclass(base, nn.Module)):
        raise FinepruningError(f"register_layer({base!r}): give a class of torch.nn.Module")

    def register(layer: LayerClass) -> LayerClass:
        if not (isinstance(layer, type) and issubclass(layer, Layer)):
            raise FinepruningError(f"register_layer: {layer!r} is no subclass of finepruning.Layer")
        _KINDS.append(_of(base, layer))
        return layer

    return register
