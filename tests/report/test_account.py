"""The report: its numbers recounted by hand, as JSON and as a text."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

from finepruning import Config, Report
from finepruning.report.text import format_report, summary
from unchecked import personalize

X = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(0))
EFFORTS = ("best", "fast", "paper")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, groups=1, padding=1)
        self.again = nn.Linear(8, 8)
        self.up = nn.ConvTranspose1d(8, 8, 1)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu().flatten(2).mean(2)
        x = self.again(self.again(x).relu()).relu()
        return self.head(self.up(x[..., None])[..., 0])


@pytest.fixture(params=EFFORTS)
def report(request: pytest.FixtureRequest) -> Report:
    return personalize(Net(), X.split(6), sparsity=0.5, effort=request.param).report


def test_numbers(report: Report) -> None:
    weights = {"conv": 216, "again": 64, "head": 40}
    assert {la.name: la.weights for la in report.layers} == weights
    assert report.left_alone.keys() == {"up", "unused"}
    assert all(report.left_alone.values())
    assert report.weights == sum(weights.values())
    assert report.all_weights == report.weights + 64 + 4
    assert report.sparsity_of_all == report.zeros / report.all_weights
    assert report.zeros == sum(la.zeros for la in report.layers)
    assert report.sparsity == report.zeros / report.weights >= 0.5
    assert (report.samples, report.calibration_samples) == (24, 24)
    positions = {"conv": 36, "again": 2, "head": 1}
    assert report.macs["dense"] == sum(weights[n] * p for n, p in positions.items())
    assert report.macs["personal"] == sum(
        (la.weights - la.zeros) * positions[la.name] for la in report.layers
    )
    assert [la.kind for la in report.layers] == ["Conv2d", "Linear", "Linear"]
    assert [la.shape for la in report.layers] == [(8, 3, 3, 3), (8, 8), (5, 8)]
    for layer in report.layers:
        if report.config["effort"] == "paper":
            assert layer.error is None
        else:
            assert layer.error is not None
            assert 0 <= layer.error < 2


def test_costs(report: Report) -> None:
    seconds = report.seconds
    assert all(s >= 0 and math.isfinite(s) for s in seconds.values())
    assert seconds["observe"] + seconds["prune"] <= seconds["total"]
    assert seconds["dense_forward"] <= seconds["observe"]
    assert seconds["solve"] <= seconds["prune"]
    assert report.dense_passes == seconds["total"] / seconds["dense_forward"]
    assert report.forward_passes >= {"paper": 8}.get(report.config["effort"], 2)
    assert report.peak_memory is None or report.peak_memory >= 0


def test_json_and_text(report: Report) -> None:
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["sparsity"] == report.sparsity
    assert data["dense_passes"] == report.dense_passes
    assert Config(**data["config"]) == Config(
        sparsity=0.5, effort=report.config["effort"], check=False
    )
    assert str(report) == summary(data)
    text = format_report(data)
    for word in ("conv", "again", "head", "up", "unused", f"{report.sparsity:.2%}", "24"):
        assert word in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_layer_that_never_varies_has_an_error_that_json_can_hold() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    for effort in EFFORTS:
        report = personalize(model, torch.zeros(8, 4), effort=effort).report
        json.dumps(report.to_dict(), allow_nan=False)
        assert str(report)
