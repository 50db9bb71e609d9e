"""Layers whose weight is handed to a function, such as ``F.linear(x, self.fc.weight)``.

So do modules that use the weight of another, and subclasses with a ``forward`` of their own, such
as convolutions that pad as TensorFlow does. No call of the module shows what is computed. So the
weight on a replica is a tensor that tells which functions it is handed to: where it is what the
layer's own class would compute, ``F.linear`` or ``F.conv2d`` with its bias, stride and so on, the
call is intercepted like any other; of the rest it is said by what function they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .convolutions import ConvLayer
from .layers import Layer, LinearLayer
from .taps import Call, Place, Wire

Handle = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""``handle(function, args, kwargs)``: what a function that is handed the weight gives."""


class Told(Tensor):
    """A weight that tells ``handle`` of the functions that it is handed to."""

    plain: Tensor
    handle: Handle

    @classmethod
    def of(cls, weight: Tensor, handle: Handle) -> Told:
        """One with the values of ``weight``."""
        told = weight.detach().as_subclass(cls)
        told.plain, told.handle = weight, handle
        return told

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        told = _first([*args, *kwargs.values()])
        args, kwargs = _plain(args), _plain(kwargs)
        return function(*args, **kwargs) if told is None else told.handle(function, args, kwargs)


def functional_places(
    places: Iterable[Place], layers: Collection[str], wire: Wire | None = None
) -> tuple[Place, ...]:
    """For each of ``places`` that calls one of ``layers`` alone, one that intercepts the functions
    which are handed its weight."""
    return tuple(
        Place(place.module, place.taps, wire or wire_weight)
        for place in places
        if len(place.taps) == 1
        and place.taps[0].name in layers
        and place.taps[0].weight_name in place.module._parameters
    )


def wire_nothing(module: Any, taps: tuple[Layer, ...], call: Call) -> None:
    """Leave a module as it is: what it computes is not known yet."""


def wire_weight(module: Any, taps: tuple[Layer, ...], call: Call) -> None:
    """Make each function that is handed the weight of ``module``, and computes what its class
    would, a call of its one tap."""
    (layer,) = taps

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = layer.module._parameters.get(layer.bias_name)
        given = own_call(layer, own, function, args, kwargs)
        if given is None:
            return function(*args, **kwargs)

        def run(x: Tensor) -> Tensor:
            bias = layer.module._parameters.get(layer.bias_name)
            return function(x, layer.stored, bias, *given.options)

        return call(layer, run, given.input)

    _tell(module, layer, handle)


def note_uses(module: Any, layer: Layer, uses: set[str]) -> None:
    """Note in ``uses`` the functions that are handed the weight of ``module``, of a replica; an
    empty name is what its class would compute."""
    # Compensation may give it a bias. A bias of zeros shows whether that would be used.
    own = layer.module._parameters.get(layer.bias_name)
    if own is None:
        zeros = layer.stored.detach().new_zeros(layer.groups * layer.matrix().shape[1])
        own = nn.Parameter(zeros, requires_grad=False)
        parameters = dict(module._parameters)
        vars(module)["_parameters"] = parameters | {layer.bias_name: own}

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(*args, **kwargs)
        if own_call(layer, own, function, args, kwargs) is not None:
            uses.add("")
        elif _holds_tensor(output):
            uses.add(_name(function))
        return output

    _tell(module, layer, handle)


class Given(NamedTuple):
    """What a function is handed beside the layer's own weight and bias."""

    input: Any
    options: tuple[Any, ...]
    """Stride, padding, dilation and groups of a convolution; of a linear layer nothing."""


def own_call(
    layer: Layer,
    own_bias: Tensor | None,
    function: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Given | None:
    """What ``function`` is handed, where it computes what the layer's class would; else None."""
    if type(layer) is LinearLayer and function is F.linear:
        x, weight, bias = _linear(*args, **kwargs)
        given = Given(x, ())
    elif type(layer) is ConvLayer and function is _CONVS[len(layer.module.kernel_size) - 1]:
        m = layer.module
        x, weight, bias, *options = _conv(*args, **kwargs)
        given = Given(x, tuple(options))
        axes = len(m.kernel_size)
        asked = [_each(option, axes) for option in (m.stride, m.padding, m.dilation)]
        if m.padding_mode != "zeros" or options[3] != m.groups:
            return None
        if [_each(option, axes) for option in options[:3]] != asked:
            return None
    else:
        return None
    return given if weight is layer.stored and bias is own_bias else None


_CONVS = (F.conv1d, F.conv2d, F.conv3d)


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


def _each(option: Any, axes: int) -> Any:
    """An option of a convolution along each axis; ``same`` and ``valid`` as they are."""
    return (
        (option,) * axes
        if isinstance(option, int)
        else option
        if isinstance(option, str)
        else tuple(option)
    )


def _tell(module: Any, layer: Layer, handle: Handle) -> None:
    parameters = dict(module._parameters)
    parameters[layer.weight_name] = Told.of(parameters[layer.weight_name], handle)
    vars(module)["_parameters"] = parameters


def _first(values: Any) -> Told | None:
    for value in values:
        if isinstance(value, Told):
            return value
        if isinstance(value, list | tuple) and (found := _first(value)) is not None:
            return found
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Told):
        return value.plain
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)


def _name(function: Any) -> str:
    """What a function is called, a property by its own name."""
    name = getattr(function, "__name__", type(function).__name__)
    return getattr(getattr(function, "__self__", None), "__name__", name) if "__" in name else name
