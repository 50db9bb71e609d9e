"""Whole channels go: what that costs, what stays true, and that it beats going blindly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Config, FinepruningError, shrink
from finepruning.network.channels import LAYERS
from shrinking import Branches, Mixed, pictures, residual


def personal(model: nn.Module, x: Tensor, **wanted: Any) -> finepruning.Result:
    config = Config(structure=wanted, readout=False, check=False)
    return finepruning.personalize(model, [*x.split(16)], config=config, progress=False)


def missed(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        a, b = model(x), other(x)
    return float((a - b).square().mean() / a.var(0).mean())


def smooth(n: int, seed: int) -> Tensor:
    """Pictures with structure, of which a network uses a part."""
    small = torch.randn(n, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, (8, 8), mode="bilinear")


@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_macs_that_were_asked_for_stay(share: float) -> None:
    model = residual()
    result = personal(model, smooth(64, 1), macs=share)
    macs = result.report.macs
    assert share - 0.12 < macs["personal"] / macs["dense"] <= share + 1e-6
    assert missed(model, result.model, smooth(64, 2)) < {0.7: 0.05, 0.4: 0.3}[share]


def test_the_weights_that_were_asked_for_stay() -> None:
    result = personal(Branches().eval(), smooth(64, 1), params=0.6)
    kept = 1 - result.report.sparsity
    assert 0.4 < kept <= 0.6 + 1e-6


def test_what_is_left_is_refitted() -> None:
    """The same channels, weights untouched, miss many times as much."""
    model, x = residual(), smooth(64, 1)
    result = personal(model, x, macs=0.5)
    blind = residual()
    for name, p in blind.named_parameters():
        if p.ndim > 1:
            p.data *= result.model.get_parameter(name) != 0
    new = smooth(64, 2)
    assert missed(model, result.model, new) < 0.3 * missed(model, blind, new)


@pytest.mark.parametrize("build", [residual, Branches], ids=["residual", "branches"])
def test_the_small_network_is_the_one_with_zeros(build: Any) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), smooth(64, 1)
    result = personal(model, x, macs=0.5)
    small = shrink(result.model, x[:2])
    new = smooth(32, 3)
    with torch.no_grad():
        assert torch.allclose(small.model(new), result.model(new), atol=1e-4)
    assert sum(small.removed.values()) > 0
    whole, left = (
        sum(m.weight.numel() for m in net.modules() if isinstance(m, LAYERS))
        for net in (model, small.model)
    )
    assert left < 0.75 * whole


def test_only_what_can_go_goes() -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(64, 6)
    result = personal(model, x, params=0.6)
    small = shrink(result.model, x[:2])
    with torch.no_grad():
        assert torch.allclose(small.model(x), result.model(x), atol=1e-4)
    assert set(small.removed) == {"up"}
    assert any("LayerNorm" in why for why in small.left.values())


def test_shortcuts_are_made_up_for() -> None:
    """Behind a damaged stream the sum is fitted, and not the block's own output."""
    model, x = residual(outer=32, inner=24), smooth(96, 1)
    result = personal(model, x, macs=0.35)
    assert missed(model, result.model, smooth(64, 2)) < 0.35


def test_where_less_can_go_than_was_asked_for_it_says_so() -> None:
    torch.manual_seed(0)
    result = personal(Mixed().eval(), torch.randn(64, 6), params=0.1)
    (said,) = (w for w in result.report.warnings if "were to stay" in w)
    assert said.startswith("10% of the weights were to stay, and ")
    assert not personal(residual(), smooth(48, 1), macs=0.5).report.warnings


def test_who_has_all_classes_is_told_what_it_costs() -> None:
    torch.manual_seed(1)
    x = smooth(96, 1)
    config = Config(structure={"macs": 0.1}, task="classes")
    result = finepruning.personalize(residual(), [*x.split(16)], config=config, progress=False)
    assert any("is not sure to answer as well (" in w for w in result.report.warnings)
    assert result.report.sparsity > 0.5  # it was asked for


def test_the_network_given_is_untouched_and_the_same_bits_come_again() -> None:
    model, x = residual(), smooth(48, 1)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    one, two = personal(model, x, macs=0.5), personal(model, x, macs=0.5)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    pairs = zip(one.model.parameters(), two.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_artifact_gives_the_same_network(tmp_path: Any) -> None:
    model, x = residual(), smooth(48, 1)
    result = personal(model, x, macs=0.5)
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


def test_where_no_channel_can_go_it_says_why() -> None:
    with pytest.raises(FinepruningError, match=r"channels: none can go \(.*it gives the outputs"):
        personal(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval(), pictures(32), macs=0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"structure": {"macs": 0}}, "structure.macs=0: must be above 0"),
        ({"structure": {"macs": 1.5}}, "structure.macs=1.5: must be above 0, and at most 1"),
        ({"structure": {"macs": 0.5, "params": 0.5}}, "macs and params; give one"),
        ({"structure": {"macs": 0.5}, "sparsity": 0.7}, "sparsity=0.7: says how single weights"),
        ({"structure": {"macs": 0.5}, "effort": "fast"}, "effort='fast': says how single weights"),
    ],
)
def test_wishes_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FinepruningError, match=said):
        Config(**given)


def test_an_update_restructures_beside_what_was_kept(tmp_path: Any) -> None:
    model, x = residual(), smooth(64, 1)
    config = Config(structure={"macs": 0.5}, task="classes")
    finepruning.personalize(model, [*x.split(16)], config=config, progress=False).save(
        tmp_path / "me"
    )
    new = [*smooth(32, 2).split(16)]
    result = finepruning.update(tmp_path / "me", model, new, progress=False)
    assert result.report.macs["personal"] <= 0.5 * result.report.macs["dense"]
    assert missed(model, result.model, smooth(64, 3)) < 0.05
    assert shrink(result.model, x[:2]).removed


def test_fitting_to_what_is_read_misses_less() -> None:
    model, x, new = residual(), smooth(64, 1), smooth(128, 2)
    times = [missed(model, personal(model, x, macs=0.5, rectify=k).model, new) for k in (0, 3)]
    assert times[1] < 0.98 * times[0]


def test_the_controls_are_worse() -> None:
    """Channels by magnitude; and only mean and variance brought back."""
    model, x, new = residual(), smooth(64, 1), smooth(128, 2)
    rule = {"rule": "magnitude"}
    ours = missed(model, personal(model, x, macs=0.5).model, new)
    norms = missed(model, personal(model, x, macs=0.5, channels=rule).model, new)
    config = Config(
        structure={"macs": 0.5, "channels": rule}, fit={"method": "rescale"}, readout=False,
        check=False,
    )  # fmt: skip
    alone = finepruning.personalize(model, x, config=config, progress=False)
    assert ours < norms < 0.5 * missed(model, alone.model, new)
