"""Layers whose own class does not call them: a function, or a ``forward`` of their own, does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        first, *after, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5)
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


class Strided(nn.Conv2d):
    """Takes another stride than it says."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, 2)


class Biasless(nn.Conv2d):
    """Would not use the bias that compensation gives it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class Both(nn.Conv2d):
    """As its class, and something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight.sum()


class Reflected(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias)


class Unused(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].expand(-1, 4, -1, -1)


ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another weight": (lambda: Standardised(3, 4, 3), "handed to"),
    "another stride": (lambda: Strided(3, 4, 3), "handed to conv2d"),
    "another bias": (lambda: Biasless(3, 4, 3, bias=False), "handed to conv2d"),
    "another padding": (lambda: Reflected(3, 4, 3, padding=1), "handed to conv2d"),
    "more of it": (lambda: Both(3, 4, 3), "handed to sum"),
    "not used": (lambda: Unused(3, 4, 3), "never called"),
}


@pytest.mark.parametrize("case", ALONE)
def test_what_computes_something_else_is_left_alone(case: str) -> None:
    make, reason = ALONE[case]
    model = net(make())
    result = personalize(model, X, sparsity=0.2)
    why = result.report.left_alone["0"]
    assert f"{type(model[0]).__name__} has a forward of its own" in why
    assert reason in why
    assert [la.name for la in result.report.layers] == ["4"]
    assert torch.equal(result.model[0].weight, model[0].weight)
