"""Where the shift of a layer without a bias goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import finepruning
from finepruning import Result
from finepruning.network.find import find_layers
from finepruning.network.shifts import find_norms_behind
from passes import batch, engine_of
from unchecked import personalize

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, 3, 8, 8, generator=GENERATOR)


class Net(nn.Module):
    """Convolutions without a bias before a norm; ``leak`` shows one's outputs to another too."""

    def __init__(self, leak: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.leak = leak
        self.a, self.b = (nn.Conv2d(i, 8, 3, padding=1, bias=False) for i in (3, 8))
        self.na, self.nb = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.c, self.head = nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 4)
        for norm in (self.na, self.nb):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        x = self.na(y).relu()
        x = self.nb(self.b(x)).relu()
        if self.leak:
            x = x + y
        return self.head(self.c(x).relu().mean((2, 3)))


def behind(model: nn.Module) -> dict[str, str]:
    engine = engine_of(model)
    found = find_layers(engine.model)
    find_norms_behind(engine, found, batch(X[:1]))
    names = {id(m): name for name, m in engine.model.named_modules()}
    return {la.name: names[id(la.norm)] for la in found.layers if la.norm is not None}


def test_a_norm_that_sees_all_of_it_takes_it_up() -> None:
    assert behind(Net()) == {"a": "na", "b": "nb"}


def test_what_something_else_sees_too_is_not_moved() -> None:
    assert behind(Net(leak=True)) == {"b": "nb"}


def test_a_norm_of_the_batch_itself_takes_nothing_up() -> None:
    model = Net()
    model.na = nn.BatchNorm2d(8, track_running_stats=False)
    assert behind(model) == {"b": "nb"}


@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
@pytest.mark.parametrize("leak", [False, True])
def test_nothing_is_added_to_the_network(effort: str, leak: bool, tmp_path: Path) -> None:
    model = Net(leak).eval()
    result = personalize(model, X, sparsity=0.5, effort=effort, readout=False)
    assert [*result.model.state_dict()] == [*model.state_dict()]
    assert all(m.bias is None for m in result.model.modules() if isinstance(m, nn.Conv2d))
    Net(leak).load_state_dict(result.model.state_dict())  # the architecture that it came from
    result.save(tmp_path / "me")
    assert torch.equal(finepruning.load(tmp_path / "me", model)(X), result.model(X))


def test_means_are_kept_where_they_can_be() -> None:
    model = Net().eval()

    def means(net: nn.Module) -> Tensor:
        seen: list[Tensor] = []
        net.nb.register_forward_hook(lambda m, args, y: seen.append(y.mean((0, 2, 3))))
        net(X)
        return seen[0].detach()

    dense = means(model)
    personal = means(personalize(model, X, sparsity=0.5, readout=False).model)
    assert torch.allclose(personal, dense, atol=0.02)


def test_what_reads_that_there_is_no_bias_goes_on_reading_it() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, bias=False)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(32 * 6, 5)).eval()
    x = torch.randn(64, 6, 32, generator=GENERATOR)
    result: Result = personalize(model, x, sparsity=0.5)
    with torch.no_grad():
        assert result.model(x).shape == (64, 5)  # by its own forward pass, the fused one too
    assert [*result.model.state_dict()] == [*model.state_dict()]


def test_a_monitor_and_an_update_know_of_it(tmp_path: Path) -> None:
    model = Net().eval()
    result = personalize(model, X, sparsity=0.5)
    assert result.statistics is not None
    assert result.statistics.offsets.keys() == {"a", "b"}
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", model)
    new = torch.randn(32, 3, 8, 8, generator=GENERATOR)
    for net in (result.model, loaded):
        assert not finepruning.monitor(net).see(new).changed
    again = finepruning.update(tmp_path / "me", model, new[:8], progress=False)
    assert (again.model(X) - result.model(X)).square().mean() < 0.2 * model(X).var()
