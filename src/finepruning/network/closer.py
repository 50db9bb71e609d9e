"""A closer look: weights of which no call of a layer shows what is computed with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .._errors import FinepruningError
from ..data.batches import Batch
from .convolutions import ConvLayer
from .engine import Engine
from .find import Found
from .functional import Uses, note_uses, wire_products
from .kinds import kind_of
from .layers import Layer, LinearLayer, PartLayer
from .plain import make_plain
from .products import Product, part_of
from .taps import Place, Wire, has_own_forward, wire_call

WIDEST = 1 << 18
"""Outputs of a product from which its weight is taken for a bank of weights, not for a layer."""
FEW = 4
"""Samples that show which weights of a bank are used."""
ELSEWHERE = (
    torch.jit.ScriptModule,
    nn.MultiheadAttention,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
)


def look_closer(
    engine: Engine, found: Found, batch: Batch, called: Collection[str]
) -> tuple[Found, dict[str, set[str]], bool]:
    """The same layers, with those intercepted whose weight a function is handed instead of a call;
    and those of parameters that belong to no layer.

    Beside it, for each layer that is not ``called``, the names of the functions that are handed its
    weight; and whether modules of the network have been made plain, so that all is to be looked at
    anew.
    """
    asked = _asked(engine, found, called)
    if not asked:
        return found, {}, False
    constants = {id(p) for p in engine.model.parameters()}
    places = [
        Place(uses.module, (), note_uses(uses, constants))
        for _, _, group in asked
        for uses in group
    ]
    banks = any(layer is None and _parameter(group[0]).ndim > 2 for _, layer, group in asked)
    sample = next(iter(batch.parts(FEW))) if banks else batch.take(0)
    try:
        for _ in engine.stream([sample], (*found.places, *places)):
            pass
    except FinepruningError:  # something does not take a weight that tells
        return found, {}, False
    made = [
        make_plain(engine, name, uses)
        for name, layer, (uses, *more) in asked
        if layer is not None and not more and uses.computed is not None and not uses.products
    ]
    if any(made):
        return found, {}, True
    functions: dict[str, set[str]] = {}
    for name, layer, group in asked:
        layers = _layers(name, layer, group)
        if layers:
            # One tap for a layer, wherever its weight is held.
            tapped = [Place(u.module, tuple(layers), _wire(layers[0], u)) for u in group]
            found = found.replaced(name, layers, tapped, "not all of it is used")
        elif layer is not None:
            functions[name] = set().union(*(uses.others for uses in group))
            if any(uses.products or uses.computed for uses in group):
                functions[name] |= {"a product of another form"}
    return found, functions, False


def _asked(
    engine: Engine, found: Found, called: Collection[str]
) -> list[tuple[str, Layer | None, list[Uses]]]:
    """What is to be looked at: names, their layers, and the modules that hold the weight."""
    asked: list[tuple[str, Layer | None, list[Uses]]] = []
    for layer in found.layers:
        if layer.name in called:
            continue
        modules = [place.module for place in found.places if [*place.taps] == [layer]]
        held = [Uses(m, layer.weight_name) for m in modules if layer.weight_name in m._parameters]
        if held:
            asked.append((layer.name, layer, held))
    named = [*engine.model.named_modules()]
    holders = Counter(id(p) for _, m in named for p in m._parameters.values())
    for name, module in named:
        if kind_of(module) is not None or isinstance(module, ELSEWHERE):
            continue
        for key, p in module._parameters.items():
            label = f"{name}.{key}".lstrip(".")
            if p is None or label not in found.left or holders[id(p)] > 1:
                continue
            table = p.ndim > 2 and len(p) == 1  # of positions, or a token
            if p.is_floating_point() and p.numel() > max(p.shape) and not table:
                asked.append((label, None, [Uses(module, key)]))
    return asked


def _layers(name: str, layer: Layer | None, group: Sequence[Uses]) -> list[Layer]:
    """The layers that a parameter's products are; empty: they are none."""
    first, *more = group
    forms = [uses.products.keys() for uses in group]
    if any(uses.others or uses.computed for uses in group) or not first.products:
        return []
    if any(form != forms[0] for form in forms):
        return []
    products = [*first.products.values()]
    plain = all(uses.own_bias for uses in group)
    if layer is not None and len(products) == 1 and _is_all(layer, products[0]):
        layer.plain = plain or _adds_its_bias(layer, first)
        if products[0].geometry is not None:
            assert isinstance(layer, ConvLayer)
            layer.geometry = products[0].geometry
        return [layer]
    if more or any(product.geometry is not None for product in products):
        return []
    if _overlap(products, _parameter(first)):
        return []
    products.sort(key=lambda product: product.part[2])
    names = [name] if len(products) == 1 else [f"{name}[{i}]" for i in _numbers(products)]
    return [
        PartLayer(label, first.module, first.key, plain=False, part=product.part)
        for label, product in zip(names, products, strict=True)
    ]


def _numbers(products: Sequence[Product]) -> list[int]:
    """Numbers of parts: by where each lies, so that it is called the same when others are not
    called (an expert that no sample asks for)."""
    places = [product.part[2] // math.prod(product.part[0]) for product in products]
    return places if len({*places}) == len(places) else [*range(len(places))]


def _parameter(uses: Uses) -> torch.Tensor:
    parameter: torch.Tensor = uses.module._parameters[uses.key]
    return parameter


def _is_all(layer: Layer, product: Product) -> bool:
    """Whether a product is with all of a layer's weight, as its class would have it."""
    conv = product.geometry is not None
    if type(layer) is not (ConvLayer if conv else LinearLayer):
        return False
    return product.part[0] == tuple(layer.stored.shape) and (
        conv or product.part == part_of(layer.stored)
    )


def _adds_its_bias(layer: Layer, uses: Uses) -> bool:
    """Whether a module's output is its input's product with its weight, and its bias."""
    bias = uses.module._parameters.get(layer.bias_name)
    if uses.call is None or bias is None or not bias.any() or type(layer) is not LinearLayer:
        return False
    x, y = uses.call
    return isinstance(y, torch.Tensor) and torch.allclose(y, F.linear(x, layer.stored, bias))


def _wire(layer: Layer, uses: Uses) -> Wire:
    if layer.plain and not uses.own_bias:
        return wire_call
    return wire_products


def _overlap(products: Sequence[Product], parameter: torch.Tensor) -> bool:
    """Whether two products share weights, or one is too wide to be a layer."""
    taken = torch.zeros(parameter.numel(), dtype=torch.bool)
    for product in products:
        size = product.part[0]
        if len(size) != 2 or size[0] > WIDEST or 0 in product.part[1]:
            return True
        part = taken.as_strided(*product.part)
        if part.any():
            return True
        part.fill_(True)
    return False


def why_uncalled(layer: Layer, functions: Collection[str]) -> str:
    """Why a layer that the data does not reach is left alone."""
    kind = kind_of(layer.module)
    own = kind is not None and has_own_forward(layer.module, kind.base)
    first = f"{type(layer.module).__name__} has a forward of its own; " if own else ""
    if functions:
        handed = ", ".join(sorted(functions))
        return f"{first}its weight is handed to {handed}, instead of a call of the layer"
    return first + "never called on the calibration data"
