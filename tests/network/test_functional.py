"""Layers whose own class does not call them: a function, or a ``forward`` of their own, does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import finepruning
from unchecked import personalize

X = torch.randn(24, 3, 9, 8, generator=torch.Generator().manual_seed(0))


class Padded(nn.Conv2d):
    """Pads for its input's size, as TensorFlow does: more behind than before."""

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for axis in (1, 0):
            size, k, s = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            missing = max((-(-size // s) - 1) * s + k - size, 0)
            sides += [missing // 2, missing - missing // 2]
        x = F.pad(x, sides)
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Listed(nn.Conv2d):
    """Holds its stride as a list, and hands all on by name."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            F.pad(x, (1, 1, 1, 1)), weight=self.weight, bias=self.bias, stride=[*self.stride],
            groups=self.groups,
        )  # fmt: skip


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Louder(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return 2 * super()._conv_forward(*args)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def net(first: nn.Module, *after: nn.Module, channels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    for p in first.parameters():
        nn.init.normal_(p, std=0.3)
    return nn.Sequential(
        first,
        *after,
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 5),
    )


SEEN: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "pads first": (
        lambda: net(Padded(3, 4, (3, 2), stride=(1, 2))),
        lambda: nn.Sequential(nn.ZeroPad2d((0, 0, 1, 1)), net(nn.Conv2d(3, 4, (3, 2), (1, 2)))),
    ),
    "no bias": (
        lambda: net(Padded(3, 4, 3, bias=False)),
        lambda: net(nn.Conv2d(3, 4, 3, padding=1, bias=False)),
    ),
    "groups, a list, names": (
        lambda: net(Listed(3, 6, 3, groups=3), channels=6),
        lambda: net(nn.Conv2d(3, 6, 3, padding=1, groups=3), channels=6),
    ),
    "more behind": (
        lambda: net(Louder(3, 4, 3)),
        lambda: net(nn.Conv2d(3, 4, 3), Twice()),
    ),
    "linear": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(216, 8), nn.ReLU(), Doubled(8, 6),
                              nn.ReLU(), nn.Linear(6, 5)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(216, 8), nn.ReLU(),
                              nn.Sequential(nn.Linear(8, 6), Twice()), nn.ReLU(), nn.Linear(6, 5)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEEN)
@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_what_its_class_would_compute_is_pruned(case: str, effort: str) -> None:
    own, plain = (make() for make in SEEN[case])
    plain.load_state_dict(dict(zip(plain.state_dict(), own.state_dict().values(), strict=True)))
    assert torch.allclose(own(X), plain(X), atol=1e-6)
    results = [personalize(model, X, effort=effort, sparsity=0.5) for model in (own, plain)]
    a, b = (result.model for result in results)
    assert results[0].report.left_alone == {}
    assert [la.zeros for la in results[0].report.layers] == [
        la.zeros for la in results[1].report.layers
    ]
    assert len(a.state_dict()) == len(b.state_dict())  # a new bias is used by both
    assert torch.allclose(a(X), b(X), atol=1e-4)
    assert torch.allclose(a(X[:3]), b(X[:3]), atol=1e-4)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


class ScaledSame(nn.Conv2d):
    """As normaliser-free networks have it: a gain, standardised rows, and padding as TensorFlow."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * 0.5).view(-1)
        weight = F.batch_norm(flat, None, None, gain, training=True, momentum=0.0)
        x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride)


class Strided(nn.Conv2d):
    """Takes another stride than it says."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, 2)


class Biasless(nn.Conv2d):
    """Would not use a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class Reflected(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias)


def spectral(old: bool) -> nn.Module:
    conv = nn.Conv2d(3, 4, 3)
    return nn.utils.spectral_norm(conv) if old else nn.utils.parametrizations.spectral_norm(conv)


def masked() -> nn.Module:
    return nn.utils.prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.2)


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "standardised": lambda: Standardised(3, 4, 3),
    "a gain, padded": lambda: ScaledSame(3, 4, 2, stride=2),
    "another stride": lambda: Strided(3, 4, 3),
    "another bias": lambda: Biasless(3, 4, 3, bias=False),
    "another padding": lambda: Reflected(3, 4, 3, padding=1),
    "spectral norm": lambda: spectral(False),
    "spectral norm, old": lambda: spectral(True),
    "weight norm, old": lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)),
    "masked": masked,
}


PLAIN = ("standardised", "spectral norm", "spectral norm, old", "weight norm, old", "masked")
"""Those that compute what ``nn.Conv2d`` does, but for its weight."""


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("effort", ["best", "fast"])
@pytest.mark.parametrize("case", COMPUTED)
def test_what_is_computed_is_what_is_sparse(case: str, effort: str, tmp_path: Path) -> None:
    """The product itself is seen, whatever computes it; and its zeros are zeros."""
    model = net(COMPUTED[case]()).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    dense = model(X).detach()
    result = personalize(model, X, sparsity=0.5, effort=effort, readout=False)
    assert [la.name for la in result.report.layers] == ["0", "4"]
    first = result.model[0].weight
    assert int((first == 0).sum()) == result.report.layers[0].zeros > 0
    seen: list[Tensor] = []

    class Effective(TorchFunctionMode):
        """What convolutions are handed in the end."""

        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function is F.conv2d:
                seen.append(args[1])
            return function(*args, **(kwargs or {}))

    with Effective():
        model(X)
        y = result.model(X)
    whole, sparse = seen
    assert int((sparse == 0).sum()) == result.report.layers[0].zeros
    assert (y - dense).square().mean() < dense.var()
    # As if the weight had been stored from the first.
    plain = net(nn.Conv2d(3, 4, whole.shape[2:], bias=model[0].bias is not None))
    plain[0].weight.data = whole.detach().clone()
    plain.load_state_dict(dict(model.state_dict()) | {"0.weight": whole}, strict=False)
    if case in PLAIN:
        control = personalize(plain, X, sparsity=0.5, effort=effort, readout=False)
        assert torch.allclose(control.model[0].weight, sparse, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(X), dense)
    result.save(tmp_path / "me")
    assert torch.equal(finepruning.load(tmp_path / "me", model)(X), y)
    again = finepruning.update(tmp_path / "me", model, X[:8], progress=False)
    assert again.report.sparsity == pytest.approx(0.5, abs=0.05)


def test_what_is_computed_stays_dense_where_nothing_is_gained(tmp_path: Path) -> None:
    model = net(Standardised(3, 4, 3)).eval()
    result = finepruning.personalize(model, X[:4], sparsity=0.5, progress=False)
    assert not result.report.check["passed"]
    assert torch.allclose(result.model(X), model(X), atol=1e-5)
    result.save(tmp_path / "me")
    assert torch.equal(finepruning.load(tmp_path / "me", model)(X), result.model(X))


class Both(nn.Conv2d):
    """As its class, and something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight.sum()


class Twofold(nn.Conv2d):
    """Two convolutions with one weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.conv2d(x, self.weight, stride=2).mean()


class Mixed(nn.Conv2d):
    """Its weight depends on the sample."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * x.mean(), self.bias)


class Unused(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].repeat(1, 4, 1, 1)


ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "more of it": (lambda: Both(3, 4, 3), "handed to a product of another form, add"),
    "two of them": (lambda: Twofold(3, 4, 3), "handed to a product of another form"),
    "of the sample": (lambda: Mixed(3, 4, 3), "handed to mul"),
    "not used": (lambda: Unused(3, 4, 3), "never called"),
}


@pytest.mark.parametrize("case", ALONE)
def test_what_is_no_product_is_left_alone(case: str) -> None:
    make, reason = ALONE[case]
    model = net(make())
    result = personalize(model, X, sparsity=0.2)
    why = result.report.left_alone["0"]
    assert f"{type(model[0]).__name__} has a forward of its own" in why
    assert reason in why
    assert [la.name for la in result.report.layers] == ["4"]
    assert torch.equal(result.model[0].weight, model[0].weight)


class Tokens(nn.Module):
    """A product with a parameter, in one of several ways, among layers that are called."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.a, self.f = way, nn.Linear(6, 12), nn.Linear(16, 5)
        self.w = nn.Parameter(torch.randn(8, 16, 12) if way == "experts" else torch.randn(16, 12))
        if way in ("times", "addmm"):
            self.w = nn.Parameter(torch.randn(12, 16))
        self.qkv = nn.Linear(12, 16)
        self.q_bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x, w = self.a(x).relu(), self.w
        ways: dict[str, Callable[[], Tensor]] = {
            "linear": lambda: F.linear(x, w),
            "turned": lambda: x @ w.T,
            "times": lambda: torch.matmul(x, w),
            "addmm": lambda: torch.addmm(self.f.weight.new_ones(16), x, w),
            "einsum": lambda: torch.einsum("nd,od->no", x, w),
            "parts": lambda: torch.cat([F.linear(x, w[:6]), F.linear(x, w[6:])], 1),
            "chunks": lambda: torch.cat([x @ part.t() for part in w.chunk(2)], 1),
            "experts": lambda: torch.stack([F.linear(x, w[e]) for e in (0, 2, 7)]).mean(0),
            "another bias": lambda: F.linear(
                x, self.qkv.weight, torch.cat([self.q_bias, self.q_bias * 0])
            ),
            "a copy": lambda: F.linear(x, w.clone()),
        }
        return self.f(ways[self.way]().relu())


@pytest.mark.parametrize(
    "way",
    ["linear", "turned", "times", "addmm", "einsum", "parts", "chunks", "experts", "another bias"],
)
@pytest.mark.parametrize("effort", ["best", "fast"])
def test_products_with_parameters_are_layers(way: str, effort: str, tmp_path: Path) -> None:
    model, x = Tokens(way), torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    dense, state = model(x).detach(), {n: v.clone() for n, v in model.state_dict().items()}
    result = personalize(model, x, sparsity=0.5, effort=effort, readout=False)
    report = result.report
    key = "qkv" if way == "another bias" else "w"
    mine = [layer for layer in report.layers if layer.name.partition("[")[0] == key]
    assert len(mine) == {"parts": 2, "chunks": 2, "experts": 3}.get(way, 1)
    w = result.model.qkv.weight if way == "another bias" else result.model.w
    used = w[[0, 2, 7]] if way == "experts" else w
    assert sum(layer.weights for layer in mine) == used.numel()
    assert sum(layer.zeros for layer in mine) == int((used == 0).sum()) > 0
    assert report.all_weights == sum(p.numel() for p in model.parameters() if p.ndim > 1)
    if way == "experts":
        assert torch.equal(w[1], model.w[1])
        assert report.left_alone["w"] == "not all of it is used"
    y = result.model(x)
    assert (y - dense).square().mean() < dense.var()
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())
    assert model.state_dict().keys() == result.model.state_dict().keys()
    result.save(tmp_path / "me")
    assert torch.equal(finepruning.load(tmp_path / "me", model)(x), y)


def test_a_bank_of_which_weights_are_mixed_is_no_layer() -> None:
    """Of zeros in it the weight that is computed with has none."""

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = nn.Parameter(torch.randn(4, 16 * 6) / 6)
            self.route, self.f = nn.Linear(6, 4), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            weights = torch.matmul(self.route(x).softmax(1), self.bank).view(-1, 16, 6)
            mixed = torch.cat([F.linear(one[None], w) for one, w in zip(x, weights, strict=True)])
            return self.f(mixed.relu())

    torch.manual_seed(0)
    result = personalize(Conditional(), torch.randn(64, 6), sparsity=0.5, readout=False)
    assert [la.name for la in result.report.layers] == ["route", "f"]
    assert "Conditional uses by itself" in result.report.left_alone["bank"]


def test_a_copy_of_a_weight_is_no_layer() -> None:
    """What is not the weight itself cannot be written to."""
    result = personalize(Tokens("a copy"), torch.randn(96, 6), sparsity=0.5, readout=False)
    assert "w" in result.report.left_alone


class Transposing(nn.Linear):
    """Falcon's: a product, and its bias added by itself."""

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_that_multiplies_by_itself(bias: bool) -> None:
    models = []
    for kind in (Transposing, nn.Linear):
        torch.manual_seed(0)
        models.append(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), kind(16, 8, bias), nn.Tanh(),
                                    nn.Linear(8, 3)))  # fmt: skip
    x = torch.randn(64, 6)
    one, two = (personalize(m, x, sparsity=0.5, readout=False).model for m in models)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_an_update_takes_no_bias_for_the_layers_that_is_not_added() -> None:
    """Earlier inputs alone, all of them known, are to give what they gave."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.qkv, self.f = nn.Linear(6, 12), nn.Linear(12, 16), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.f(F.linear(self.a(x).relu(), self.qkv.weight, self.qkv.bias * 0).relu())

    model, x = Other(), torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.qkv.bias += 5  # which is not used
    result = personalize(model, x, sparsity=0.3, readout=False)
    again = finepruning.update(result, model, x[:16], progress=False)
    change = (again.model(x) - result.model(x)).square().mean() / model(x).var()
    assert change < 0.05


def test_a_part_is_called_the_same_whichever_others_are_called() -> None:
    """An expert that no sample asks for does not rename the others: an update goes by names."""

    class Experts(nn.Module):
        def __init__(self, called: list[int]) -> None:
            super().__init__()
            self.called = called
            self.experts = nn.Parameter(torch.randn(3, 8, 6))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            parts = [F.linear(x, self.experts[i]) for i in self.called]
            return self.head(torch.stack(parts).sum(0))

    x = torch.randn(32, 6)
    for called in ([0, 1, 2], [1, 2], [2, 0]):
        done = personalize(Experts(called), x, progress=False)
        assert done.statistics is not None
        names = {name for name in done.statistics.inputs if name.startswith("experts")}
        assert names == {f"experts[{i}]" for i in called}
