"""What one sample shows: calls, positions, bytes, and which layer the logits come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning.network.find import find_layers
from finepruning.steps.trace import Trace, trace
from passes import batch, engine_of

X = torch.randn(40, 3, 6, 5)


def traced(model: nn.Module, x: Tensor) -> Trace:
    engine = engine_of(model)
    return trace(engine, find_layers(engine.model), batch(x))


def test_trace() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(48, 5)
    )
    seen = traced(model, X[:8])
    assert dict(seen.calls) == {"0": 1, "2": 1, "4": 1}
    assert dict(seen.positions) == {"0": 30, "2": 12, "4": 1}
    assert seen.macs(find_layers(model).layers) == 30 * 108 + 12 * 144 + 240
    assert seen.largest == 4 * 30 * (3 + 4)
    assert seen.head is not None
    assert (seen.head.name, seen.outputs, seen.readout_refused) == ("4", 5, "")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.a(x))


class Wrapped(nn.Module):
    """Gives the logits in another form."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.head, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.head(x))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh()), "not the model's output"),
        (Wrapped(lambda y: y.sin_()), "not the model's output"),  # though it is the same tensor
        (Wrapped(lambda y: nn.functional.layer_norm(y, (3,))), "not the model's output"),
        (Wrapped(lambda y: y / y.norm(dim=1, keepdim=True)), "not the model's output"),
        (nn.Sequential(nn.Linear(4, 1)), "single output"),
        (nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1))), "3 dimensions"),
        (Twice(), "not the model's output"),
        (Wrapped(lambda y: {"a": "text"}), "no tensor"),
        (Wrapped(lambda y: ()), "no tensor"),
        (Wrapped(lambda y: y[:, :2]), "not the model's output"),
    ],
)
def test_where_there_is_no_readout(model: nn.Module, reason: str) -> None:
    seen = traced(model, torch.randn(1, 4))
    assert seen.head is None
    assert reason in seen.readout_refused


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (nn.Softmax(1), "softmax"), (nn.LogSoftmax(-1), "log_softmax"), (nn.Sigmoid(), "sigmoid"),
        (nn.Identity(), ""), (nn.Flatten(), ""),
    ],
)  # fmt: skip
def test_what_stands_behind_the_last_layer_is_seen_through(last: nn.Module, end: str) -> None:
    seen = traced(nn.Sequential(nn.Linear(4, 3), last), torch.randn(1, 4))
    assert seen.head is not None
    assert (seen.head.name, seen.end, seen.outputs) == ("0", end, 3)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x.relu())) / 2


class LastToken(nn.Module):
    """Decoders: a number of classes for each token, of which the last one's are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x.expand(5, -1, -1).transpose(0, 1))[:, -1]


@pytest.mark.parametrize(
    ("model", "name", "gain", "end"),
    [
        (Wrapped(lambda y: 2.5 * y + 1), "head", [2.5] * 3, ""),
        (Wrapped(lambda y: (y * torch.tensor([1.0, 2, 3])).softmax(1)), "", [], ""),
        (Wrapped(lambda y: (4 * y).softmax(1)), "head", [4.0] * 3, "softmax"),
        (Wrapped(lambda y: (4 * y).log_softmax(1)), "head", [4.0] * 3, "log_softmax"),
        (Wrapped(lambda y: (y / 2).sigmoid()), "head", [0.5] * 3, "sigmoid"),
        (Wrapped(lambda y: y * torch.tensor([1.0, 2, 3])), "head", [1.0, 2, 3], ""),
        (TwoHeads(), "b", [0.5] * 3, ""),
        (LastToken(), "score", [1.0] * 3, ""),
        (
            nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 1), nn.AdaptiveAvgPool1d(1),
                          nn.Flatten()), "1", [1.0] * 3, "",
        ),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "0", [(1 + 1e-5) ** -0.5] * 3, ""),
        (nn.Linear(4, 3, bias=False), "", [1.0] * 3, ""),
    ],
)  # fmt: skip
def test_the_bias_that_moves_the_outputs(
    model: nn.Module, name: str, gain: list[float], end: str
) -> None:
    seen = traced(model, torch.randn(1, 4))
    assert seen.outputs == len(gain)
    if gain:
        assert seen.head is not None
        assert (seen.head.name, seen.end) == (name, end)
        torch.testing.assert_close(
            seen.gain, torch.tensor(gain, dtype=torch.float64), rtol=1e-3, atol=0
        )


def test_calls_are_counted_and_the_largest_is_of_one_call() -> None:
    seen = traced(Twice(), torch.randn(8, 4))
    assert dict(seen.calls) == {"a": 2}
    assert dict(seen.positions) == {"a": 2}
    assert seen.largest == 4 * (4 + 4)


def test_a_tied_head_that_is_called_twice_is_no_head() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight, self.b.bias = self.a.weight, self.a.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    assert traced(Tied(), torch.randn(2, 4)).head is None
