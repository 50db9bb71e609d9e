"""Find the prunable layers of a network, and say of the others why they are left alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .attention import (
    attention_layers,
    attention_refused,
    is_functional,
    wire_attention,
    wire_functional,
    wire_slow_path,
)
from .convolutions import CONVS, ConvLayer, NormedConvLayer
from .functional import wire_nothing
from .kinds import kind_of
from .layers import Layer, LinearLayer
from .taps import Place, has_own_forward, wire_call

COMPUTED = "its weight is computed (parametrized), not stored"


@dataclass(frozen=True)
class Found:
    """The prunable layers of a network, in registration order, and what is left alone."""

    layers: tuple[Layer, ...]
    skipped: dict[str, str]
    """Names of what is left alone, with the reason."""
    places: tuple[Place, ...]
    """The modules that call the layers."""
    weights_skipped: int = 0
    """Weights of layers that are left alone."""

    @property
    def weights(self) -> int:
        """All weights of Conv and Linear layers."""
        return sum(layer.size for layer in self.layers) + self.weights_skipped

    def without(self, layers: dict[str, str]) -> Found:
        """The same with some more layers, by name, left alone for the reasons given."""
        left = [layer for layer in self.layers if layer.name in layers]
        return replace(
            self,
            layers=tuple(layer for layer in self.layers if layer.name not in layers),
            skipped=self.skipped | {layer.name: layers[layer.name] for layer in left},
            weights_skipped=self.weights_skipped + sum(layer.size for layer in left),
        )


def find_layers(model: nn.Module) -> Found:
    """List the prunable layers of ``model``; tied weights are one layer."""
    search = _Search(model)
    for name, module in model.named_modules():
        search.look_at(name, module)
    return search.found()


class _Search:
    """What has been seen of a network so far."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[Layer] = []
        self.skipped: dict[str, str] = {}
        self.places: list[Place] = []
        self.weights_skipped = 0
        self.owners: dict[int, Layer] = {}
        self.left: dict[int, Tensor] = {}  # held, so that an id stays its own
        self.inside: set[nn.Module] = set()
        modules = [*model.named_modules()]
        self.holders = Counter(id(p) for _, m in modules for p in m.parameters(recurse=False))
        self.elsewhere = {
            id(p): name
            for name, m in modules
            if kind_of(m) is None and not isinstance(m, nn.MultiheadAttention)
            for p in m.parameters(recurse=False)
        }

    def found(self) -> Found:
        kept = set(map(id, self.layers))
        places = [p for p in self.places if all(id(tap) in kept for tap in p.taps)]
        return Found(tuple(self.layers), self.skipped, tuple(places), self.weights_skipped)

    def look_at(self, name: str, module: nn.Module) -> None:
        if is_functional(module):
            self.places.append(Place(module, (), wire_functional))
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            self.places.append(Place(module, (), wire_slow_path))
        if isinstance(module, nn.MultiheadAttention):
            self.inside.add(module.out_proj)
            self._attention(name, module)
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            self.skipped[name] = "recurrent weights are left dense, and not counted"
        elif isinstance(module, nn.modules.conv._ConvTransposeNd) and kind_of(module) is None:
            self.leave(name, module.weight, "transposed convolution is left dense")
        elif kind_of(module) is not None and module not in self.inside:
            self._layer(name, module)

    def leave(self, name: str, weight: Tensor, reason: str) -> None:
        """Leave a layer alone, and with it all that share its weight."""
        owner = self.owners.pop(id(weight), None)
        if owner is not None:
            self.layers.remove(owner)
            self.skipped.update(dict.fromkeys([owner.name, *owner.aliases], reason))
        self.skipped[name] = reason
        if id(weight) not in self.left:
            self.left[id(weight)] = weight
            self.weights_skipped += weight.numel()

    def _attention(self, name: str, module: nn.MultiheadAttention) -> None:
        reason = attention_refused(module, self.holders)
        if reason:
            for p, weight in module.named_parameters():
                if weight.ndim > 1 and not p.startswith("bias"):
                    self.leave(f"{name}.{p}", weight, reason)
            return
        parts = attention_layers(name, module)
        self.places.append(Place(module, tuple(parts), wire_attention))
        self.layers += parts

    def _layer(self, name: str, module: nn.Module) -> None:
        kind = kind_of(module)
        assert kind is not None
        weight = getattr(module, kind.layer.weight_name, None)
        if isinstance(module, nn.LazyLinear) or not isinstance(weight, Tensor):
            self.skipped[name] = "its weight is not initialised"
            return
        own_forward = has_own_forward(module, kind.base)
        if _normed(module) and not own_forward:
            normed = NormedConvLayer(name, module)
            if self.holders[id(normed.stored)] == 1 and normed.stored.is_floating_point():
                self._add(normed, normed.stored)
                return
        if nn.utils.parametrize.is_parametrized(module) or not _stored(module, weight):
            self.leave(name, weight, COMPUTED)
        elif own_forward and not self._may_be_seen_through(kind.layer, weight):
            self.leave(name, weight, f"{type(module).__name__} has a forward of its own")
        elif not weight.is_floating_point():
            self.leave(name, weight, f"its weight is of type {weight.dtype}")
        elif id(weight) in self.left:
            self.leave(name, weight, "its weight is shared with a layer that is left alone")
        elif id(weight) in self.elsewhere:
            other = self.elsewhere[id(weight)]
            self.leave(name, weight, f"its weight is shared with {other!r}, of another kind")
        elif id(weight) in self.owners:
            self._tied(name, module, self.owners[id(weight)], weight)
        else:
            self._add(kind.layer(name, module), weight, own_forward)

    def _may_be_seen_through(self, layer: type[Layer], weight: Tensor) -> bool:
        """Whether a first sample can show that a ``forward`` of its own computes what its class
        does, such as a convolution that pads first."""
        return layer in (LinearLayer, ConvLayer) and self.holders[id(weight)] == 1

    def _add(self, layer: Layer, weight: Tensor, own_forward: bool = False) -> None:
        self.owners[id(weight)] = layer
        self.layers.append(layer)
        wire = wire_nothing if own_forward else wire_call
        self.places.append(Place(layer.module, (layer,), wire))

    def _tied(self, name: str, module: nn.Module, owner: Layer, weight: Tensor) -> None:
        apart = _difference(owner.module, module)
        if apart:
            reason = f"{owner.name!r} and {name!r} share a weight but not the {apart}"
            self.leave(name, weight, reason)
            return
        owner.aliases.append(name)
        owner.tied.append(module)
        self.places.append(Place(module, (owner,), wire_call))


def _normed(module: nn.Module) -> bool:
    """Whether it is a convolution whose weight, and nothing else, is under ``weight_norm``."""
    lists = getattr(module, "parametrizations", {})
    return (
        isinstance(module, CONVS)
        and list(lists) == ["weight"]
        and len(lists["weight"]) == 1
        and type(lists["weight"][0]) is nn.utils.parametrizations._WeightNorm
    )


def _difference(a: nn.Module, b: nn.Module) -> str:
    """What keeps two modules with one weight from being one layer; empty: nothing."""
    if kind_of(a) is not kind_of(b):
        return "kind"
    for name in ("stride", "padding", "dilation", "groups", "padding_mode"):
        if getattr(a, name, None) != getattr(b, name, None):
            return name
    return "" if a._parameters.get("bias") is b._parameters.get("bias") else "bias"


def _stored(module: nn.Module, weight: Tensor) -> bool:
    """Whether ``weight`` is a parameter of ``module``."""
    return any(p is weight for p in module._parameters.values())
