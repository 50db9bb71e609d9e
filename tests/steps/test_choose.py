"""The sparsity that is chosen: as much as few answers change by; none where that is too much."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config, Report, personalize
from finepruning.core import fit
from finepruning.steps import prune

K = 6
CENTRES = 3 * torch.randn(K, 8, generator=torch.Generator().manual_seed(1))


class Wide(nn.Sequential):
    """Tells six classes by their nearest centre, with many more weights than that takes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, K))
        x, y = drawn([*range(K)], 600, seed=9)
        optimiser = torch.optim.Adam(self.parameters(), 0.01)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(self(x), y).backward()
            optimiser.step()
        self.requires_grad_(False)


def drawn(classes: list[int], n: int, seed: int = 0, noise: float = 2.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    which = torch.tensor(classes)[torch.randint(0, len(classes), (n,), generator=generator)]
    return CENTRES[which] + noise * torch.randn(n, 8, generator=generator), which


@pytest.fixture(scope="module")
def wide() -> nn.Module:
    return Wide()


def chosen(model: nn.Module, x: Any, **options: Any) -> Report:
    config = Config(**{"task": "classes"} | options)
    return personalize(model, x, config=config, progress=False).report


def test_it_is_the_default_and_is_told(wide: nn.Module) -> None:
    report = chosen(wide, drawn([1, 4], 200)[0])
    choice = report.choice
    assert choice is not None
    assert Config().sparsity == "auto"
    assert choice["sparsity"] is not None, report
    assert report.sparsity == pytest.approx(choice["sparsity"], abs=0.01)
    levels = choice["levels"]
    assert [level["sparsity"] for level in levels] == sorted(lv["sparsity"] for lv in levels)
    assert all(lv["check"]["passed"] for lv in levels if lv["sparsity"] <= choice["sparsity"])
    assert report.check["held"] == 50
    assert report.calibration_samples == 200  # what was held back is fitted to in the end


def test_more_tolerance_is_never_less_sparsity(wide: nn.Module) -> None:
    x, _ = drawn([1, 4], 200)
    found = []
    for tolerance in (0.0, 0.02, 0.05, 0.1, 0.3, 1.0):
        choice = chosen(wide, x, choice=tolerance).choice
        assert choice is not None
        assert choice["tolerance"] == tolerance
        found.append(choice["sparsity"] or 0.0)
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] > 0


def test_where_too_much_changes_the_dense_weights_come_back(wide: nn.Module) -> None:
    x, _ = drawn([*range(K)], 64)
    result = personalize(wide, x, tolerance=0.0, task="classes", progress=False)
    assert not result.report.check["passed"]
    assert "of 100 answers" in result.report.check["reason"]
    assert result.report.choice["sparsity"] is None
    for name, value in wide.state_dict().items():
        assert torch.equal(result.model.state_dict()[name], value)


def test_trying_leaves_no_trace(wide: nn.Module) -> None:
    """The final fit is that of the same sparsity asked for, on all samples."""
    x, _ = drawn([1, 4], 200)
    auto = personalize(wide, x, task="classes", tolerance=0.3, progress=False)
    assert auto.report.choice is not None
    config = Config(task="classes", sparsity=auto.report.choice["sparsity"], check=False)
    fixed = personalize(wide, x, config=config, progress=False)
    assert fixed.report.zeros == auto.report.zeros > 0
    for name, value in auto.model.state_dict().items():
        assert torch.allclose(value, fixed.model.state_dict()[name], atol=1e-3), name


def test_the_published_rule_has_nothing_to_choose_by(wide: nn.Module) -> None:
    report = chosen(wide, drawn([1, 4], 64)[0], effort="paper")
    assert report.choice is None
    assert report.sparsity >= 0.7


@pytest.mark.parametrize("effort", ["best", "fast"])
@pytest.mark.parametrize("task", ["values", "labels"])
def test_outputs_that_are_no_classes(wide: nn.Module, task: str, effort: str) -> None:
    x, _ = drawn([*range(K)], 128)
    report = chosen(wide, x, task=task, effort=effort)
    assert report.check["held"] == 32
    assert report.check["at_most"] >= report.check["changed"] >= 0
    assert report.check["passed"] == (report.check["at_most"] <= Config().choice.tolerance)


class Heads(nn.Module):
    """Gives each step's token, so that there is no last layer of one answer a sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("task", ["tokens", "auto"])
def test_sequences_are_compared_step_by_step(task: str) -> None:
    x = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(0))
    model = Heads()
    result = personalize(model, x, task=task, tolerance=0.2, progress=False)
    check = result.report.check
    assert check["held"] == 16
    if check["passed"]:
        other = (result.model(x).argmax(-1) != model(x).argmax(-1)).float().mean()
        assert task != "tokens" or other < 0.25
    assert result.report.choice["levels"][0]["check"]["changed"] > 0


class Words(nn.Module):
    """Its output is nothing that could be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"words": [str(round(float(v), 3)) for v in self.net(x).sum(1)]}


def test_what_cannot_be_compared_stays_dense_and_says_how_to_ask() -> None:
    result = personalize(Words(), torch.randn(32, 8), progress=False)
    assert result.report.zeros == 0
    assert "give a sparsity" in result.report.check["reason"]
    assert personalize(Words(), torch.randn(32, 8), sparsity=0.5).report.sparsity >= 0.5


@pytest.mark.parametrize("n", [2, 5, 15])
def test_too_few_samples_to_choose_by(wide: nn.Module, n: int) -> None:
    report = chosen(wide, drawn([1, 4], n)[0])
    assert not report.check["passed"]
    assert "too few to tell" in report.check["reason"]


def test_layers_left_alone_bound_what_can_go() -> None:
    """Nine tenths of the weights cannot be pruned: little is left to try, and nothing fails."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 12),
    )  # fmt: skip
    report = chosen(model, torch.randn(64, 3, 6, 6))
    assert report.zeros <= 12 + 96


def test_no_more_than_twice_the_work(wide: nn.Module) -> None:
    x, _ = drawn([1, 4], 400)
    auto = chosen(wide, x)
    fixed = chosen(wide, x, sparsity=0.5, check=False)
    assert auto.forward_passes <= 2.1 * fixed.forward_passes


def test_the_same_seed_chooses_the_same(wide: nn.Module) -> None:
    x, _ = drawn([1, 4], 100)
    one, two = (chosen(copy.deepcopy(wide), x).to_dict() for _ in range(2))
    assert one["choice"]["levels"] == two["choice"]["levels"]


def test_it_serves_the_person(wide: nn.Module) -> None:
    x, _ = drawn([1, 4], 200)
    result = finepruning.personalize(wide, x, task="classes", progress=False)
    new, which = drawn([1, 4], 1000, seed=3)
    right = [float((m(new).argmax(1) == which).float().mean()) for m in (wide, result.model)]
    assert right[1] > right[0]
    assert np.isfinite(right).all()


def test_a_tolerance_and_a_sparsity_are_one_too_many(wide: nn.Module) -> None:
    with pytest.raises(finepruning.FinepruningError, match=r"^tolerance=0\.1: .*leave one out"):
        personalize(wide, drawn([1, 4], 64)[0], sparsity=0.5, tolerance=0.1)


def test_a_final_fit_that_fails_is_not_returned(
    wide: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path was well, and what was made of it is not."""

    def spoilt(W: Tensor, evidence: Any, keep: int, options: Any) -> Any:
        return fit.Solution(-10 * torch.ones_like(W))

    monkeypatch.setattr(prune, "fit", spoilt)
    monkeypatch.setattr(prune.prune, "__kwdefaults__", prune.prune.__kwdefaults__ | {"fit": spoilt})
    result = personalize(wide, drawn([1, 4], 200)[0], task="classes", progress=False)
    assert result.report.choice is not None
    assert result.report.choice["sparsity"] is not None
    assert not result.report.check["passed"]
    assert torch.equal(result.model[0].weight, wide[0].weight)


def test_from_very_few_samples_there_is_no_read_out(wide: nn.Module) -> None:
    for n in (4, 7):
        report = chosen(wide, drawn([1], n, noise=3.5)[0])
        assert not report.readout["applied"] or not report.readout["trust"]
