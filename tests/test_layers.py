"""The adapter: columns @ matrix + bias is the layer, whatever its geometry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from finepruning._find import Found, find_layers, intercepted
from finepruning._layers import Layer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def only(module: nn.Module) -> Layer:
    found = find_layers(module)
    assert len(found.layers) == 1
    assert not found.skipped
    return found.layers[0]


def everywhere(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    samples, positions = layer.positions(x)
    sample = torch.arange(samples).repeat_interleave(positions)
    return sample, torch.arange(positions).repeat(samples)


def adapts(module: nn.Module, x: Tensor) -> None:
    """The defining property, at all positions and at some, in any order."""
    layer = only(module)
    with torch.no_grad():
        y = module(x)
    assert torch.equal(layer.run(x), y)
    matrix = layer.matrix()
    groups, outputs, _ = matrix.shape
    assert matrix.numel() == layer.size == module.weight.numel()
    bias = torch.zeros(groups * outputs) if module.bias is None else module.bias.detach()
    sample, position = everywhere(layer, x)
    assert len(sample) * groups * outputs == y.numel()
    some = torch.randperm(len(sample))[: 1 + len(sample) // 2]
    for chosen in (torch.arange(len(sample)), some):
        X = layer.columns(x, sample[chosen], position[chosen])
        Y = layer.rows(y, sample[chosen], position[chosen])
        assert Y.shape == (groups, len(chosen), outputs)
        expected = X @ matrix.mT + bias.view(groups, 1, outputs)
        torch.testing.assert_close(Y.double(), expected.double(), atol=1e-9, rtol=1e-9)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kernel, dilation, stride, padding = (
        [draw(st.integers(low, high)) for _ in range(dims)]
        for low, high in ((1, 3), (1, 2), (1, 3), (0, 2))
    )
    size = [draw(st.integers(3, 6)) for _ in range(dims)]
    named = draw(st.sampled_from(["same", "valid", None]))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    if named == "same":
        stride = [1] * dims
        sides = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    elif named == "valid":
        sides = [0] * dims
    else:
        sides = [2 * p for p in padding]
    for n, k, d, s in zip(size, kernel, dilation, sides, strict=True):
        assume(n + s >= d * (k - 1) + 1)
        assume((s + 1) // 2 < n)
    module = CONVS[dims](
        groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), tuple(kernel),
        stride=tuple(stride), padding=named or tuple(padding), dilation=tuple(dilation),
        groups=groups, bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip
    return module.double(), torch.randn(draw(st.integers(1, 3)), module.in_channels, *size).double()


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_any_convolution(drawn: tuple[nn.Module, Tensor]) -> None:
    adapts(*drawn)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (4, 2, 3), (4, 2, 5, 3)])
def test_linear(shape: tuple[int, ...], bias: bool) -> None:
    adapts(nn.Linear(3, 5, bias).double(), torch.randn(shape).double())


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_huggingface_conv1d(shape: tuple[int, ...]) -> None:
    module = Conv1D(5, 3).double()
    layer = only(module)
    x = torch.randn(shape).double()
    sample, position = everywhere(layer, x)
    torch.testing.assert_close(layer.run(x), module(x).detach())
    X, Y = layer.columns(x, sample, position), layer.rows(layer.run(x), sample, position)
    torch.testing.assert_close(X @ layer.matrix().mT + module.bias.detach(), Y)


def test_convolution_of_one_sample_and_of_channels_last() -> None:
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2).double()
    adapts(conv, torch.randn(4, 5, 6).double())
    adapts(conv, torch.randn(2, 4, 5, 6).double().to(memory_format=torch.channels_last))


@pytest.mark.parametrize(
    "make",
    [
        partial(nn.Linear, 6, 4),
        partial(nn.Linear, 6, 4, bias=False),
        partial(Conv1D, 4, 6),
        partial(nn.Conv2d, 4, 6, 3, groups=2),
        partial(nn.Conv3d, 2, 4, 2, bias=False),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.MultiheadAttention(4, 2, bias=False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_write_and_read_back(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    module = make().to(dtype)
    for layer in find_layers(module).layers:
        before = layer.matrix().clone()
        layer.write(before, None)
        assert torch.equal(layer.matrix(), before)
        matrix = torch.randn(before.shape)
        groups, outputs, _ = matrix.shape
        bias = torch.randn(groups * outputs)
        layer.write(matrix, bias)
        assert torch.equal(layer.matrix(), matrix.to(dtype))
        assert torch.equal(layer.bias, bias.to(dtype))
    for parameter in module.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.dtype == dtype


def test_projections_are_written_apart() -> None:
    module = nn.MultiheadAttention(4, 2, bias=False)
    layers = find_layers(module).layers
    for value, layer in enumerate(layers):
        layer.write(layer.matrix() * 0 + value, torch.full((4,), 10.0 * value))
    assert [la.matrix().unique().tolist() for la in layers] == [[0], [1], [2], [3]]
    assert module.in_proj_bias.tolist() == [0] * 4 + [10] * 4 + [20] * 4
    assert module.out_proj.bias.tolist() == [30] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_zero_has_a_sign(dtype: torch.dtype) -> None:
    """Not even one that a small number is rounded to: the artifact could not tell it."""
    layer = only(nn.Linear(3, 1).to(dtype))
    layer.write(torch.tensor([[[-0.0, 0.0, -1e-9 if dtype == torch.float16 else -0.0]]]), None)
    assert not layer.weight.signbit().any()


class Twin(nn.Module):
    """Two modules that share a weight."""

    def __init__(self, a: nn.Module, b: nn.Module, *names: str) -> None:
        super().__init__()
        self.a, self.b = a, b
        for name in names or ("weight",):
            setattr(b, name, getattr(a, name))


def test_tied_modules_are_one_layer() -> None:
    model = Twin(nn.Linear(4, 4), nn.Linear(4, 4), "weight", "bias")
    found = find_layers(model)
    assert [(la.name, la.aliases) for la in found.layers] == [("a", ["b"])]
    calls = []

    def handle(layer: Layer, x: Tensor) -> Tensor:
        calls.append(layer.name)
        return layer.run(x)

    with intercepted(found, handle):
        model.b(model.a(torch.ones(1, 4)))
    assert calls == ["a", "a"]


def test_a_new_bias_reaches_every_tied_module() -> None:
    model = Twin(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    layer = find_layers(model).layers[0]
    layer.write(layer.matrix(), torch.arange(4.0))
    assert model.a.bias.tolist() == model.b.bias.tolist() == [0, 1, 2, 3]


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Same(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return super()._conv_forward(*args) * 2


class Masked(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x)[0]


def replaced() -> nn.Module:
    module = nn.Linear(4, 4)
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


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
    "subclass": (lambda: Scaled(4, 4), {"m": "Scaled has a forward of its own"}, 16),
    "conv subclass": (lambda: Same(2, 2, 1), {"m": "Same has a forward of its own"}, 4),
    "replaced forward": (replaced, {"m": "forward"}, 16),
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
    "keys of another size": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        dict.fromkeys(
            [f"m.{n}" for n in ("q_proj_weight", "k_proj_weight", "v_proj_weight",
                                "out_proj.weight")], "kdim"
        ),
        16 + 12 + 20 + 16,
    ),
    "bias_k": (
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
        {"m.in_proj_weight": "bias_k", "m.out_proj.weight": "bias_k"}, 64,
    ),
    "zero attention": (
        lambda: nn.MultiheadAttention(4, 2, add_zero_attn=True),
        {"m.in_proj_weight": "zero", "m.out_proj.weight": "zero"}, 64,
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
    assert list(found.skipped) == list(reasons)
    for name, reason in reasons.items():
        assert reason in found.skipped[name]
    assert found.weights_skipped == weights


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
    assert found.weights_skipped == 16


def test_weight_of_an_attention_shared_with_an_earlier_linear() -> None:
    attention = nn.MultiheadAttention(4, 2)
    linear = nn.Linear(4, 4)
    attention.out_proj.weight = linear.weight
    for order in ([linear, attention], [attention, linear]):
        found = find_layers(nn.ModuleList(order))
        assert not found.layers
        assert len(found.skipped) == 3
        assert found.weights_skipped == 48 + 16


def test_order_is_that_of_registration() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8)
    names = [layer.name for layer in find_layers(model).layers]
    assert names == [*(f"self_attn.{p}" for p in ("q", "k", "v", "out_proj")), "linear1", "linear2"]


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


def compare_attention(module: nn.Module, inputs: tuple[Tensor, ...], options: Any) -> None:
    calls = []

    def handle(layer: Layer, x: Tensor) -> Tensor:
        calls.append(layer.name)
        return layer.run(x)

    with torch.no_grad():
        wanted = module(*inputs, **options)
        with intercepted(find_layers(module), handle):
            got = module(*inputs, **options)
    assert calls == [".q", ".k", ".v", ".out_proj"]
    torch.testing.assert_close(got, wanted)


def test_interception_ends() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2))
    model.eval()
    x = torch.randn(2, 3, 4)
    with torch.inference_mode():
        before = model(x)

    def refuse(layer: Layer, x: Tensor) -> Tensor:
        assert not torch.backends.mha.get_fastpath_enabled()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), intercepted(find_layers(model), refuse):
        model(x)
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any("forward" in vars(m) for m in model.modules())
    with torch.inference_mode():
        assert torch.equal(model(x), before)


def test_hooks_still_run() -> None:
    model = nn.Linear(3, 3)
    seen = []
    model.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    model.register_forward_hook(lambda m, args, out: seen.append(out))
    found: Found = find_layers(model)
    x = torch.ones(1, 3)
    with torch.no_grad(), intercepted(found, lambda layer, x: layer.run(x)):
        out = model(x)
    assert torch.equal(out, nn.functional.linear(x * 2, model.weight, model.bias))
    assert len(seen) == 1


def test_recurrent_layers_are_named() -> None:
    found = find_layers(nn.ModuleDict({"rnn": nn.GRU(3, 4), "cell": nn.LSTMCell(3, 4)}))
    assert not found.layers
    assert set(found.skipped) == {"rnn", "cell"}
    assert found.weights_skipped == 0
