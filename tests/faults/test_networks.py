"""Networks in states that people really bring: right, or refused in one true line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finepruning
from finepruning import FinepruningError
from unchecked import personalize

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(128, 16, generator=GENERATOR)


class Net(nn.Module):
    def __init__(self, buffer: Tensor | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.f = nn.Linear(16, 64), nn.Linear(64, 5)
        self.register_buffer("b", buffer)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.a(x).relu())


# --- Tensors that are none of the usual


ODD: dict[str, Callable[[], Tensor]] = {
    "sparse": lambda: torch.eye(16).to_sparse(),
    "float8": lambda: torch.ones(4).to(torch.float8_e4m3fn),
    "conjugate": lambda: torch.ones(4, dtype=torch.complex64).conj(),
    "negative": lambda: torch.ones(4, dtype=torch.complex64).conj().imag,
    "complex": lambda: torch.ones(4, dtype=torch.complex64),
    "a mask": lambda: torch.full((4, 4), -torch.inf).triu(1),
    "integers": lambda: torch.arange(4),
    "empty": lambda: torch.empty(0),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_buffer_of_any_kind(kind: str, tmp_path: Path) -> None:
    model = Net(ODD[kind]())
    result = personalize(model, X, sparsity=0.5)
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model)
    assert torch.equal(loaded(X), result.model(X))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.ones(4, device="meta"), r"'b' has no values \(meta\)"),
        (lambda: torch.tensor([1.0, torch.nan]), "'b' holds NaN"),
        (lambda: torch.eye(16).to_sparse_csr(), "model: cannot be copied"),
        (lambda: torch.eye(16).to_mkldnn(), "model: cannot be copied"),
    ],
)
def test_a_buffer_that_cannot_be(make: Callable[[], Tensor], reason: str) -> None:
    with pytest.raises(FinepruningError, match=reason):
        personalize(Net(make()), X)


def test_a_weight_that_cannot_be_computed_with_is_left_alone() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight.to(x.dtype), self.bias)

    model = Net()
    odd = Odd(64, 64)
    weight = odd.weight.detach().to(torch.float8_e4m3fn)
    odd.weight = nn.Parameter(weight, requires_grad=False)
    model.f = nn.Sequential(odd, nn.ReLU(), nn.Linear(64, 5))
    result = personalize(model, X, sparsity=0.5)
    assert [la.name for la in result.report.layers] == ["a", "f.2"]
    assert "is of type" in result.report.left_alone["f.0"]


# --- What a forward pass leaves behind


class Moving(nn.Module):
    """Keeps a mean of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.f = nn.Linear(16, 64), nn.Linear(64, 5)
        self.register_buffer("mu", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        self.mu.mul_(0.9).add_(0.1 * x.mean(0))
        return self.f(self.a(x - self.mu).relu())


def test_a_base_that_has_run_meanwhile_is_still_the_base(tmp_path: Path) -> None:
    net = Moving().eval()
    result = personalize(net, X + 3, sparsity=0.5)
    assert not result.model.mu.any()
    assert result.moving == ("mu",)
    result.save(tmp_path / "me")
    with torch.no_grad():
        net(X + 3)
    loaded = finepruning.load(tmp_path / "me", net)
    assert torch.equal(loaded.mu, net.mu)
    assert torch.equal(loaded.a.weight, result.model.a.weight)
    finepruning.update(tmp_path / "me", net, X[:16] + 3, progress=False)
    with torch.no_grad():
        net.a.weight[0, 0] += 1
    with pytest.raises(FinepruningError, match="another base"):
        finepruning.load(tmp_path / "me", net)


def test_a_forward_that_was_patched_on_is_the_copys_own() -> None:
    def inner() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Sequential(nn.Linear(16, 64), nn.ReLU()), nn.Linear(64, 64), nn.ReLU(),
            nn.Linear(64, 5),
        )  # fmt: skip

    net = inner()
    old = net[0].forward
    net[0].forward = lambda z: old(z) * 1.5  # type: ignore[method-assign]
    result = personalize(net, X, sparsity=0.5)
    assert result.report.left_alone == {}
    y = result.model(X)
    with torch.no_grad():
        net[0][0].weight.zero_()
    assert torch.equal(result.model(X), y)
    plain = inner()
    plain[0] = nn.Sequential(plain[0], Scale(1.5))
    assert torch.allclose(personalize(plain, X, sparsity=0.5).model(X), y, atol=1e-4)


class Scale(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


def test_a_hook_that_calls_another_module_calls_the_copys() -> None:
    net = Net()
    extra = nn.Linear(64, 64)
    net.extra = extra
    net.a.register_forward_hook(lambda m, args, y: y + extra(y))
    result = personalize(net, X, sparsity=0.5)
    assert [la.name for la in result.report.layers] == ["a", "f", "extra"]
    y = result.model(X)
    with torch.no_grad():
        extra.weight.zero_()
    assert torch.equal(result.model(X), y)


# --- What takes no single sample


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.f = nn.Linear(16, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (
            self.f(self.a(x).relu()[:, None].squeeze()).view(len(x), 5).sum(1, keepdim=True)
            @ (torch.ones(1, 5))
            if len(x) > 1
            else self.f(x)
        )


SEVERAL: dict[str, Callable[[], nn.Module]] = {
    "squeeze": Squeezed,
    "batch norm": lambda: nn.Sequential(
        nn.Linear(16, 64), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 5)
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_network_that_takes_no_single_sample(kind: str) -> None:
    """It is the network that is told of, not the data."""
    with pytest.raises(
        FinepruningError, match=r"^model: takes \d+ samples at once, but not a sing"
    ):
        personalize(SEVERAL[kind](), X)


def test_the_data_is_blamed_where_it_is_to_blame() -> None:
    with pytest.raises(FinepruningError, match=r"^batches: the model fails on inputs of shape"):
        personalize(Net(), torch.randn(64, 15))


# --- Compiled, scripted, in threads


@pytest.mark.parametrize("part", [False, True])
def test_compiled(part: bool) -> None:
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))
    given: Any = torch.compile(net, backend="eager")
    if part:
        given = nn.Sequential(given)
    result = personalize(given, X, sparsity=0.5)
    assert result.report.sparsity >= 0.5
    assert len(result.report.layers) == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_scripted_children_are_left_alone_and_named() -> None:
    net = Net()
    net.a = torch.jit.script(nn.Linear(16, 64))
    result = personalize(net, X, sparsity=0.5)
    assert [la.name for la in result.report.layers] == ["f"]
    assert "a.weight" in result.report.left_alone
    assert result.report.all_weights == 16 * 64 + 64 * 5


# --- Adapters


def test_adapters_are_to_be_merged_first() -> None:
    class BaseTunerLayer:
        """PEFT's own by its name."""

    class Adapted(nn.Module, BaseTunerLayer):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base_layer = base
            self.lora_A, self.lora_B = nn.Linear(64, 4, False), nn.Linear(4, 64, False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + self.lora_B(self.lora_A(x))

    net = Net()
    net.a = nn.Sequential(net.a, Adapted(nn.Linear(64, 64)))
    report = personalize(net, X, sparsity=0.5).report
    assert [la.name for la in report.layers] == ["a.0", "f"]
    assert {n: "merge it first" in why for n, why in report.left_alone.items()} == dict.fromkeys(
        ["a.1.base_layer", "a.1.lora_A", "a.1.lora_B"], True
    )
    given = copy.deepcopy(net)
    assert report.all_weights == sum(p.numel() for p in given.parameters() if p.ndim > 1)


# --- The budget


@pytest.mark.parametrize("unused", [1, 32, 300])
def test_what_never_runs_makes_the_others_pay_nothing(unused: int) -> None:
    net = Net()
    net.text = nn.Linear(64, unused)
    report = personalize(net, X, sparsity=0.7).report
    assert report.sparsity == pytest.approx(0.7, abs=0.01)
    assert report.weights == 16 * 64 + 64 * 5
    assert report.all_weights == report.weights + 64 * unused
    assert report.left_alone == {"text": "never called on the calibration data"}


def test_what_is_tied_to_an_embedding_makes_the_others_pay_nothing() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.a = nn.Embedding(500, 16), nn.Linear(16, 16)
            self.out = nn.Linear(16, 500, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.a(self.embed(x)).relu())

    report = personalize(Tied(), torch.randint(0, 500, (64, 6)), sparsity=0.4).report
    assert [la.name for la in report.layers] == ["a"]
    assert report.sparsity == pytest.approx(0.4, abs=0.01)
    assert report.all_weights == 500 * 16 + 16 * 16


def test_an_impossible_wish_is_refused_before_the_work() -> None:
    class Never(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("it ran")

    with pytest.raises(FinepruningError, match=r"sparsity=0.9999: .*give 0.998 at most"):
        personalize(Never(), X, sparsity=0.9999)
