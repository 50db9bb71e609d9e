"""Recurrent layers in parts are recurrent layers, and each part is fitted as the reference says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import reference
from finepruning.network.find import find_layers
from passes import engine_of, through
from unchecked import personalize

KINDS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *args, **kwargs: nn.RNN(*args, nonlinearity="relu", **kwargs),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", [(1, False), (2, False), (1, True), (3, True)])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_in_parts_it_is_the_same(
    kind: str, batch_first: bool, form: tuple[int, bool], bias: bool
) -> None:
    layers, both = form
    module = KINDS[kind](
        5, 6, layers, batch_first=batch_first, bidirectional=both, bias=bias
    ).double()
    x = torch.randn(4, 7, 5).double() if batch_first else torch.randn(7, 4, 5).double()
    states = torch.randn(layers * (1 + both), 4, 6).double()
    for hx in (None, (states, states.flip(0)) if kind == "lstm" else states):
        with torch.no_grad():
            wanted = module(x, hx)
        got, calls = through(module, {"input": x, "hx": hx})
        assert len(calls) == len(set(calls)) == 2 * layers * (1 + both)
        torch.testing.assert_close(got, wanted)


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = KINDS[kind](6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def states(net: nn.Module, x: Tensor) -> Tensor:
    """The state before each step ``(N, T, H)``, step by step."""
    said = []
    for sample in x:
        h: Any = None
        before = [torch.zeros(8, dtype=x.dtype)]
        for step in sample[:-1]:
            y, h = net.rnn(step[None, None], h)
            before.append(y[0, 0])
        said.append(torch.stack(before))
    return torch.stack(said).detach()


@pytest.mark.parametrize("effort", ["best", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_parts_are_what_the_reference_makes(kind: str, effort: str) -> None:
    model, x = Net(kind).double(), torch.randn(24, 5, 6).double()
    result = personalize(
        model, x.split(8), sparsity=0.5, effort=effort, readout=False, task="values",
    )  # fmt: skip
    assert {la.name: la.weights for la in result.report.layers} == {
        "rnn.ih_l0": model.rnn.weight_ih_l0.numel(), "rnn.hh_l0": model.rnn.weight_hh_l0.numel(),
        "head": 24,
    }  # fmt: skip
    keep = {la.name: la.weights - la.zeros for la in result.report.layers}
    # The states of the dense network, and those with the input's weights pruned already.
    half = Net(kind).double()
    half.load_state_dict(model.state_dict())
    for name in ("weight_ih_l0", "bias_ih_l0"):
        getattr(half.rnn, name).data = getattr(result.model.rnn, name).data
    given = {"ih": (x, x), "hh": (states(model, x), states(half, x))}
    for part, (dense, now) in given.items():
        W = reference.array(getattr(model.rnn, f"weight_{part}_l0"))
        b = reference.array(getattr(model.rnn, f"bias_{part}_l0"))
        assert W is not None
        assert b is not None
        X, D = (t.reshape(1, -1, t.shape[-1]).numpy() for t in (now, dense))
        Y = D @ W.T + b
        arguments = W[None], (D, Y), X, keep[f"rnn.{part}_l0"], None, True
        if effort == "best":
            fitted, _ = reference.compensate(*arguments, 0.3)
        else:
            fitted, _ = reference.rescale(*arguments)
        got = getattr(result.model.rnn, f"weight_{part}_l0").detach().numpy()
        np.testing.assert_allclose(got, fitted.W[0], atol=1e-8)
        bias = getattr(result.model.rnn, f"bias_{part}_l0").detach().numpy()
        np.testing.assert_allclose(bias, fitted.b[0], atol=1e-8)


def test_what_is_packed_is_left_alone_and_named() -> None:
    class Packing(Net):
        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            return self.head(self.rnn(packed)[1][-1])

    model = Packing("gru")
    result = personalize(model, torch.randn(24, 5, 6), sparsity=0.5)
    assert [la.name for la in result.report.layers] == ["head"]
    assert result.report.left_alone.keys() == {"rnn.ih_l0", "rnn.hh_l0"}
    assert result.report.all_weights == sum(p.numel() for p in model.parameters() if p.ndim > 1)


def test_names_at_the_root() -> None:
    engine = engine_of(nn.GRU(3, 4, 2))
    names = [la.name for la in find_layers(engine.model).layers]
    assert names == ["ih_l0", "hh_l0", "ih_l1", "hh_l1"]
