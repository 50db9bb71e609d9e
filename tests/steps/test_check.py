"""The check at the end: held-back samples, and the dense weights where nothing is to be gained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config, personalize

K = 6
CENTRES = 3 * torch.randn(K, 8, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    """Tells six classes by their nearest centre, through layers that can be pruned."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, K))
    with torch.no_grad():
        model[0].weight.copy_(torch.cat([torch.eye(8), -torch.eye(8)]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.cat([CENTRES, -CENTRES], 1) / 3)
        model[2].bias.copy_(-CENTRES.square().sum(1) / 6)
    return model


def drawn(classes: list[int], n: int, seed: int = 0, noise: float = 2.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    which = torch.tensor(classes)[torch.randint(0, len(classes), (n,), generator=generator)]
    return CENTRES[which] + noise * torch.randn(n, 8, generator=generator), which


def config(**options: Any) -> Config:
    return Config(**{"task": "classes", "sparsity": 0.7} | options)


def test_who_has_all_classes_gets_the_dense_weights(tmp_path: Path) -> None:
    model, (x, _) = net(), drawn(list(range(K)), 64)
    result = personalize(model, x, config=config(), progress=False)
    check = result.report.check
    assert not check["passed"]
    assert check["held"] == 8
    assert "accuracy is expected to change by" in check["reason"]
    assert "THE DENSE WEIGHTS ARE RETURNED" in str(result.report)
    assert result.report.zeros == sum(int((model[i].weight == 0).sum()) for i in (0, 2))
    assert (result.pruned, result.changed) == ((), ())
    assert not result.report.readout["applied"]
    result.save(tmp_path / "me")
    for kept in (result.model, finepruning.load(tmp_path / "me", model)):
        assert kept.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in kept.state_dict().items())
    unchecked = personalize(model, x, config=config(check=False), progress=False)
    assert unchecked.report.sparsity >= 0.7


def test_who_gains_keeps_the_personal_network() -> None:
    model, (x, _) = net(), drawn([1, 4], 96)
    result = personalize(model, x, config=config(sparsity=0.3), progress=False)
    assert result.report.check["passed"], result.report
    assert result.report.check["gain"] > 0.01
    assert result.report.sparsity >= 0.3
    new, which = drawn([1, 4], 500, seed=1)
    right = [float((m(new).argmax(1) == which).float().mean()) for m in (model, result.model)]
    assert right[1] > right[0] + 0.02


def test_the_read_out_stays_where_the_sparse_network_would_not_help(tmp_path: Path) -> None:
    model, (x, _) = net(), drawn([1, 4], 96)
    result = personalize(model, x, config=config(sparsity=0.97), progress=False)
    report = result.report
    assert not report.check["passed"]
    assert report.readout["applied"]
    assert "DENSE WEIGHTS ARE RETURNED, with the read-out" in str(report)
    assert (result.pruned, result.changed) == ((), ("2.bias",))
    new, which = drawn([1, 4], 500, seed=1)
    right = [float((m(new).argmax(1) == which).float().mean()) for m in (model, result.model)]
    assert right[1] > right[0] + 0.02
    given = model.state_dict()
    result.save(tmp_path / "me")
    for kept in (result.model, finepruning.load(tmp_path / "me", model)):
        different = [k for k, v in kept.state_dict().items() if not torch.equal(v, given[k])]
        assert different == ["2.bias"]


@pytest.mark.parametrize("n", [5, 64])
def test_what_the_user_says_of_the_classes_holds_with_the_dense_weights(n: int) -> None:
    x, _ = drawn(list(range(K)), n)
    result = personalize(net(), x, classes=[0, 1, 2], sparsity=0.97, progress=False)
    assert not result.report.check["passed"]
    assert set(result.model(x).argmax(1).tolist()) <= {0, 1, 2}
    assert result.report.readout["closed"] == 3


def test_what_is_held_back_is_not_fitted_to() -> None:
    """Its inputs changed, without a change of what the read-out sees, nothing else changes."""
    model, (x, _) = net(), drawn([1, 4], 64)
    other = x.clone()
    other[28:32] += 0.5  # the last of the first batch of 32
    options = config(sparsity=0.3, readout=False)
    one, two = (
        personalize(model, data.split(32), config=options, progress=False) for data in (x, other)
    )
    assert one.report.check["held"] == two.report.check["held"] == 8
    for name, value in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[name], value)
    other[0] += 0.5
    changed = personalize(model, other.split(32), config=options, progress=False).model
    assert any(
        not torch.equal(v, changed.state_dict()[k]) for k, v in one.model.state_dict().items()
    )


def singles(x: Tensor) -> Iterator[dict[str, Any]]:
    """One-shot, one sample at a time, and none that can be joined."""
    for row in x:
        yield {"input": row[None], "odd": 1}


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, input: Tensor, odd: int) -> Tensor:
        return self.net(input) * odd / odd


@pytest.mark.parametrize("n", [16, 64, 300])
@pytest.mark.parametrize("size", [1, 7, 300])
def test_about_an_eighth_is_held_back(n: int, size: int) -> None:
    x, _ = drawn([0, 1, 2], n)
    report = personalize(net(), x.split(size), config=config(), progress=False).report
    assert report.check["held"] == min(n // 8, 16)
    assert report.samples == n
    assert report.calibration_samples == n - report.check["held"]


def test_batches_that_cannot_be_cut_are_held_back_whole() -> None:
    x, _ = drawn([0, 1, 2], 40)
    report = personalize(Odd(), singles(x), config=config(), progress=False).report
    assert report.check["held"] in (0, 5)


def test_too_few_to_tell() -> None:
    x, _ = drawn([0, 1, 2], 7)
    report = personalize(net(), x, config=config(), progress=False).report
    assert not report.check["passed"]
    assert "too few to tell" in report.check["reason"]


def test_of_values_only_what_misses_all_is_refused() -> None:
    x, _ = drawn([0, 1, 2], 64)
    good = personalize(net(), x, sparsity=0.3, task="values", progress=False).report
    assert good.check["passed"]
    assert 0 <= good.check["error"] < 1
    assert good.check["gain"] is None
    assert good.sparsity >= 0.3
    torch.manual_seed(0)
    noise = nn.Sequential(
        nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)
    )
    with torch.no_grad():
        noise[0].weight *= 60  # the outputs of near inputs have nothing in common
        noise[2].weight *= 60
    bad = personalize(noise, torch.randn(16, 8), sparsity=0.98, task="values", progress=False)
    assert not bad.report.check["passed"]
    assert bad.report.zeros == 0


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_last_softmax_is_seen_through(last: nn.Module) -> None:
    x, _ = drawn([1, 4], 96)
    plain, ended = (
        personalize(m, x, config=Config(sparsity=0.3, task="classes"), progress=False).report
        for m in (net(), nn.Sequential(*net(), last))
    )
    assert ended.readout["applied"]
    assert ended.readout["trust"] == pytest.approx(plain.readout["trust"], abs=1e-4)
    assert ended.check["gain"] == pytest.approx(plain.check["gain"], abs=1e-3)


def test_the_published_rule_is_not_checked() -> None:
    x, _ = drawn(list(range(K)), 64)
    report = personalize(net(), x, effort="paper", progress=False).report
    assert report.check == {
        "held": 0, "passed": True, "reason": "not asked for", "error": None, "changed": None,
        "at_most": None, "gain": None, "recall": None, "worst": None,
    }  # fmt: skip


def test_the_dense_weights_come_back_where_norms_had_taken_up_shifts() -> None:
    # The norm is folded away and the layer has no bias: the norm's mean takes up the fit's.
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (8, 1)),
        nn.Conv1d(8, 16, 1, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, K),
    ).eval()
    x, _ = drawn(list(range(K)), 64)
    result = personalize(model, x, config=config(sparsity=0.97), progress=False)
    assert not result.report.check["passed"]
    given = model.state_dict()
    assert all(torch.equal(v, given[k]) for k, v in result.model.state_dict().items())
