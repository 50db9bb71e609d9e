"""Recurrent layers: what comes from the input and what comes from the step before, as two layers.

``nn.RNN``, ``nn.GRU`` and ``nn.LSTM`` compute ``W_ih x_t + b_ih`` and ``W_hh h_{t-1} + b_hh`` at
each step, whatever gates make of them. Each is a linear layer whose positions are the steps. What
``W_hh`` sees are the states that the layer itself has made: until it is visited, with the weights
that it has then.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Layer, LinearLayer
from .taps import Call
from .values import is_plain

RECURRENT = (nn.RNN, nn.GRU, nn.LSTM)


def recurrent_refused(m: Any, holders: Counter[int]) -> str:
    """Why a recurrent module cannot be taken apart; empty: it can."""
    base = next((kind for kind in RECURRENT if isinstance(m, kind)), None)
    if base is None:
        return "recurrent weights of single steps are left dense"
    if type(m).forward is not base.forward or "forward" in vars(m):
        return f"{type(m).__name__} has a forward of its own"
    if m.proj_size:
        return "recurrent weights with projections are left dense"
    if nn.utils.parametrize.is_parametrized(m) or len(m._flat_weights_names) != len(m._parameters):
        return "its weight is computed (parametrized), not stored"
    if any(holders[id(p)] > 1 or not is_plain(p) for p in m.parameters()):
        return "its weight is shared with another layer, or of another type"
    return ""


def recurrent_layers(name: str, m: Any) -> list[Layer]:
    """Two layers for each of its own, and for each direction."""
    return [
        LinearLayer(
            f"{name}.{kind}{end}".lstrip("."), m, f"weight_{kind}{end}", f"bias_{kind}{end}"
        )
        for end in _ends(m)
        for kind in ("ih", "hh")
    ]


def _ends(m: Any) -> list[str]:
    directions = ("", "_reverse") if m.bidirectional else ("",)
    return [f"_l{i}{direction}" for i in range(m.num_layers) for direction in directions]


def wire_recurrent(m: Any, parts: tuple[Layer, ...], call: Call) -> None:
    """Make ``m`` compute the same, with a call of each of ``parts``."""
    run = m.forward
    compute: Any = {
        "LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh, "RNN_RELU": torch.rnn_relu
    }[m.mode]  # fmt: skip
    lstm = m.mode == "LSTM"
    directions = 1 + m.bidirectional

    def project(part: Layer, x: Tensor) -> None:
        call(part, lambda x: F.linear(x, part.weight, part.bias), x)

    def one(x: Tensor, states: tuple[Tensor, ...], ih: Layer, hh: Layer) -> tuple[Tensor, ...]:
        """One layer in one direction, ``x`` ``(N, T, D)``: its outputs and last states."""

        def through() -> tuple[Tensor, ...]:
            weights = [part.stored for part in (ih, hh)]
            if m.bias:
                weights += [getattr(m, part.bias_name) for part in (ih, hh)]
            given: Any = tuple(s[None] for s in states) if lstm else states[0][None]
            return compute(x, given, weights, m.bias, 1, 0.0, False, False, True)

        project(ih, x)
        before = torch.cat([states[0][:, None], through()[0][:, :-1]], 1)
        project(hh, before)
        return through()

    def forward(input: Any, hx: Any = None) -> Any:
        if not isinstance(input, Tensor) or input.ndim != 3:
            return run(input, hx)  # packed, or one sample: it is not looked at
        x = input if m.batch_first else input.transpose(0, 1)
        if hx is None:
            zeros = x.new_zeros(m.num_layers * directions, len(x), m.hidden_size)
            hx = (zeros, zeros) if lstm else zeros
        given = hx if lstm else (hx,)
        last: list[tuple[Tensor, ...]] = []
        for i in range(m.num_layers):
            outputs = []
            for d in range(directions):
                at = i * directions + d
                turned = x.flip(1) if d else x
                y, *states = one(turned, tuple(s[at] for s in given), *parts[2 * at : 2 * at + 2])
                outputs.append(y.flip(1) if d else y)
                last.append(tuple(s[0] for s in states))
            x = torch.cat(outputs, 2)
        ends = tuple(torch.stack(states) for states in zip(*last, strict=True))
        output = x if m.batch_first else x.transpose(0, 1)
        return output, ends if lstm else ends[0]

    m.forward = forward
