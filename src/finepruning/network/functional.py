"""Layers whose weight is handed to a function, such as ``F.linear(x, self.fc.weight)``.

No call of the module shows that. So the weight on a replica is a tensor that tells which functions
it is handed to: where it is ``F.linear`` with the layer's own bias, the call is intercepted like
any other; of the rest it is said by what function they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

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


def wire_weight(module: Any, taps: tuple[Layer, ...], call: Call) -> None:
    """Make each ``F.linear`` that is handed the weight of ``module`` a call of its one tap."""
    (layer,) = taps

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_own_linear(layer, function, args, kwargs):
            return function(*args, **kwargs)
        x = _linear(*args, **kwargs)[0]
        return call(layer, lambda x: F.linear(x, layer.stored, layer.bias), x)

    _tell(module, layer, handle)


def note_uses(module: Any, layer: Layer, uses: set[str]) -> None:
    """Note in ``uses`` the functions that are handed the weight of ``module``, of a replica."""

    def handle(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(*args, **kwargs)
        if is_own_linear(layer, function, args, kwargs):
            uses.add("")
        elif _holds_tensor(output):
            uses.add(_name(function))
        return output

    _tell(module, layer, handle)


def is_own_linear(
    layer: Layer, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether it is ``F.linear`` of the layer's weight and bias, as the module itself calls it."""
    if function is not F.linear or type(layer) is not LinearLayer:
        return False
    _, weight, bias = _linear(*args, **kwargs)
    own = getattr(layer.module, layer.bias_name, None)
    return weight is layer.stored and bias is own and own is not None


def _linear(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    return input, weight, bias


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
