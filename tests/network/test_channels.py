"""Which channels go together, in networks that show each case."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError
from finepruning.network.channels import LAYERS, Channels, Shortcut, find_channels, remove, removed
from shrinking import Branches, Mixed, pictures, residual


def channels_of(model: nn.Module, x: torch.Tensor) -> Channels:
    usable = {n for n, m in model.named_modules() if isinstance(m, LAYERS)}
    return find_channels(model, lambda m: m(x), usable)


def test_a_residual_stream_is_one_group_and_each_inside_of_a_block_another() -> None:
    found = channels_of(residual(), pictures(2))
    by_writers = {frozenset(g.writers): g for g in found.groups}
    stream = by_writers[frozenset({"0", "2.c", "3.c"})]
    assert set(stream.readers) == {"2.a", "3.a", "6"}
    assert set(stream.between) == {"2.nc", "3.nc"}
    assert {frozenset({"2.a"}), frozenset({"2.b"}), frozenset({"3.a"}), frozenset({"3.b"})} < set(
        by_writers
    )
    assert found.left == {"6": "it gives the outputs"}
    assert found.shortcuts == {"2.c": Shortcut("2.a", "2.nc"), "3.c": Shortcut("3.a", "3.nc")}
    assert found.rectified == {
        "0": None, "2.a": "2.na", "2.b": None, "2.c": "2.nc", "3.a": "3.na", "3.b": None,
        "3.c": "3.nc",
    }  # fmt: skip


class After(nn.Module):
    """A layer, and something else behind it."""

    def __init__(self, behind: Callable[[Tensor], Tensor], twice: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.behind, self.twice = behind, twice

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.behind(self.a(x))
        return self.b(self.behind(self.a(y)) if self.twice else y)


@pytest.mark.parametrize(
    ("behind", "rectified"),
    [
        (torch.relu, True),
        (nn.ReLU(), True),
        (nn.ReLU(inplace=True), True),
        (nn.ReLU6(), True),
        (nn.Hardtanh(), False),  # -0.5 is read
        (nn.LeakyReLU(), False),
        (nn.GELU(), False),
        (lambda y: torch.relu(y) + y, False),  # read beside it
        (lambda y: torch.relu(y + 1), False),  # of what was added nothing is known
    ],
)
def test_what_a_rectifier_cuts_off(behind: Callable[[Tensor], Tensor], rectified: bool) -> None:
    found = channels_of(After(behind), torch.randn(4, 6)).rectified
    assert found == ({"a": None} if rectified else {})
    assert channels_of(After(behind, twice=True), torch.randn(4, 6)).rectified == {}


def test_branches_gates_and_depthwise_layers() -> None:
    found = channels_of(Branches(), pictures(2))
    groups = {name: g for g in found.groups for name in g.writers}
    assert groups["one"].channels in (8, 20)  # a branch of the concatenation, or with its gate
    assert set(groups["squeeze"].readers) == {"excite"}
    assert set(groups["last"].readers) == {"head"}
    assert "depthwise" in groups["two"].between


def test_where_channels_mix_they_stay() -> None:
    found = channels_of(Mixed(), torch.randn(3, 6))
    assert {g.name for g in found.groups} >= {"up"}
    reasons = " ".join(found.left.values())
    assert "norm (LayerNorm) mixes its channels" in reasons


def test_grouped_convolutions_and_layers_that_cannot_be_pruned_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1))
    found = channels_of(model, pictures(2))
    assert not found.groups
    assert any("grouped convolution" in why for why in found.left.values())
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    found = find_channels(other, lambda m: m(torch.randn(2, 4)), {"0"})
    assert found.left["0"] == "1 cannot be pruned"


def test_flattened_channels_are_read_by_several_columns() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 9, 2))
    (group,) = channels_of(model, pictures(2, size=3)).groups
    assert group.readers["2"].tolist() == [[*range(9 * c, 9 * c + 9)] for c in range(4)]


def test_parameters_ask_for_gradients_as_before_and_no_hook_stays() -> None:
    model = residual().requires_grad_(False)
    channels_of(model, pictures(2))
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_removed_channels_are_gone_from_all_that_shares_them() -> None:
    model, x = residual(), pictures(2)
    (group,) = (g for g in channels_of(model, x).groups if "0" in g.writers)
    stays = torch.arange(24) % 3 > 0
    remove(model, lambda m: m(x), {group.name: stays})
    assert model(x).shape == (2, 5)
    assert model[2].nc.num_features == model[6].in_features == 16  # type: ignore[union-attr]


def test_a_network_that_cannot_be_followed_is_refused_in_one_line() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.layer(x)

    with pytest.raises(FinepruningError, match="channels: the network cannot be followed"):
        channels_of(Odd(), torch.randn(2, 4))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(FinepruningError, match=r"pip install 'finepruning\[deploy\]'"):
        channels_of(residual(), pictures(2))


def test_outputs_of_a_detector_are_compared_one_by_one() -> None:
    """A list of a dict for each picture, as torchvision's give."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            found = self.body(x).mean((2, 3))
            return [{"boxes": y, "scores": y[:1].sigmoid()} for y in found]

    model, x = Detector(), pictures(2)
    stays = torch.arange(8) % 2 == 0
    model.body[2].weight.data[:, ~stays] = 0
    small, done, left = removed(model, lambda m: m(x), {"body.0": stays})
    assert small.body[0].out_channels == 4  # type: ignore[union-attr]
    assert [*done] == ["body.0"]
    assert not left
    model.body[2].weight.data.fill_(1.0)
    small, done, left = removed(model, lambda m: m(x), {"body.0": stays})
    assert left == {"body.0": "without its channels the network gives something else"}
