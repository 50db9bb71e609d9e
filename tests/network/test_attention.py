"""Attention in parts is attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning.network.find import find_layers
from passes import through
from unchecked import personalize

MASKS = {
    "none": {},
    "causal": {"attn_mask": torch.ones(3, 5).triu(1).bool()},
    "hint": {"attn_mask": torch.ones(3, 5).triu(1).bool(), "is_causal": True},
    "added": {"attn_mask": torch.randn(3, 5).double()},
    "heads": {"attn_mask": torch.randn(4 * 2, 3, 5).double()},
    "padding": {"key_padding_mask": torch.tensor([[0, 0, 1, 0, 1]] * 4).bool()},
    "float padding": {"key_padding_mask": torch.randn(4, 5).double()},
    "both": {
        "attn_mask": torch.randn(3, 5).double(),
        "key_padding_mask": torch.tensor([[0, 0, 0, 0, 1]] * 4).double() * -1e9,
    },
}


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_in_parts_is_attention(mask: str, batch_first: bool, average: bool) -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first).double().eval()
    nn.init.normal_(module.in_proj_bias)
    query, key = torch.randn(4, 3, 8).double(), torch.randn(4, 5, 8).double()
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    for needed in (True, False):
        options = {**MASKS[mask], "need_weights": needed, "average_attn_weights": average}
        compare_attention(module, (query, key, key), options)


@pytest.mark.parametrize("mask", ["none", "causal", "heads"])
def test_attention_of_one_sample(mask: str) -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=True, bias=False).double().eval()
    query, key = torch.randn(3, 8).double(), torch.randn(5, 8).double()
    options = {k: v[:2] if v.ndim == 3 else v for k, v in MASKS[mask].items()}
    compare_attention(module, (query, key, key), options)


OPTIONS: dict[str, dict[str, Any]] = {
    "keys of another size": {"kdim": 6, "vdim": 10},
    "a key and a value for all": {"add_bias_kv": True},
    "zeros": {"add_zero_attn": True},
    "all of it": {"kdim": 6, "vdim": 10, "add_bias_kv": True, "add_zero_attn": True},
    "all of it, no bias": {"kdim": 6, "vdim": 10, "add_zero_attn": True, "bias": False},
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_of_attention(options: str, mask: str, batch_first: bool) -> None:
    given = OPTIONS[options]
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first, **given).double().eval()
    if module.in_proj_bias is not None:
        nn.init.normal_(module.in_proj_bias)
    query = torch.randn(4, 3, 8).double()
    key = torch.randn(4, 5, given.get("kdim", 8)).double()
    value = torch.randn(4, 5, given.get("vdim", 8)).double()
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    for needed in (True, False):
        compare_attention(module, (query, key, value), {**MASKS[mask], "need_weights": needed})


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_is_pruned(options: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            given = OPTIONS[options]
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True, **given)
            self.k = nn.Linear(8, given.get("kdim", 8))
            self.v = nn.Linear(8, given.get("vdim", 8))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attend(x, self.k(x), self.v(x))[0].mean(1))

    model, x = Net().eval(), torch.randn(64, 6, 8)
    result = personalize(model, x, sparsity=0.5, readout=False)
    weights = [p for n, p in result.model.named_parameters() if "weight" in n]
    assert sum(la.weights for la in result.report.layers) == sum(p.numel() for p in weights)
    assert result.report.zeros == sum(int((p == 0).sum()) for p in weights)
    error = (result.model(x) - model(x)).square().mean() / model(x).var()
    assert error < 0.7
    assert [*result.model.state_dict()] == [*model.state_dict()]


def compare_attention(module: nn.Module, inputs: tuple[Tensor, ...], options: Any) -> None:
    query, key, value = inputs
    with torch.no_grad():
        wanted = module(query, key, value, **options)
    got, calls = through(module, {"query": query, "key": key, "value": value, **options})
    assert calls == [".q", ".k", ".v", ".out_proj"]
    torch.testing.assert_close(got, wanted)


def test_projections_are_written_apart() -> None:
    module = nn.MultiheadAttention(4, 2)
    layers = find_layers(module).layers
    for value, layer in enumerate(layers):
        layer.write(layer.matrix() * 0 + value, torch.full((4,), 10.0 * value))
    assert [la.matrix().unique().tolist() for la in layers] == [[0], [1], [2], [3]]
    assert module.in_proj_bias.tolist() == [0] * 4 + [10] * 4 + [20] * 4
    assert module.out_proj.bias.tolist() == [30] * 4
