"""Batch norms that follow the person: as plain moments say, and only on another device."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config, personalize
from finepruning._batches import Batch
from finepruning._norms import Norm, find_norms, normalise_anew, watched, why_kept


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
    with watched(norms):
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
    normalise_anew(net, norms, [Batch(shifted(), 64)], 0.5)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_follows_where_nothing_shows_that_classes_are_missing(net: nn.Module) -> None:
    assert why_kept(watch(net, torch.randn(64, 3, 8, 8)), trust=0.0, padded=False) == ""


def test_few_classes_on_the_same_device_stay_as_they_are(net: nn.Module) -> None:
    assert "few classes" in why_kept(watch(net, torch.randn(64, 3, 8, 8)), 1.0, padded=False)


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
        personalize(net, shifted(), config=Config(norms=share), progress=False)
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
    assert result.report.norms == {"applied": False, "reason": "not asked for"}


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(finepruning.FinepruningError, match="norms="):
        Config(norms=share)
