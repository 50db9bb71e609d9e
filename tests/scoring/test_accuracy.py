"""Counting correct answers: intervals, and told the classes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from finepruning import FinepruningError, evaluate, wilson
from finepruning.scoring.accuracy import predict
from speech import Speech, clips

LOGITS = torch.tensor([[0.0, 1, 9], [2, 1, 0], [0, 3, 9], [0, 1, 9]])
LABELS = torch.tensor([1, 0, 1, 0])


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(kn: tuple[int, int]) -> None:
    """Its ends are the p for which k/n lies just z standard deviations away."""
    k, n = kn
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            assert abs(k / n - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / n), rel=1e-6)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses(k: int, n: int) -> None:
    with pytest.raises(FinepruningError, match="wilson"):
        wilson(k, n)


def test_counts_over_all_outputs_and_told_the_classes() -> None:
    result = evaluate(nn.Identity(), [(LOGITS[:3], LABELS[:3]), (LOGITS[3:], LABELS[3:])])
    assert (result.correct, result.n, result.told_correct) == (1, 4, 3)
    assert result.classes == (0, 1)
    assert result.interval == wilson(1, 4)
    assert result.told_interval == wilson(3, 4)
    assert result.to_dict()["accuracy"] == 0.25
    assert json.loads(json.dumps(result.to_dict()))["told_accuracy"] == 0.75


def test_silenced_outputs_are_wrong_answers() -> None:
    logits = torch.full((1, 3), -math.inf)
    logits[0, 2] = 1.0
    assert evaluate(nn.Identity(), [(logits, [0])]).told_correct == 0


class Wrapped(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        if self.kind == "object":
            return SimpleNamespace(logits=x)
        return {"logits": x} if self.kind == "dict" else (x,)


def test_outputs_with_logits_and_inputs_by_keyword() -> None:
    for kind in ("object", "dict", "tuple"):
        batches = [({"x": LOGITS}, LABELS)]
        assert evaluate(Wrapped(kind), batches).correct == 1
    with pytest.raises(FinepruningError, match=r"returned \(2, 3, 4\)"):
        predict(nn.Identity(), torch.zeros(2, 3, 4))


def test_no_graph_no_training_mode_and_flags_put_back() -> None:
    seen: list[tuple[bool, bool]] = []

    class Probe(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(input)

    model = nn.Sequential(Probe(3, 2), nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, [(torch.randn(4, 3), [0, 1, 0, 1])], device="cpu")
    assert seen == [(False, False)]
    assert [m.training for m in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def failing() -> Iterator[tuple[Tensor, list[int]]]:
        yield torch.randn(1, 3), [0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, failing())
    assert [m.training for m in model] == [True, False, True]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no data"),
        ([(LOGITS, [0, 1, 2, 3])], "labels from 0 to 3, but the network has 3 outputs"),
        ([(LOGITS, [0, 1, 2, -1])], "labels from -1"),
        ([(LOGITS, [0, 1])], "one label for each sample"),
        ([(LOGITS * math.nan, LABELS)], "NaN"),
    ],
)
def test_evaluate_refuses(batches: list[Any], message: str) -> None:
    with pytest.raises(FinepruningError, match=message) as error:
        evaluate(nn.Identity(), batches)
    assert "\n" not in str(error.value)


def test_no_progress_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(nn.Identity(), [(LOGITS, LABELS)])
    assert capsys.readouterr() == ("", "")


def test_predict_cuts_too() -> None:
    torch.manual_seed(0)
    model = Speech(norm=True).eval()
    with torch.inference_mode():
        one = torch.cat([predict(model, x) for x in clips(60, False, torch.float32)])
        other = torch.cat([predict(model, x) for x in clips(97, True, torch.float32, 9.0)])
    assert torch.allclose(one, other, atol=1e-6)
