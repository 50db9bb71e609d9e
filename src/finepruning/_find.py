"""Find the prunable layers of a network, and route every call of one through a handler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ._layers import (
    CONVS,
    ConvLayer,
    Layer,
    LinearLayer,
    NormedConvLayer,
    ProjectionLayer,
    TransposedLinearLayer,
)

Handler = Callable[[Layer, Tensor], Tensor]


def _attention(m: nn.MultiheadAttention, parts: list[Layer], handle: Handler) -> Callable[..., Any]:
    """``nn.MultiheadAttention.forward`` in separate projections, so that each can be
    intercepted."""

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = query.ndim == 3
        q, k, v = (
            handle(part, x if not batched or m.batch_first else x.transpose(0, 1))
            for part, x in zip(parts[:3], (query, key, value), strict=True)
        )
        if not batched:
            q, k, v = q[None], k[None], v[None]
        n, target, width = q.shape
        source, heads = k.shape[1], m.num_heads
        q, k, v = (t.view(n, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
        bias = q.new_zeros(n, heads, target, source)
        for mask, shape in (
            (attn_mask, None),
            (key_padding_mask, (n, 1, 1, source)),
        ):
            if mask is None:
                continue
            if shape is None:
                shape = (-1, heads, target, source) if mask.ndim == 3 else (1, 1, target, source)
            mask = mask.view(shape)
            floor = torch.zeros_like(bias[:1, :1, :1, :1]) - torch.inf
            bias = torch.where(mask, floor, bias) if mask.dtype == torch.bool else bias + mask
        attention = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5 + bias).softmax(-1)
        joined = (attention @ v).transpose(1, 2).reshape(n, target, width)
        out = handle(parts[3], joined if batched else joined[0])
        if batched and not m.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        weights = attention.mean(1) if average_attn_weights else attention
        return out, weights if batched else weights[0]

    return forward


FUNCTIONAL = "torch_multi_head_self_attention"
"""WavLM's method that hands its projections' weights to a function instead of calling them."""


def _functional_attention(m: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """The same through calls of the projections, so that each can be intercepted."""

    def attend(
        hidden_states: Tensor, attention_mask: Tensor | None, gated_position_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        n, steps, width = hidden_states.shape
        shape = (n, steps, m.num_heads, width // m.num_heads)
        q, k, v = (
            part(hidden_states).view(shape).transpose(1, 2)
            for part in (m.q_proj, m.k_proj, m.v_proj)
        )
        bias = gated_position_bias.view(n, m.num_heads, steps, steps)
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask.ne(1)[:, None, None], -torch.inf)
        weights = (q @ k.mT * shape[-1] ** -0.5 + bias).softmax(-1)
        joined = (weights @ v).transpose(1, 2).reshape(n, steps, width)
        return m.out_proj(joined), weights.mean(1, keepdim=True).expand_as(weights)

    return attend


def _kind(module: nn.Module) -> type[Layer] | None:
    if isinstance(module, nn.Linear):
        return LinearLayer
    if isinstance(module, tuple(CONVS)):
        return ConvLayer
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return TransposedLinearLayer
    return None


def _normed(module: nn.Module) -> bool:
    """Whether it is a convolution whose weight, and nothing else, is under ``weight_norm``."""
    lists = getattr(module, "parametrizations", {})
    return (
        isinstance(module, tuple(CONVS))
        and list(lists) == ["weight"]
        and len(lists["weight"]) == 1
        and type(lists["weight"][0]) is nn.utils.parametrizations._WeightNorm
    )


def _has_own_forward(module: nn.Module) -> bool:
    """Whether it computes something else than the class of PyTorch that it derives from."""
    bases: tuple[type[nn.Module], ...] = (nn.Linear, *CONVS, nn.MultiheadAttention)
    for base in bases:
        if isinstance(module, base):
            names = ("forward", "_conv_forward")
            changed = [getattr(type(module), n, 0) is not getattr(base, n, 0) for n in names]
            return any(changed) or "forward" in vars(module)
    return "forward" in vars(module)


def _difference(a: nn.Module, b: nn.Module) -> str:
    """What keeps two modules with one weight from being one layer; empty: nothing."""
    if _kind(a) is not _kind(b):
        return "kind"
    for name in ("stride", "padding", "dilation", "groups", "padding_mode"):
        if getattr(a, name, None) != getattr(b, name, None):
            return name
    return "" if a._parameters.get("bias") is b._parameters.get("bias") else "bias"


def _attention_refused(m: nn.MultiheadAttention, holders: Counter[int]) -> str:
    """Why an attention cannot be taken apart; empty: it can."""
    if m.in_proj_weight is None or m.bias_k is not None or m.add_zero_attn:
        return "attention with kdim/vdim, bias_k or add_zero_attn is left dense"
    if any(nn.utils.parametrize.is_parametrized(part) for part in m.modules()):
        return "its weight is computed (parametrized), not stored"
    if any(_has_own_forward(part) for part in m.modules()):
        return f"{type(m).__name__} has a forward of its own"
    if any(holders[id(p)] > 1 for p in m.parameters()):
        return "its weight is shared with another layer"
    return ""


@dataclass
class Found:
    """What :func:`find_layers` saw: the prunable layers, and what is left alone with the reason."""

    layers: list[Layer]
    skipped: dict[str, str]
    attention: list[tuple[nn.MultiheadAttention, list[Layer]]]
    aliases: dict[nn.Module, Layer]
    weights_skipped: int = 0
    functional: list[nn.Module] = field(default_factory=list)
    """Attentions that call none of their projections unless they are made to."""


def find_layers(model: nn.Module) -> Found:
    """List the prunable layers of ``model`` in registration order; tied weights are one layer."""
    layers: list[Layer] = []
    skipped: dict[str, str] = {}
    attention = []
    aliases: dict[nn.Module, Layer] = {}
    unprunable = 0
    owners: dict[int, Layer] = {}
    left: dict[int, Tensor] = {}
    inside: set[nn.Module] = set()
    holders = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    elsewhere = {
        id(p): name
        for name, m in model.named_modules()
        if _kind(m) is None and not isinstance(m, nn.MultiheadAttention)
        for p in m.parameters(recurse=False)
    }

    def leave(name: str, weight: Tensor, reason: str) -> None:
        """Leave a layer alone, and with it all that share its weight."""
        nonlocal unprunable
        owner = owners.pop(id(weight), None)
        if owner is not None:
            layers.remove(owner)
            skipped.update(dict.fromkeys([owner.name, *owner.aliases], reason))
        skipped[name] = reason
        if id(weight) not in left:
            left[id(weight)] = weight  # held, so that its id stays its own
            unprunable += weight.numel()

    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside.add(module.out_proj)
            reason = _attention_refused(module, holders)
            if reason:
                for p, weight in module.named_parameters():
                    if weight.ndim > 1 and not p.startswith("bias"):
                        leave(f"{name}.{p}", weight, reason)
                continue
            parts: list[Layer] = []
            for i, part in enumerate("qkv"):
                projection = ProjectionLayer(
                    f"{name}.{part}", module, "in_proj_weight", "in_proj_bias"
                )
                projection.part = i
                parts.append(projection)
            parts.append(LinearLayer(f"{name}.out_proj", module.out_proj))
            attention.append((module, parts))
            layers += parts
            continue
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            skipped[name] = "recurrent weights are left dense, and not counted"
            continue
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            leave(name, module.weight, "transposed convolution is left dense")
            continue
        kind = _kind(module)
        if kind is None or module in inside:
            continue
        if isinstance(module, nn.LazyLinear) or not isinstance(module.weight, Tensor):
            skipped[name] = "its weight is not initialised"
            continue
        if _normed(module) and not _has_own_forward(module):
            normed = NormedConvLayer(name, module)
            if holders[id(normed.stored)] == 1 and normed.stored.is_floating_point():
                owners[id(normed.stored)] = normed
                layers.append(normed)
                continue
        if nn.utils.parametrize.is_parametrized(module) or "weight" not in module._parameters:
            leave(name, module.weight, "its weight is computed (parametrized), not stored")
        elif _has_own_forward(module):
            leave(name, module.weight, f"{type(module).__name__} has a forward of its own")
        elif not module.weight.is_floating_point():
            leave(name, module.weight, f"its weight is of type {module.weight.dtype}")
        elif id(module.weight) in left:
            leave(name, module.weight, "its weight is shared with a layer that is left alone")
        elif id(module.weight) in elsewhere:
            other = elsewhere[id(module.weight)]
            leave(name, module.weight, f"its weight is shared with {other!r}, of another kind")
        elif id(module.weight) in owners:
            owner = owners[id(module.weight)]
            apart = _difference(owner.module, module)
            if apart:
                reason = f"{owner.name!r} and {name!r} share a weight but not the {apart}"
                leave(name, module.weight, reason)
            else:
                owner.aliases.append(name)
                owner.tied.append(module)
                aliases[module] = owner
        else:
            layer = kind(name, module)
            owners[id(module.weight)] = layer
            layers.append(layer)
    functional = [m for m in model.modules() if callable(getattr(type(m), FUNCTIONAL, None))]
    return Found(layers, skipped, attention, aliases, unprunable, functional)


@contextmanager
def intercepted(found: Found, handle: Handler) -> Iterator[None]:
    """While this lasts, each call of a layer in ``found`` returns ``handle(layer, x)``."""
    replaced: list[nn.Module] = []

    def replace(module: nn.Module, forward: Callable[..., Any]) -> None:
        module.forward = forward  # an instance attribute shadows the class's method
        replaced.append(module)

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused path calls no submodule
    try:
        projections = {id(p) for _, parts in found.attention for p in parts}
        for layer in found.layers:
            if id(layer) not in projections:
                replace(layer.module, lambda x, _layer=layer: handle(_layer, x))
        for module, layer in found.aliases.items():
            if layer in found.layers:
                replace(module, lambda x, _layer=layer: handle(_layer, x))
        for attention, parts in found.attention:
            replace(attention, _attention(attention, parts, handle))
        for module in found.functional:
            setattr(module, FUNCTIONAL, _functional_attention(module))
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in replaced:
            del module.forward
        for module in found.functional:
            vars(module).pop(FUNCTIONAL, None)
