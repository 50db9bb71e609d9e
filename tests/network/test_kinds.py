"""The registry: a kind of layer from outside the package is one like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import finepruning
from adapting import adapts
from conforming import Case, compare_reports, run
from finepruning import FinepruningError, Layer
from finepruning.network import kinds
from finepruning.network.find import find_layers
from finepruning.network.kinds import kind_of, register_layer


class Frames(nn.Module):
    """A convolution over time ``(N, T, D)`` whose weight has the kernel's axis first:
    ``(kernel, D, O)``."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(kernel, inputs, outputs) / inputs**0.5)
        self.shift = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1] - len(self.kernel) + 1
        parts = [x[:, k : k + steps] @ w for k, w in enumerate(self.kernel)]
        return torch.stack(parts).sum(0) + self.shift


class FramesLayer(Layer):
    """Its matrix ``(1, O, kernel * D)``, inputs in the order of time."""

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, "kernel", "shift")

    weight_name = "kernel"
    bias_name = "shift"

    def matrix(self) -> Tensor:
        return self.weight.flatten(0, 1).T[None]

    def write(self, matrix: Tensor, bias: Tensor | None) -> None:
        super().write(matrix[0].T, bias)

    def positions(self, x: Tensor) -> tuple[int, int]:
        return x.shape[0], x.shape[1] - len(self.weight) + 1

    def columns(self, x: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        windows = x.unfold(1, len(self.weight), 1)  # (N, T', D, kernel)
        return windows[sample, position].transpose(1, 2).flatten(1)[None]

    def rows(self, y: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        return y[sample, position][None]


class Turned(nn.Module):
    """A linear layer of its own, with its weight as ``(D, O)`` and no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else x @ self.weight + self.bias


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frames, self.turned, self.head = Frames(6, 12, 3), Turned(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.turned(self.frames(x).relu()).relu().mean(1))


class Plain(nn.Module):
    """The same of PyTorch's own modules, for the reference."""

    def __init__(self) -> None:
        super().__init__()
        net = Net()
        self.frames, self.turned = nn.Conv1d(6, 12, 3), nn.Linear(12, 10, bias=False)
        self.frames.weight.data = net.frames.kernel.data.permute(2, 1, 0).contiguous()
        self.frames.bias = net.frames.shift
        self.turned.weight.data = net.turned.weight.data.T.contiguous()
        self.head = net.head

    def forward(self, x: Tensor) -> Tensor:
        x = self.frames(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.turned(x.relu()).relu().mean(1))

    def plain(self, call: Callable[..., Any], x: Any) -> Any:
        x = call("frames", x.swapaxes(1, 2)).swapaxes(1, 2).clip(0)
        return call("head", call("turned", x).clip(0).mean(1))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kinds, "_KINDS", [*kinds._KINDS])
    finepruning.register_layer(Frames)(FramesLayer)

    @finepruning.register_layer(Turned)
    class TurnedLayer(kinds.TransposedLinearLayer):
        pass

    yield
    monkeypatch.undo()
    assert kind_of(Frames(1, 1, 1)) is None


X = torch.randn(40, 9, 6, generator=torch.Generator().manual_seed(2)).double()
OPTIONS: list[dict[str, Any]] = [
    {"effort": "best"}, {"effort": "best", "sparsity": 0.9}, {"effort": "fast"},
    {"effort": "paper", "readout": False},
]  # fmt: skip


def in_own_order(name: str, W: np.ndarray) -> np.ndarray:
    """A matrix of the plain network's, as the layers above lay theirs out."""
    if name != "frames":
        return W
    return W.reshape(1, 12, 6, 3).swapaxes(2, 3).reshape(1, 12, 18)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.usefixtures("registered")
def test_a_kind_from_outside_conforms(options: dict[str, Any], tmp_path: Path) -> None:
    model = Net().double().eval()
    case = Case(Plain(), X)
    with torch.no_grad():
        torch.testing.assert_close(model(X), case.model.eval()(X))
    result = run(model, case.batches(), options)
    wanted = case.wanted(options)
    assert result.report.left_alone == {}
    layers = {layer.name: layer for layer in find_layers(result.model).layers}
    assert list(layers) == list(wanted.network.weights)
    for name, layer in layers.items():
        got, W = layer.matrix().numpy(), in_own_order(name, wanted.network.weights[name].W)
        np.testing.assert_array_equal(got != 0, W != 0)
        np.testing.assert_allclose(got, W, atol=1e-8)
    assert [layer.kind for layer in result.report.layers] == ["Frames", "Turned", "Linear"]
    assert [layer.shape for layer in result.report.layers] == [(3, 6, 12), (12, 10), (5, 10)]
    new = X[case.samples :]
    with torch.no_grad():
        got = result.model(new)
    np.testing.assert_allclose(got.numpy(), wanted.network.forward(new.numpy()), atol=1e-8)
    compare_reports(result.report, wanted, 1e-8)
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model)
    with torch.no_grad():
        # The same weights, bit by bit; laid out otherwise in memory, they may be summed otherwise.
        torch.testing.assert_close(loaded(new), got, rtol=1e-13, atol=1e-13)
    for name, value in result.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.usefixtures("registered")
def test_it_has_the_defining_property() -> None:
    class Named(Frames):
        """With the names that the check looks for."""

        @property
        def bias(self) -> Tensor:
            return self.shift

    adapts(Named(6, 4, 3).double(), torch.randn(2, 7, 6).double())
    adapts(Turned(6, 4).double(), torch.randn(2, 7, 6).double())


def test_what_is_not_registered_is_no_layer() -> None:
    found = find_layers(Net())
    assert [layer.name for layer in found.layers] == ["head"]
    assert sum(found.left.values()) == sum(
        p.numel() for p in Net().parameters() if p.ndim > 1
    ) - sum(layer.size for layer in found.layers)


@pytest.mark.usefixtures("registered")
def test_a_subclass_with_another_forward_is_left_alone() -> None:
    class Louder(Frames):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    found = find_layers(nn.Sequential(Louder(2, 2, 1), Frames(2, 2, 1)))
    assert [layer.name for layer in found.layers] == ["1"]
    assert "Louder has a forward of its own" in found.skipped["0"]


@pytest.mark.usefixtures("registered")
def test_the_one_registered_last_goes_first() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    @register_layer(Scaled)
    class ScaledLayer(finepruning.network.layers.LinearLayer):  # type: ignore[misc,name-defined]
        def matrix(self) -> Tensor:
            return 2 * super().matrix()

        def write(self, matrix: Tensor, bias: Tensor | None) -> None:
            super().write(matrix / 2, None if bias is None else bias / 2)

    model = nn.Sequential(Scaled(6, 8), nn.ReLU(), Scaled(8, 4)).double().eval()
    assert [type(la) for la in find_layers(model).layers] == [ScaledLayer, ScaledLayer]
    same = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double().eval()
    with torch.no_grad():
        for mine, other in zip(model.parameters(), same.parameters(), strict=True):
            other.copy_(2 * mine)
    x = torch.randn(40, 6).double()
    one, two = (finepruning.personalize(m, x, readout=False) for m in (model, same))
    with torch.no_grad():
        torch.testing.assert_close(one.model(x), two.model(x))
    assert one.report.zeros == two.report.zeros


@pytest.mark.parametrize(
    ("base", "layer", "says"),
    [
        (int, FramesLayer, "class of torch.nn.Module"),
        (nn.Linear(2, 2), FramesLayer, "class of torch.nn.Module"),
        (Frames, int, "no subclass of finepruning.Layer"),
        (Frames, FramesLayer("f", Frames(1, 1, 1)), "no subclass of finepruning.Layer"),
    ],
)
def test_what_cannot_be_registered(base: Any, layer: Any, says: str) -> None:
    before = [*kinds._KINDS]
    with pytest.raises(FinepruningError, match=says):
        register_layer(base)(layer)
    assert before == kinds._KINDS
