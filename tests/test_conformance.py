"""The conformance suite: every layer kind x option x effort equals a plain reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers.pytorch_utils import Conv1D

import finepruning
import reference
from conforming import BATCH, CLASSES, SAMPLES, Case, conform, run, settled
from finepruning import Config

# PyTorch's own remark on even kernels; that the pruned network copies too is no news.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

EFFORTS = ("best", "fast", "paper")

# One line for each convolution: dimensions, (inputs, outputs, kernel), keywords.
CONVS: dict[str, tuple[int, tuple[int, int, int], dict[str, Any]]] = {
    "1d": (1, (4, 6, 3), {}),
    "1d-stride-padding-dilation": (1, (4, 6, 3), {"stride": 2, "padding": 2, "dilation": 2}),
    "1d-same-even-kernel": (1, (4, 4, 4), {"padding": "same", "dilation": 2, "bias": False}),
    "1d-reflect": (1, (4, 6, 3), {"padding": 1, "padding_mode": "reflect"}),
    "1d-replicate-groups": (
        1, (4, 6, 3), {"padding": "same", "padding_mode": "replicate", "groups": 2},
    ),
    "1d-depthwise": (1, (4, 4, 3), {"groups": 4}),
    "2d": (2, (3, 4, 3), {}),
    "2d-no-bias": (2, (3, 4, 3), {"bias": False, "padding": 1}),
    "2d-pointwise": (2, (3, 6, 1), {"bias": False}),
    "2d-stride": (2, (3, 4, 3), {"stride": (2, 1), "padding": (1, 0)}),
    "2d-dilation": (2, (3, 4, 2), {"dilation": (1, 3)}),
    "2d-same": (2, (3, 4, 2), {"padding": "same"}),
    "2d-valid": (2, (3, 4, 2), {"padding": "valid"}),
    "2d-groups": (2, (4, 6, 3), {"groups": 2, "padding": 1, "bias": False}),
    "2d-depthwise": (2, (4, 4, 3), {"groups": 4, "stride": 2, "padding": 1}),
    "2d-depthwise-multiplier": (2, (4, 8, 3), {"groups": 4, "bias": False}),
    "2d-reflect": (2, (3, 4, 3), {"padding": (1, 2), "padding_mode": "reflect"}),
    "2d-replicate": (2, (3, 4, 3), {"padding": 1, "padding_mode": "replicate", "stride": 2}),
    "2d-circular": (2, (3, 4, 2), {"padding": "same", "padding_mode": "circular"}),
    "3d": (3, (2, 4, 2), {"stride": (1, 2, 1)}),
    "3d-same-circular": (3, (2, 4, 2), {"padding": "same", "padding_mode": "circular"}),
    "3d-groups": (3, (4, 4, 2), {"groups": 2, "padding": 1, "dilation": 2, "bias": False}),
}  # fmt: skip
SIZES = {1: (9,), 2: (6, 5), 3: (4, 4, 3)}


def conv_net(kind: str) -> tuple[nn.Module, Tensor]:
    dims, (inputs, outputs, kernel), options = CONVS[kind]
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    model = nn.Sequential(
        conv(inputs, outputs, kernel, **options), norm(outputs), nn.ReLU(),
        conv(outputs, 6, 1, bias=False), nn.GELU(), pool(2), nn.Flatten(),
        nn.Linear(6 * 2**dims, CLASSES),
    )  # fmt: skip
    return settled(model), torch.randn(2 * SAMPLES, inputs, *SIZES[dims]).double()


class Toy(nn.Module):
    """A network that also says, for the reference, how its parts are joined.

    ``plain(call, ...)`` is its forward pass; ``call(name, ...)`` runs a part.
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        def call(name: str, *inputs: Any, **options: Any) -> Any:
            out = self.get_submodule(name)(*inputs, **options)
            return out[0] if isinstance(out, tuple) else out

        return self.plain(call, *args, **kwargs)


class MLP(Toy):
    """Linear layers on ``(N, D)`` and on ``(N, L, D)``, with a layer that nobody calls."""

    def __init__(self, bias: bool = True, linear: Callable[..., nn.Module] = nn.Linear) -> None:
        unused = {"unused": nn.Linear(3, 3)} if bias else {}
        super().__init__(
            a=linear(6, 12, bias), b=linear(12, 8, bias), act=nn.GELU(), **unused,
            head=nn.Linear(8, CLASSES, bias),
        )  # fmt: skip

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        x = call("act", call("b", call("act", call("a", x))))
        return call("head", x.mean(1) if x.ndim == 3 else x)


class HuggingFace(MLP):
    def __init__(self) -> None:
        super().__init__(linear=lambda i, o, bias: Conv1D(o, i))
        nn.init.normal_(self.a.weight, 0, 0.5)
        nn.init.normal_(self.b.weight, 0, 0.5)


class Again(Toy):
    """One layer called three times in a forward pass, one called once for each of two inputs."""

    def __init__(self, bias: bool) -> None:
        super().__init__(
            a=nn.Linear(6, 8), b=nn.Linear(8, 8, bias), act=nn.Tanh(), head=nn.Linear(8, CLASSES)
        )

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        x = call("act", call("a", x))
        for _ in range(3):
            x = call("act", call("b", x))
        return call("head", x)


class Tied(Toy):
    """Two modules with one weight (and one bias, or none)."""

    def __init__(self, bias: bool) -> None:
        super().__init__(
            a=nn.Linear(6, 8), b=nn.Linear(8, 8, bias), c=nn.Linear(8, 8, bias),
            act=nn.Tanh(), head=nn.Linear(8, CLASSES),
        )  # fmt: skip
        self.c.weight, self.c.bias = self.b.weight, self.b.bias

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        for part in "abc":
            x = call("act", call(part, x))
        return call("head", x)


class TiedApart(Tied):
    """Three modules with one weight and a bias each: left alone."""

    def __init__(self) -> None:
        super().__init__(True)
        self.add_module("d", nn.Linear(8, 8))
        self.d.weight = self.b.weight
        self.c.bias = nn.Parameter(torch.randn(8))

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        for part in "abcd":
            x = call("act", call(part, x))
        return call("head", x)


class TiedGeometry(Toy):
    """Two convolutions with one weight and another dilation: left alone."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv1d(4, 4, 1), b=nn.Conv1d(4, 4, 3, padding=1, bias=False),
            c=nn.Conv1d(4, 4, 3, padding=2, dilation=2, bias=False),
            flat=nn.Flatten(), head=nn.Linear(20, CLASSES),
        )  # fmt: skip
        self.c.weight = self.b.weight

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        x = call("a", x)
        return call("head", call("flat", call("b", x) + call("c", x)))


class Embedded(Toy):
    """A language model in small: the last layer shares its weight with the embedding."""

    def __init__(self) -> None:
        super().__init__(
            embed=nn.Embedding(9, 8), a=nn.Linear(8, 16), act=nn.ReLU(), b=nn.Linear(16, 8),
            head=nn.Linear(8, 9, bias=False),
        )  # fmt: skip
        self.head.weight = self.embed.weight

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        x = call("embed", x)
        return call("head", x + call("b", call("act", call("a", x))))


class Attention(Toy):
    """Attention of one of three forms, with masks."""

    def __init__(
        self, form: str, *, batch_first: bool = True, bias: bool = True, mask: str = ""
    ) -> None:
        names = "kv" if form == "cross" else ""
        super().__init__(
            embed=nn.Linear(4, 8), **{n: nn.Linear(4, 8) for n in names},
            attend=nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first),
            head=nn.Linear(8, CLASSES),
        )  # fmt: skip
        self.form, self.batch_first = form, batch_first
        masks = {
            "": None,
            "causal": torch.ones(5, 5).triu(1).bool(),
            "added": torch.randn(5, 5).double(),
        }
        self.mask = masks[mask]

    def plain(self, call: Callable[..., Any], x: Any, key_padding_mask: Any = None) -> Any:
        if not self.batch_first:
            x = x.swapaxes(0, 1)
        q = call("embed", x)
        k, v = (call("k", x), call("v", x)) if self.form == "cross" else (q, q)
        mask = self.mask
        if mask is not None and isinstance(x, np.ndarray):
            mask = mask.numpy()
        y = call("attend", q, k, v, attn_mask=mask, key_padding_mask=key_padding_mask)
        return call("head", (q + y).mean(1 if self.batch_first else 0))


class Encoder(Toy):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            embed=nn.Linear(4, 8),
            block=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options),
            head=nn.Linear(8, CLASSES),
        )

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        return call("head", call("block", call("embed", x)).mean(1))


def vectors(*shape: int) -> Tensor:
    return torch.randn(2 * SAMPLES, *shape).double()


def alone(name: str) -> Case:
    """A layer in the middle of a network that is left alone."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "transposed": lambda: nn.ConvTranspose1d(4, 4, 3, padding=2),
    }
    model = nn.Sequential(
        nn.Conv1d(4, 4, 1), nn.ReLU(), layers[name](), nn.Flatten(), nn.Linear(28, CLASSES)
    )
    left = ("2",) if name == "transposed" else ()
    return Case(model, vectors(4, 9), head="4", left_alone=left)


KINDS: dict[str, Callable[[], Case]] = {
    "linear": lambda: Case(MLP(), vectors(6), never=("unused",)),
    "linear-no-bias": lambda: Case(MLP(False), vectors(6)),
    "linear-3d": lambda: Case(MLP(), vectors(4, 6), never=("unused",)),
    "linear-4d-no-bias": lambda: Case(
        nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)),
        vectors(2, 3, 3),
        head="3",
    ),
    "huggingface-conv1d": lambda: Case(HuggingFace(), vectors(3, 6), never=("unused",)),
    "called-again": lambda: Case(Again(True), vectors(6)),
    "called-again-no-bias": lambda: Case(Again(False), vectors(6)),
    "tied": lambda: Case(Tied(True), vectors(6)),
    "tied-no-bias": lambda: Case(Tied(False), vectors(6)),
    "tied-biases-apart": lambda: Case(TiedApart(), vectors(6), left_alone=("b", "c", "d")),
    "tied-geometry-apart": lambda: Case(TiedGeometry(), vectors(4, 5), left_alone=("b", "c")),
    "tied-to-embedding": lambda: Case(
        Embedded(),
        (torch.arange(2 * SAMPLES)[:, None] * 137) // 9 ** torch.arange(4) % 9,  # no two alike
        head=None,
        left_alone=("head",),
    ),
    "attention": lambda: Case(Attention("self"), vectors(5, 4)),
    "attention-no-bias": lambda: Case(Attention("self", bias=False), vectors(5, 4)),
    "attention-batch-second": lambda: Case(
        Attention("self", batch_first=False, mask="causal"), vectors(5, 4)
    ),
    "attention-cross": lambda: Case(Attention("cross"), vectors(5, 4)),
    "attention-causal": lambda: Case(Attention("cross", mask="causal"), vectors(5, 4)),
    "attention-added-mask": lambda: Case(Attention("self", mask="added"), vectors(5, 4)),
    "attention-padding-mask": lambda: Case(
        Attention("self"),
        {
            "x": vectors(5, 4),
            "key_padding_mask": torch.arange(5) >= torch.randint(2, 6, (2 * SAMPLES, 1)),
        },
    ),
    "encoder": lambda: Case(Encoder(), vectors(5, 4)),
    "encoder-norm-first": lambda: Case(Encoder(norm_first=True, activation="gelu"), vectors(5, 4)),
    "transposed": lambda: alone("transposed"),
    **{
        f"conv{kind}": lambda kind=kind: Case(*conv_net(kind), head="7")  # type: ignore[misc]
        for kind in CONVS
    },
}


def make(kind: str, seed: int = 0) -> Case:
    torch.manual_seed(seed)
    return KINDS[kind]()


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind: str, effort: str) -> None:
    case = make(kind)
    conform(case, case.batches(), {"sparsity": 0.5, "effort": effort, "readout": False})


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("readout", [True, False])
@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", ["conv2d", "linear-no-bias", "encoder"])
def test_options(kind: str, effort: str, readout: bool, sparsity: float) -> None:
    case = make(kind, seed=1)
    options = {"sparsity": sparsity, "effort": effort, "readout": readout}
    # Expectation-maximisation on logits rounded to float32 is not reproduced to the last digits.
    conform(case, case.batches(), options, 1e-5 if readout else 1e-8)


@pytest.mark.parametrize("effort", ["best", "fast"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_of_a_closed_world(effort: str, bias: bool) -> None:
    """Outputs that never come up, as the user says, are removed whole; the others keep the more."""
    torch.manual_seed(0)
    head = nn.Linear(12, 8, bias)
    case = Case(nn.Sequential(nn.Linear(3, 12), nn.ReLU(), head), vectors(3), head="2")
    with torch.no_grad():  # 0 and 1 tell the sign of the first input, the others stay far below
        head.weight *= 0.1
        case.model[0].weight[0] = torch.tensor([9.0, 0.1, 0.1])
        case.model[0].weight[1] = torch.tensor([-9.0, 0.1, 0.1])
        case.model[0].weight[2] *= 0.01
        case.model[0].bias[2] = 1
        head.weight[0, 0] = head.weight[1, 1] = 1
        head.weight[2:, 2] = -12
    case.x = case.x.sign() * (case.x.abs() + 0.5)
    for sparsity in (0.0, 0.5):
        options = {"sparsity": sparsity, "effort": effort, "classes": (0, 1)}
        result, _ = conform(case, case.batches(), options, 1e-5)
        assert result.report.readout["closed"] == 6
        assert (result.model[2].weight[2:] == 0).all()


@pytest.mark.parametrize("most", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["linear", "conv2d", "encoder", "attention"])
def test_neighbours(kind: str, most: float) -> None:
    """Samples that lie in a few heaps answer alike, for the most part, and correct each other."""
    case = make(kind, seed=4)
    heaps = torch.randn(6, *case.x.shape[1:]).double()
    case.x = 2 * heaps[torch.arange(2 * SAMPLES) % 6] + 0.5 * case.x
    if kind == "linear":  # so that there is more than one answer
        with torch.no_grad():
            case.model.head.bias -= 2 * case.model(case.x).mean(0)
    result, _ = conform(case, case.batches(), {"sparsity": 0.5, "neighbours": most}, 1e-5)
    found = result.report.neighbours
    assert found["applied"] == (most > 0)
    assert most == 0 or 0 < found["weight"] <= most


def forms(case: Case) -> dict[str, Any]:
    """The same samples in every form that a person may hold them in."""
    batches = case.batches()
    labels = torch.zeros(SAMPLES)

    def once() -> Iterator[Tensor]:
        yield from batches

    return {
        "tensor": case.x[:SAMPLES],
        "array": case.x[:SAMPLES].numpy(),
        "list": batches,
        "tuples": [(b, labels[:BATCH]) for b in batches],
        "arrays": [b.numpy() for b in batches],
        "dicts": [{"input": b, "labels": labels[:BATCH]} for b in batches],
        "generator": once(),
        "loader": DataLoader(TensorDataset(case.x[:SAMPLES], labels), batch_size=7),
        "one-by-one": case.x[:SAMPLES].split(1),
    }


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("form", forms(make("linear")))
def test_data(form: str, effort: str) -> None:
    case = make("conv2d-depthwise", seed=2)
    conform(case, forms(case)[form], {"sparsity": 0.7, "effort": effort}, 1e-5)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", ["linear-3d", "conv2d-groups", "conv1d-reflect", "encoder"])
def test_float32(kind: str, effort: str) -> None:
    case = make(kind, seed=3)
    case.model.float()
    batches = [b.float() for b in case.batches()]
    options = {"sparsity": 0.5, "effort": effort, "readout": False}
    result = run(case.model, batches, options)
    case.model.double()
    wanted = case.wanted(options).network
    got = reference.Network(result.model, case.never)
    for name, w in wanted.weights.items():
        np.testing.assert_array_equal(got.weights[name].W != 0, w.W != 0)
        np.testing.assert_allclose(got.weights[name].W, w.W, atol=2e-3)
    x = case.arrays(new=True)
    with torch.inference_mode():
        out = result.model(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(out, wanted.forward(x), atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_and_gains_are_all_of_it(kind: str, tmp_path: Path) -> None:
    """Whatever the layer, weights of the fit "gains" are the base's times what is stored."""
    case = make(kind)
    base = case.model
    config = Config(sparsity=0.5, fit={"method": "gains"}, check=False, readout=False)
    result = finepruning.personalize(base, case.batches(), config=config, progress=False)
    result.save(tmp_path / "me", values="mask", base=base)
    loaded = finepruning.load(tmp_path / "me", base)
    for name, value in result.model.state_dict().items():
        off = (loaded.state_dict()[name] - value).abs().max()
        assert off <= 2e-3 * value.abs().max(), name
