"""Attention in separate projections, so that each is a layer of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Layer, LinearLayer
from .taps import Call, has_own_forward


class ProjectionLayer(LinearLayer):
    """One of the three projections of ``nn.MultiheadAttention``: rows ``part`` of three of the
    packed ``in_proj_weight``, or a weight of its own; the bias is packed in either case."""

    part = 0

    @property
    def weight(self) -> Tensor:
        stored = self.stored.data
        return stored.chunk(3)[self.part] if self.weight_name == "in_proj_weight" else stored

    @property
    def bias(self) -> Tensor | None:
        bias = self.module.in_proj_bias
        return None if bias is None else bias.data.chunk(3)[self.part]


def attention_layers(name: str, m: nn.MultiheadAttention) -> list[Layer]:
    """The three projections, and the one behind."""
    parts: list[Layer] = []
    for i, part in enumerate("qkv"):
        key = "in_proj_weight" if m.in_proj_weight is not None else f"{part}_proj_weight"
        projection = ProjectionLayer(f"{name}.{part}", m, key, "in_proj_bias")
        projection.part = i
        parts.append(projection)
    return [*parts, LinearLayer(f"{name}.out_proj", m.out_proj)]


def attention_refused(m: nn.MultiheadAttention, holders: Counter[int]) -> str:
    """Why an attention cannot be taken apart; empty: it can."""
    if any(nn.utils.parametrize.is_parametrized(part) for part in m.modules()):
        return "its weight is computed (parametrized), not stored"
    if has_own_forward(m, nn.MultiheadAttention) or has_own_forward(m.out_proj, nn.Linear):
        return f"{type(m).__name__} has a forward of its own"
    if any(holders[id(p)] > 1 for p in m.parameters()):
        return "its weight is shared with another layer"
    return ""


def wire_attention(m: nn.MultiheadAttention, parts: tuple[Layer, ...], call: Call) -> None:
    """Make ``m`` compute the same by a call of each of ``parts``."""

    def project(part: Layer, x: Tensor) -> Tensor:
        return call(part, lambda x: F.linear(x, part.weight, part.bias), x)

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
        if batched and not m.batch_first:
            # One tensor stays one: projections that see the same input share its statistics.
            turned = {id(x): x.transpose(0, 1) for x in (query, key, value)}
            query, key, value = (turned[id(x)] for x in (query, key, value))
        q, k, v = map(project, parts[:3], (query, key, value))
        if not batched:
            q, k, v = q[None], k[None], v[None]
        n, target, width = q.shape
        heads = m.num_heads
        if m.bias_k is not None and m.bias_v is not None:  # a key and a value that all samples have
            k = torch.cat([k, m.bias_k.expand(n, 1, -1)], 1)
            v = torch.cat([v, m.bias_v.expand(n, 1, -1)], 1)
        if m.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        source = k.shape[1]
        q, k, v = (t.reshape(n, -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
        bias = q.new_zeros(n, heads, target, source)
        if is_causal and key_padding_mask is None and not need_weights:
            # PyTorch believes the hint then, and what was added is seen like any other key.
            attn_mask = torch.ones_like(bias[0, 0]).triu(1).bool()
        for mask, shape in (
            (attn_mask, None),
            (key_padding_mask, (n, 1, 1, source)),
        ):
            if mask is None:
                continue
            mask = F.pad(mask, (0, source - mask.shape[-1]))  # what was added is always seen
            if shape is None:
                shape = (-1, heads, target, source) if mask.ndim == 3 else (1, 1, target, source)
            mask = mask.view(shape)
            floor = torch.zeros_like(bias[:1, :1, :1, :1]) - torch.inf
            bias = torch.where(mask, floor, bias) if mask.dtype == torch.bool else bias + mask
        attention = (q @ k.transpose(-2, -1) * (width // heads) ** -0.5 + bias).softmax(-1)
        joined = (attention @ v).transpose(1, 2).reshape(n, target, width)
        out = project(parts[3], joined if batched else joined[0])
        if batched and not m.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        weights = attention.mean(1) if average_attn_weights else attention
        return out, weights if batched else weights[0]

    m.forward = forward  # type: ignore[method-assign]


def wire_slow_path(m: Any, parts: tuple[Layer, ...], call: Call) -> None:
    """Keep ``nn.TransformerEncoder(Layer)`` from its fused path, which calls no submodule."""
    m.activation_relu_or_gelu = 0
    m.use_nested_tensor = False


FUNCTIONAL = "torch_multi_head_self_attention"
"""WavLM's method that hands its projections' weights to a function instead of calling them."""


def wire_functional(m: Any, parts: tuple[Layer, ...], call: Call) -> None:
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

    setattr(m, FUNCTIONAL, attend)


def is_functional(m: nn.Module) -> bool:
    """Whether it is an attention of WavLM's form."""
    return callable(getattr(type(m), FUNCTIONAL, None))
