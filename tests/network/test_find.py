"""Which layers of a network are found, and what is left alone with which reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finepruning.network.find import find_layers
from passes import through


class Twin(nn.Module):
    """Two modules that share a weight."""

    def __init__(self, a: nn.Module, b: nn.Module, *names: str) -> None:
        super().__init__()
        self.a, self.b = a, b
        for name in names or ("weight",):
            setattr(b, name, getattr(a, name))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_tied_modules_are_one_layer() -> None:
    model = Twin(nn.Linear(4, 4), nn.Linear(4, 4), "weight", "bias")
    found = find_layers(model)
    assert [(la.name, la.aliases) for la in found.layers] == [("a", ["b"])]
    x = torch.ones(1, 4)
    output, calls = through(model, x)
    assert calls == ["a", "a"]
    assert torch.equal(output, model(x))


def test_a_new_bias_reaches_every_tied_module() -> None:
    model = Twin(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    layer = find_layers(model).layers[0]
    layer.write(layer.matrix(), torch.arange(4.0))
    assert model.a.bias.tolist() == model.b.bias.tolist() == [0, 1, 2, 3]


class Masked(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x)[0]


def parametrized(module: nn.Module, name: str = "weight") -> nn.Module:
    nn.utils.parametrize.register_parametrization(module, name, nn.Tanh())
    return module


def parametrized_projection() -> nn.Module:
    module = nn.MultiheadAttention(4, 2)
    parametrized(module.out_proj)
    return module


ALONE: dict[str, tuple[Callable[[], nn.Module], dict[str, str], int]] = {
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), {"m": "transposed"}, 24),
    "parametrized": (lambda: parametrized(nn.Linear(4, 4)), {"m": "parametrized"}, 16),
    "complex": (lambda: nn.Linear(4, 4, dtype=torch.complex64), {"m": "complex64"}, 16),
    "embedding": (
        lambda: Twin(nn.Embedding(4, 4), nn.Linear(4, 4, bias=False)),
        {"m.b": "shared with 'm.a'"}, 16,
    ),
    "biases apart": (
        lambda: Twin(nn.Linear(4, 4), nn.Linear(4, 4)),
        {"m.a": "not the bias", "m.b": "not the bias"}, 16,
    ),
    "stride apart": (
        lambda: Twin(nn.Conv1d(4, 4, 1, bias=False), nn.Conv1d(4, 4, 1, stride=2, bias=False)),
        {"m.a": "not the stride", "m.b": "not the stride"}, 16,
    ),
    "kinds apart": (
        lambda: Twin(Conv1D(4, 4), nn.Linear(4, 4), "weight", "bias"),
        {"m.a": "not the kind", "m.b": "not the kind"}, 16,
    ),
    "attention subclass": (
        lambda: Masked(4, 2),
        {"m.in_proj_weight": "Masked", "m.out_proj.weight": "Masked"}, 64,
    ),
    "parametrized attention": (
        parametrized_projection,
        {"m.in_proj_weight": "computed", "m.out_proj.parametrizations.weight.original": "computed"},
        64,
    ),
    "shared attention": (
        lambda: Twin(nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2), "in_proj_weight"),
        {
            f"m.{m}.{n}": "shared" for m in "ab" for n in ("in_proj_weight", "out_proj.weight")
        },
        48 + 16 + 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALONE)
def test_left_alone(case: str) -> None:
    make, reasons, weights = ALONE[case]
    found = find_layers(nn.ModuleDict({"m": make(), "other": nn.Linear(2, 2)}))
    assert [layer.name for layer in found.layers] == ["other"]
    for name, reason in reasons.items():
        assert reason in found.skipped[name]
    rest = [reason for name, reason in found.skipped.items() if name not in reasons]
    assert all("embedding" in reason or "by itself" in reason for reason in rest)
    assert sum(found.left.values()) == weights


def test_weight_shared_by_three_of_which_one_differs() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
            self.b.weight = self.c.weight = self.a.weight
            self.b.bias = self.a.bias

    found = find_layers(Three())
    assert not found.layers
    assert set(found.skipped) == {"a", "b", "c"}
    assert sum(found.left.values()) == 16


def test_weight_of_an_attention_shared_with_an_earlier_linear() -> None:
    attention = nn.MultiheadAttention(4, 2)
    linear = nn.Linear(4, 4)
    attention.out_proj.weight = linear.weight
    for order in ([linear, attention], [attention, linear]):
        found = find_layers(nn.ModuleList(order))
        assert not found.layers
        assert len(found.skipped) == 3
        assert sum(found.left.values()) == 48 + 16


def test_order_is_that_of_registration() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8)
    names = [layer.name for layer in find_layers(model).layers]
    assert names == [*(f"self_attn.{p}" for p in ("q", "k", "v", "out_proj")), "linear1", "linear2"]


def test_recurrent_layers_of_single_steps_are_named() -> None:
    found = find_layers(
        nn.ModuleDict({"rnn": nn.LSTM(3, 4, proj_size=2), "cell": nn.LSTMCell(3, 4)})
    )
    assert not found.layers
    assert set(found.skipped) == {"rnn", "cell"}
    assert found.left == {"rnn": 16 * 3 + 16 * 2 + 2 * 4, "cell": 16 * 3 + 16 * 4}
