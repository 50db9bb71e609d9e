"""Smaller networks give what those with zeros give, or stay, and say why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from finepruning import FinepruningError, Small, load_small, shrink
from finepruning.network.channels import LAYERS
from saved import reseal
from shrinking import Branches, Mixed, pictures, residual


def blank(model: nn.Module, seed: int, share: float = 0.5) -> None:
    """Some inputs of every layer are read no more."""
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, LAYERS) and getattr(m, "groups", 1) == 1:
            m.weight.data[:, torch.rand(m.weight.shape[1], generator=generator) < share] = 0


def same(small: Small, model: nn.Module, x: Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(small.model(x), model(x), atol=1e-4)


class Random(nn.Module):
    """A network of layers, sums and concatenations drawn at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def number(most: int) -> int:
            return int(torch.randint(most, (), generator=draw))

        self.layers, self.norms, self.ways = nn.ModuleList(), nn.ModuleList(), []
        wide = 3
        for _ in range(2 + number(4)):
            out = wide if number(2) and wide > 3 else 4 + number(8)
            kernel = 1 + 2 * number(2)
            groups = wide if out == wide and number(3) == 0 else 1
            self.layers.append(nn.Conv2d(wide, out, kernel, padding=kernel // 2, groups=groups))
            way = "sum" if out == wide and number(2) else ("concat" if not number(3) else "")
            norm = [nn.BatchNorm2d(out), nn.Identity(), nn.GroupNorm(1, out)][number(3)]
            self.norms.append(norm)
            self.ways.append(way)
            wide = out + wide if way == "concat" else out
        self.head = nn.Linear(wide, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm, way in zip(self.layers, self.norms, self.ways, strict=True):
            y = torch.relu(norm(layer(x)))
            x = {"": y}.get(way, x + y if way == "sum" else torch.cat([x, y], 1) if way else y)
        return self.head(x.mean((2, 3)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_of_any_network_the_small_one_gives_the_same(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Random(seed).eval(), pictures(4, seed)
    blank(model, seed)
    small = shrink(model, x[:2])
    assert same(small, model, x)
    assert small.params <= sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("build", [residual, Branches], ids=["residual", "branches"])
def test_what_nobody_reads_is_gone(build: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), pictures(4)
    if build is residual:
        stream = torch.arange(24) % 2 > 0
        for name in ("2.a", "3.a", "6"):
            model.get_submodule(name).weight.data[:, stream] = 0  # type: ignore[index]
    else:
        model.last.weight.data[:, ::2] = 0  # type: ignore[union-attr, index]
        model.squeeze.weight.data[:, ::2] = 0  # type: ignore[union-attr, index]
    small = shrink(model, x[:2])
    assert same(small, model, x)
    assert sum(small.removed.values()) == {residual: 12, Branches: 10}[build]
    small.save(tmp_path / "small")
    torch.manual_seed(9)
    loaded = load_small(tmp_path / "small", build().eval())
    with torch.no_grad():
        assert torch.equal(loaded(x), small.model(x))
    assert {p.name for p in (tmp_path / "small").iterdir()} == {
        "shapes.json", "weights.safetensors",
    }  # fmt: skip


def test_nothing_unread_changes_nothing() -> None:
    model = residual()
    small = shrink(model, pictures(2))
    assert (small.removed, small.shapes) == ({}, {})
    assert small.model is not model


def test_one_channel_stays_where_none_is_read() -> None:
    model, x = residual(), pictures(4)
    model.get_submodule("2.b").weight.data.zero_()  # type: ignore[operator, union-attr]
    small = shrink(model, x[:2])
    assert small.removed["2.a"] == 15
    assert same(small, model, x)


def test_sizes_that_the_code_has_written_into_it_stay_and_are_named() -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(4, 6)
    model.head.weight.data[:, :3] = 0
    model.down.weight.data[:, :20] = 0
    small = shrink(model, x[:2])
    assert small.removed == {"up": 20}
    assert "the network fails" in small.left["fixed"]
    assert same(small, model, x)


def test_a_layer_that_mixes_in_secret_stays() -> None:
    class Secret(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.softmax(self.a(x), 1))

    torch.manual_seed(0)
    model, x = Secret().eval(), torch.randn(4, 4)
    model.b.weight.data[:, :4] = 0
    small = shrink(model, x[:2])
    assert small.removed == {}
    assert small.left["a"] == "without its channels the network gives something else"


def test_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, values: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"logits": self.b(torch.relu(self.a(values))) * scale}

    model = Named().eval()
    model.b.weight.data[:, :4] = 0
    small = shrink(model, {"values": torch.randn(2, 4), "scale": torch.ones(2, 1)})
    assert small.removed == {"a": 4}


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    model = residual()
    model[6].weight.data[:, :4] = 0  # type: ignore[union-attr, operator, index]
    shrink(model, pictures(2)).save(tmp_path / "small")
    with pytest.raises(FinepruningError, match="not a small network of this architecture"):
        load_small(tmp_path / "small", Branches())
    for wrong in ({"training": 3}, {"forward": 1}, {"out_channels": "x"}, {"nothing": 1}):
        reseal(tmp_path / "small", "shapes.json", shapes={"0": wrong})
        with pytest.raises(FinepruningError, match="not a small network of this architecture"):
            load_small(tmp_path / "small", residual())
    reseal(tmp_path / "small", "shapes.json", format=99)
    with pytest.raises(FinepruningError, match="not of format 2; load it with the version that"):
        load_small(tmp_path / "small", residual())
    with pytest.raises(FinepruningError, match="give the folder that shrink wrote"):
        load_small(tmp_path, residual())


def test_every_bit_of_a_small_network_counts(tmp_path: Path) -> None:
    model = residual()
    model[6].weight.data[:, :4] = 0  # type: ignore[union-attr, operator, index]
    shrink(model, pictures(2)).save(tmp_path / "small")
    for file in [*(tmp_path / "small").iterdir()]:
        whole = file.read_bytes()
        for at in range(0, len(whole), max(len(whole) // 50, 1)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(FinepruningError):
                load_small(tmp_path / "small", residual())
        file.write_bytes(whole)
    load_small(tmp_path / "small", residual())


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="exists already"):
        shrink(residual(), pictures(2)).save(tmp_path)
