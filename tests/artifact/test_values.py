"""What is stored of the weights: back to what each kind keeps of them, and no larger than said."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import finepruning
from finepruning import Config, FinepruningError, Result
from finepruning.artifact.layout import TENSORS, VALUES, Values
from finepruning.artifact.sizes import sizes_of
from finepruning.artifact.values import STEPS
from saved import Net, X, reseal, same_bits
from unchecked import personalize

CODED = [kind for kind in VALUES if kind not in ("exact", "mask")]


def transposed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3), nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3),
    ).eval()  # fmt: skip


def made(net: str, **options: object) -> tuple[nn.Module, Result]:
    base = Net(bias=True).eval() if net == "attention" else transposed()
    x = X if net == "attention" else torch.randn(32, 2, 6, 6)
    return base, personalize(base, x, sparsity=0.5, **options)


@pytest.mark.parametrize("net", ["attention", "convolutions"])
@pytest.mark.parametrize("kind", CODED)
def test_back_to_what_is_kept(tmp_path: Path, kind: Values, net: str) -> None:
    base, result = made(net)
    me = tmp_path / "me"
    result.save(me, values=kind, base=base)
    loaded = finepruning.load(me, base)
    for name, right in result.model.state_dict().items():
        value = loaded.state_dict()[name]
        if not any(name.replace("b.", "a.") == p.replace("b.", "a.") for p in result.pruned):
            assert torch.equal(value, right), name
            continue
        rows, stay = right.reshape(len(right), -1), (right != 0).reshape(len(right), -1)
        assert bool((value.reshape(rows.shape)[~stay] == 0).all())
        if kind in ("float16", "bfloat16"):
            assert torch.equal(value, right.to(getattr(torch, kind)).float())
            continue
        off = (value - right).reshape(rows.shape).abs().amax(1)
        step = rows.abs().amax(1) / 127
        if kind == "differences":
            step = ((rows**2).sum(1) / stay.sum(1).clamp_min(1)).sqrt() / STEPS
        assert bool((off <= 0.5001 * step).all())
    # What was loaded is what it is: saved and loaded again it has the same bits.
    assert same_bits(finepruning.load(me, base), loaded)


@pytest.mark.parametrize("method", ["rescale", "gains"])
@pytest.mark.parametrize("net", ["attention", "convolutions"])
def test_a_mask_and_gains(tmp_path: Path, net: str, method: str) -> None:
    base, result = made(net, config=Config(fit={"method": method}, sparsity=0.5))
    me = tmp_path / "me"
    result.save(me, values="mask", base=base)
    loaded = finepruning.load(me, base)
    for name, value in result.model.state_dict().items():
        off = (loaded.state_dict()[name] - value).abs().max()
        assert off <= 2e-3 * value.abs().max(), name
    assert same_bits(finepruning.load(me, base), loaded)


def test_weights_that_are_no_gain_apart_need_values(tmp_path: Path) -> None:
    base, result = made("attention")
    with pytest.raises(FinepruningError, match=r"not the base's times gains; personalise with"):
        result.save(tmp_path / "me", values="mask", base=base)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", ["differences", "mask"])
def test_the_base_is_needed(tmp_path: Path, kind: Values) -> None:
    _, result = made("attention")
    for other in (None, Net()):
        with pytest.raises(FinepruningError, match="needs the network that was personalised"):
            result.save(tmp_path / "me", values=kind, base=other)


def test_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="values='half': give one of exact, float16"):
        made("attention")[1].save(tmp_path / "me", values="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(tmp_path: Path, dtype: torch.dtype) -> None:
    base = Net(bias=True).to(dtype).eval()
    result = personalize(base, X.to(dtype), sparsity=0.5)
    for kind in CODED:
        result.save(tmp_path / kind, values=kind, base=base)
        loaded = finepruning.load(tmp_path / kind, base)
        assert next(loaded.parameters()).dtype == dtype
        assert all(bool(v.isfinite().all()) for v in loaded.state_dict().values())


@pytest.mark.parametrize("kind", [k for k in (*CODED, "mask") if k != "bfloat16"])
def test_damage_with_right_digests_is_told(tmp_path: Path, kind: Values) -> None:
    config = Config(fit={"method": "rescale"}, sparsity=0.5)
    base, result = made("attention", config=config)
    me = tmp_path / "me"
    result.save(me, values=kind, base=base)
    whole = load_file(me / TENSORS)
    for name in [n for n in whole if n.startswith("head.weight")]:
        value = whole[name].numpy()
        for other in (value[:0], value.astype(np.float64), np.repeat(value, 2, 0), value * 0 - 1):
            save_file(whole | {name: torch.from_numpy(other.copy())}, me / TENSORS)
            reseal(me)
            with suppress(FinepruningError):  # nothing but ours; or it may pass
                loaded = finepruning.load(me, base)
                shapes = [p.shape for p in loaded.parameters()]
                assert shapes == [p.shape for p in base.parameters()]


def test_few_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    result = personalize(base, torch.randn(64, 256), sparsity=0.7)
    sizes = {}
    for kind in ("exact", *CODED):
        result.save(tmp_path / kind, values=kind, base=base)
        found = sizes_of(tmp_path / kind)
        sizes[kind] = 8 * found.total / (2 * 256 * 256)
        assert found.kind == kind
        assert 0.5 < 8 * found.mask / (2 * 256 * 256) <= 1.0
    assert sizes["differences"] < sizes["int8"] < sizes["float16"] < 0.56 * sizes["exact"]
    assert sizes["differences"] < 3.0
