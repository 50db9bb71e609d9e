"""Find the prunable layers of a network, and say of the others why they are left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from .attention import (
    attention_layers,
    attention_refused,
    is_functional,
    wire_attention,
    wire_functional,
    wire_slow_path,
)
from .convolutions import ConvLayer, NormedConvLayer, is_normed
from .functional import wire_nothing
from .kinds import kind_of
from .layers import Layer, LinearLayer, PartLayer
from .recurrent import recurrent_layers, recurrent_refused, wire_recurrent
from .taps import Place, has_own_forward, wire_call
from .values import is_plain

ADAPTED = "an adapter changes its weight: merge it first (merge_and_unload())"
COMPUTED = "its weight is computed (parametrized), not stored"


@dataclass(frozen=True)
class Found:
    """The prunable layers of a network, in registration order, and what is left alone."""

    layers: tuple[Layer, ...]
    skipped: dict[str, str]
    """Names of what is left alone, with the reason."""
    places: tuple[Place, ...]
    """The modules that call the layers."""
    left: Mapping[str, int] = field(default_factory=dict)
    """How many weights each of these has that are counted with no other."""

    @property
    def weights(self) -> int:
        """Weights that can be pruned: what a sparsity is a share of."""
        return sum(layer.size for layer in self.layers)

    @property
    def all_weights(self) -> int:
        """All parameters of two and more dimensions, whatever they are for."""
        return self.weights + sum(self.left.values())

    def without(self, layers: dict[str, str]) -> Found:
        """The same with some more layers, by name, left alone for the reasons given."""
        left = [layer for layer in self.layers if layer.name in layers]
        return replace(
            self,
            layers=tuple(layer for layer in self.layers if layer.name not in layers),
            skipped=self.skipped | {layer.name: layers[layer.name] for layer in left},
            left={**self.left, **{layer.name: layer.size for layer in left}},
        )

    def replaced(
        self, name: str, layers: Sequence[Layer], places: Sequence[Place], reason: str
    ) -> Found:
        """The same with other layers, of the same weight, in the place of what is called ``name``;
        what of it belongs to none is left alone for the ``reason`` given."""
        old = next((layer for layer in self.layers if layer.name == name), None)
        size = self.left.get(name, 0) if old is None else old.size
        rest = size - sum(layer.size for layer in layers)
        at = len(self.layers) if old is None else self.layers.index(old)
        kept = tuple(layer for layer in self.layers if layer is not old)
        left = {key: count for key, count in self.left.items() if key != name}
        skipped = {key: why for key, why in self.skipped.items() if key != name}
        return replace(
            self,
            layers=(*kept[:at], *layers, *kept[at:]),
            places=(*(p for p in self.places if not p.taps or old not in p.taps), *places),
            left={**left, name: rest} if rest else left,
            skipped={**skipped, name: reason} if rest else skipped,
        )


def same_layers(found: Found, model: nn.Module, other: nn.Module) -> tuple[Layer, ...]:
    """The layers ``found`` in ``model``, as they are in ``other``, a network of the same kind.

    What only a look at the calls has shown (a part of a parameter, a raw one) is there too.
    """
    known = {layer.name: layer for layer in find_layers(other).layers}
    names = {id(module): name for name, module in model.named_modules()}
    modules = dict(other.named_modules())
    for layer in found.layers:
        module = modules.get(names.get(id(layer.module), ""))
        if layer.name in known or not isinstance(layer, PartLayer) or module is None:
            continue
        there = replace(layer, module=module)
        if there.stored.stride() == layer.stored.stride():
            known[layer.name] = there
    return tuple(known[layer.name] for layer in found.layers if layer.name in known)


def find_layers(model: nn.Module) -> Found:
    """List the prunable layers of ``model``; tied weights are one layer."""
    search = _Search(model)
    for name, module in model.named_modules():
        search.look_at(name, module)
    for name, module in model.named_modules():
        search.look_at_the_rest(name, module)
    return search.found()


class _Search:
    """What has been seen of a network so far."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[Layer] = []
        self.skipped: dict[str, str] = {}
        self.places: list[Place] = []
        self.weights_left: dict[str, int] = {}
        self.owners: dict[int, Layer] = {}
        self.left: dict[int, Tensor] = {}  # held, so that an id stays its own
        self.inside: set[nn.Module] = set()
        self.adapted = {
            id(part)
            for m in model.modules()
            if _is_adapter(m)
            for part in m.modules()
            if part is not m
        }
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
        return Found(tuple(self.layers), self.skipped, tuple(places), self.weights_left)

    def look_at(self, name: str, module: nn.Module) -> None:
        if is_functional(module):
            self.places.append(Place(module, (), wire_functional))
        if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            self.places.append(Place(module, (), wire_slow_path))
        if isinstance(module, nn.MultiheadAttention):
            self.inside.add(module.out_proj)
            self._attention(name, module)
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            self._recurrent(name, module)
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
            self.weights_left[name] = weight.numel()

    def look_at_the_rest(self, name: str, module: nn.Module) -> None:
        """Name and count the weights that belong to no layer."""
        known = {id(layer.stored) for layer in self.layers} | self.left.keys()
        packed = _packed(module)
        if packed:
            self.skipped[name] = "its weight is quantised and packed: prune before quantising"
            self.weights_left[name] = packed
        owner, inside, _ = f".{name}.".partition(".parametrizations.")
        owner = owner.removeprefix(".")
        if inside and (owner in self.skipped or owner in {la.name for la in self.layers}):
            if owner not in self.skipped:  # the gain of a weight norm; else it has been counted
                for gain in module.parameters(recurse=False):
                    if gain.ndim > 1 and id(gain) not in known:
                        self.weights_left[f"{owner} (gain)"] = gain.numel()
            return
        for p, weight in module.named_parameters(recurse=False):
            if weight.ndim < 2 or id(weight) in known or isinstance(weight, UNINITIALISED):
                continue
            alone = isinstance(module, nn.Embedding | nn.EmbeddingBag)
            self.left[id(weight)] = weight
            label = name if alone else f"{name}.{p}".lstrip(".")
            self.skipped.setdefault(label, _what_for(module))
            self.weights_left[label] = self.weights_left.get(label, 0) + weight.numel()

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

    def _recurrent(self, name: str, module: nn.Module) -> None:
        reason = recurrent_refused(module, self.holders)
        if not reason:
            parts = recurrent_layers(name, module)
            self.places.append(Place(module, tuple(parts), wire_recurrent))
            self.layers += parts
            return
        self.skipped[name] = reason
        for weight in module.parameters():
            if weight.ndim > 1 and id(weight) not in self.left:
                self.left[id(weight)] = weight
                self.weights_left[name] = self.weights_left.get(name, 0) + weight.numel()

    def _layer(self, name: str, module: nn.Module) -> None:
        kind = kind_of(module)
        assert kind is not None
        weight = getattr(module, kind.layer.weight_name, None)
        if isinstance(module, nn.LazyLinear) or not isinstance(weight, Tensor):
            self.skipped[name] = "its weight is not initialised"
            return
        if id(module) in self.adapted:
            self.leave(name, weight, ADAPTED)
            return
        own_forward = has_own_forward(module, kind.base)
        if is_normed(module) and not own_forward:
            normed = NormedConvLayer(name, module)
            if self.holders[id(normed.stored)] == 1 and normed.stored.is_floating_point():
                self._add(normed, normed.stored)
                return
        if nn.utils.parametrize.is_parametrized(module) or not _stored(module, weight):
            self.leave(name, weight, COMPUTED)
        elif own_forward and not self._may_be_seen_through(kind.layer, weight):
            self.leave(name, weight, f"{type(module).__name__} has a forward of its own")
        elif not is_plain(weight):
            self.leave(name, weight, f"its weight is of type {weight.dtype}, {weight.layout}")
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


def _is_adapter(module: nn.Module) -> bool:
    """Whether it wraps a layer and adds to its weight, as PEFT's do."""
    return any(cls.__name__ == "BaseTunerLayer" for cls in type(module).__mro__)


UNINITIALISED = (nn.UninitializedParameter,)


def _what_for(module: nn.Module) -> str:
    """Why a parameter of a module that is no layer is left alone."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding: its rows are looked up, not multiplied"
    return f"a parameter that {type(module).__name__} uses by itself"


def _packed(module: nn.Module) -> int:
    """How many weights a quantised module holds out of sight."""
    weight = getattr(type(module), "weight", None)
    if not callable(weight) or not type(module).__module__.startswith("torch.ao"):
        return 0
    return int(module.weight().numel())  # type: ignore[operator]


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
