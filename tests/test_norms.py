"""Batch norms that follow the person: as plain moments say, and only on another device."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from finepruning._norms import Norm, find_norms, how_far, normalise_anew, watched, why_kept
from torch import Tensor, nn

import finepruning
from finepruning import Config, personalize
from finepruning.data.batches import Batch


class Net(nn.Module):
    """Three blocks, trained (as far as its norms know) on ``N(0, 1)`` images."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 8, 8)
        self.body = nn.Sequential()
        for a, b in pairwise(widths):
            self.body.extend([nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Net().train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net(torch.randn(256, 3, 8, 8))
        for norm in find_norms(net):
            norm.module.weight.uniform_(0.5, 1.5)
            norm.module.bias.uniform_(-0.5, 0.5)
        net.train()(torch.randn(256, 3, 8, 8))
    return net.eval().requires_grad_(False)


def shifted(n: int = 64) -> Tensor:
    return 2 * torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 1


def watch(net: nn.Module, x: Tensor) -> list[Norm]:
    norms = find_norms(net)
    with watched(net, norms):
        net(x)
    return norms


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_each_norm_follows_what_the_ones_before_it_give(
    net: nn.Module, batches: int, share: float
) -> None:
    x, plain = shifted().double(), net.double()
    norms = watch(plain, x)
    ours = copy.deepcopy(plain)
    normalise_anew(
        ours,
        [Norm(n.name, ours.get_submodule(n.name), n.count) for n in norms],
        [Batch(part, len(part)) for part in x.chunk(batches)],
        share,
        torch.device("cpu"),
    )
    for module in plain.body:  # the reference: layer by layer, all samples at once
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            module.running_mean.lerp_(mean, share)
            module.running_var.lerp_(variance, share)
        x = module(x)
    torch.testing.assert_close(ours(shifted().double()), plain(shifted().double()))


def test_only_parameters_change(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.named_buffers()}
    norms = watch(net, shifted())
    normalise_anew(net, norms, [Batch(shifted(), 64)], 0.5, torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_follows_where_nothing_shows_that_classes_are_missing(net: nn.Module) -> None:
    assert why_kept(watch(net, torch.randn(64, 3, 8, 8)), trust=0.0, padded=False) == ""


def test_few_classes_on_the_same_device_stay_as_they_are(net: nn.Module) -> None:
    assert "no sign" in why_kept(watch(net, torch.randn(64, 3, 8, 8)), 1.0, padded=False)


def test_few_classes_on_another_device_follow(net: nn.Module) -> None:
    assert why_kept(watch(net, shifted()), 1.0, padded=False) == ""


def test_padding_never_counts(net: nn.Module) -> None:
    assert "padding" in why_kept(watch(net, shifted()), 0.0, padded=True)


def test_folded_or_untrained_statistics_are_no_norms() -> None:
    assert find_norms(Net()) == []
    assert find_norms(nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.LayerNorm(3))) == []
    assert find_norms(nn.BatchNorm1d(3, track_running_stats=False)) == []


def test_norms_never_called_are_passed_over(net: nn.Module) -> None:
    assert why_kept(find_norms(net), 0.0, padded=False) == "there are none with statistics"


def test_chance_is_no_device(net: nn.Module) -> None:
    """Two samples move the means a lot, and say nothing."""
    few = watch(net, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
    assert how_far(few) < 0.035


def test_numbers_without_positions_are_not_followed() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[1].running_mean += 1
    with watched(net, norms := find_norms(net)):
        net(torch.randn(64, 4))
    assert len(norms) == 1
    assert why_kept(norms, 0.0, padded=False) == "there are none with statistics"


class Twice(nn.Module):
    """Calls its one norm twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.norm.running_mean.add_(1)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.norm(x)))


def test_a_norm_that_is_called_twice_is_not_followed() -> None:
    net = Twice().eval()
    assert "none" in why_kept(watch(net, shifted()), 0.0, padded=False)


def test_norms_that_compute_something_else_are_left_alone(net: nn.Module) -> None:
    class Other(nn.BatchNorm2d):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return scale * super().forward(x)

    class BatchNormAct2d(nn.BatchNorm2d):  # timm's
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    for norm, followed in ((Other(3), False), (BatchNormAct2d(3), True)):
        norm.running_mean.add_(1)  # type: ignore[union-attr]
        assert bool(find_norms(norm)) == followed
    one, two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    one.running_mean.add_(1)  # type: ignore[union-attr]
    two.weight = one.weight
    assert find_norms(nn.Sequential(one, two)) == []
    one = nn.BatchNorm2d(3, affine=True)
    one.running_mean.add_(1)  # type: ignore[union-attr]
    one.bias = None
    assert find_norms(one) == []


def test_batches_go_where_the_network_is(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    to = Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, device: moved.append(device) or to(self, device))
    normalise_anew(net, watch(net, shifted()), [Batch(shifted(), 64)], 0.5, torch.device("cpu"))
    assert moved == [torch.device("cpu")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(net: nn.Module, dtype: torch.dtype) -> None:
    wanted = personalize(net, shifted(), sparsity=0.0, progress=False)
    got = personalize(net.to(dtype), shifted().to(dtype), sparsity=0.0, progress=False)
    assert got.report.norms["applied"]
    assert all(p.dtype == dtype for p in got.model.parameters())
    x = shifted()
    torch.testing.assert_close(
        got.model(x.to(dtype)).float(), wanted.model(x), atol=0.05, rtol=0.05
    )


def test_another_device_is_met(net: nn.Module) -> None:
    """On noisier, brighter images the network answers again as it does on its own."""
    clean = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    other = 2 * clean + 1
    wanted = net(clean)[128:]
    error = {}
    for share in (0.0, 0.5):
        config = Config(sparsity=0.0, norms=share, readout=False)
        result = personalize(net, other[:128], config=config, progress=False)
        error[share] = float((result.model(other[128:]) - wanted).square().mean())
        assert result.report.norms["applied"] == (share > 0)
    assert error[0.5] < 0.7 * error[0.0]


def test_two_more_passes_are_accounted(net: nn.Module) -> None:
    passes = [
        personalize(
            net, shifted(), config=Config(norms=share, neighbours=0), progress=False
        )
        .report.forward_passes
        for share in (0.0, 0.25)
    ]  # fmt: skip
    assert passes[1] - passes[0] == pytest.approx(2)


def test_saved_and_loaded_answers_the_same(net: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "me"
    result = personalize(net, shifted(), progress=False)
    assert result.report.norms["applied"]
    result.save(folder)
    loaded = finepruning.load(folder, net)
    assert torch.equal(loaded(shifted()), result.model(shifted()))


def test_off_for_the_published_rule(net: nn.Module) -> None:
    result = personalize(net, shifted(), effort="paper", progress=False)
    assert not result.report.norms["applied"]
    assert result.report.norms["reason"] == "not asked for"


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(finepruning.FinepruningError, match="norms="):
        Config(norms=share)
