"""Batch norms that follow the person: as plain moments say, and only on another device."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config
from finepruning.data.batches import Batch
from finepruning.network.engine import Engine
from finepruning.network.norms import ChannelMoments, Norm, find_norms, norm_places
from finepruning.steps.norms import Following, NormOptions, following, normalise_anew
from finepruning.steps.observation import ObserveOptions
from finepruning.steps.trace import Trace
from finepruning.steps.watch import Watcher
from passes import batch, engine_of
from unchecked import personalize


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


def watch(net: nn.Module, x: Tensor) -> tuple[Engine, tuple[Norm, ...], dict[str, ChannelMoments]]:
    """What observing sees of the norms, when all samples come in one batch."""
    engine = engine_of(net)
    norms = find_norms(engine.model)
    nothing = Trace({}, {}, 1, None, False, torch.ones(0), "", 0, "")
    watcher = Watcher(nothing, ObserveOptions(), 0, 1.0, engine.device)
    watcher.begin(batch(x), None)
    for _ in engine.stream([batch(x)], norm_places(norms), watcher.watch):
        pass
    return engine, norms, watcher.norm_moments()


def decided(net: nn.Module, x: Tensor, share: float = 0.25, padded: bool = False) -> Following:
    _, norms, seen = watch(net, x)
    return following(norms, seen, NormOptions(share=share), padded=padded)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_each_norm_follows_what_the_ones_before_it_give(
    net: nn.Module, batches: int, share: float
) -> None:
    x, plain = shifted().double(), net.double()
    engine, norms, _ = watch(plain, x)
    normalise_anew(engine, norms, [Batch(part, len(part)) for part in x.chunk(batches)], share)
    ours = engine.model
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
    engine, norms, _ = watch(net, shifted())
    normalise_anew(engine, norms, [Batch(shifted(), 64)], 0.5)
    for model in (net, engine.model):
        assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert not torch.equal(engine.model.body[1].weight, net.body[1].weight)


@pytest.mark.parametrize("other", [False, True])
def test_it_is_the_users_choice(net: nn.Module, other: bool) -> None:
    """Never by itself; but what may be another device is said."""
    x = shifted() if other else torch.randn(64, 3, 8, 8)
    left, followed = decided(net, x, 0.0), decided(net, x, 0.25)
    assert (left.applied, left.reason) == (False, "not asked for")
    assert (followed.applied, followed.reason) == (True, "")
    assert left.shown == followed.shown == other


def test_the_report_recommends_it_on_another_device(net: nn.Module) -> None:
    said = " ".join(str(personalize(net, shifted(), progress=False).report).split())
    assert "--norms 0.25" in said
    assert "--norms" not in str(personalize(net, torch.randn(64, 3, 8, 8)).report)


def test_what_was_asked_for_stays_where_the_dense_weights_are_returned(net: nn.Module) -> None:
    """Nobody has few classes here: nothing is to be gained, but the norms follow all the same."""
    config = Config(norms=0.25, task="classes")
    result = finepruning.personalize(net, shifted(), config=config, progress=False)
    assert not result.report.check["passed"]
    assert result.report.norms["applied"]
    norms = {norm.name for norm in find_norms(net)}
    for name, value in result.model.state_dict().items():
        followed = name.rpartition(".")[0] in norms and name.endswith((".weight", ".bias"))
        assert torch.equal(value, net.state_dict()[name]) != followed


def test_padding_never_counts(net: nn.Module) -> None:
    assert "padding" in decided(net, shifted(), padded=True).reason


def test_norms_never_called_are_passed_over(net: nn.Module) -> None:
    found = following(find_norms(net), {}, NormOptions(share=0.25), padded=False)
    assert found == Following(False, "there are none with statistics", False, 0.0)


def test_chance_is_no_device(net: nn.Module) -> None:
    """Two samples move the means a lot, and say nothing."""
    few = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert decided(net, few).moved < 0.035


def test_numbers_without_positions_are_not_followed() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[1].running_mean += 1
    assert len(find_norms(net)) == 1
    assert decided(net, torch.randn(64, 4)).reason == "there are none with statistics"


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
    assert "none" in decided(net, shifted()).reason


def test_batches_go_where_the_network_is(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    to = Batch.to
    monkeypatch.setattr(Batch, "to", lambda self, device: moved.append(device) or to(self, device))
    engine, norms, _ = watch(net, shifted())
    moved.clear()
    normalise_anew(engine, norms, [Batch(shifted(), 64)], 0.5)
    assert moved == [torch.device("cpu")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(net: nn.Module, dtype: torch.dtype) -> None:
    wanted = personalize(net, shifted(), sparsity=0.0, norms=0.25)
    got = personalize(net.to(dtype), shifted().to(dtype), sparsity=0.0, norms=0.25)
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
            net, shifted(), config=Config(norms=share, neighbours=0, observe={"rank": 0}),
            progress=False,
        )
        .report.forward_passes
        for share in (0.0, 0.25)
    ]  # fmt: skip
    assert passes[1] - passes[0] == pytest.approx(2)


def test_saved_and_loaded_answers_the_same(net: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "me"
    result = personalize(net, shifted(), norms=0.25)
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
    with pytest.raises(finepruning.FinepruningError, match=r"norms\.share="):
        Config(norms=share)
