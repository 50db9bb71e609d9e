"""The folder that is written: all or nothing, back bit for bit, and told apart when damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finepruning._artifact import JSON, TENSORS, fingerprint
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import finepruning
from finepruning import FinepruningError, Result, personalize
from finepruning import _artifact as artifact

X = torch.randn(32, 2, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """With a tied pair, an attention, and layers without bias."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6, bias), nn.Linear(6, 6, bias)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias
        self.attend = nn.MultiheadAttention(6, 2, bias=bias, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        return self.head(self.norm(x + self.attend(x, x, x)[0]).mean(1))


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(
        one[k].dtype == two[k].dtype
        and torch.equal(one[k].view(-1).view(torch.uint8), two[k].view(-1).view(torch.uint8))
        for k in one
    )


@pytest.fixture
def base() -> nn.Module:
    return Net()


@pytest.fixture
def result(base: nn.Module) -> Result:
    return personalize(base, X, sparsity=0.6)


@pytest.fixture
def me(result: Result, tmp_path: Path) -> Path:
    result.save(tmp_path / "me")
    return tmp_path / "me"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("effort", ["best", "fast", "paper"])
def test_back_bit_for_bit(tmp_path: Path, effort: str, bias: bool, dtype: torch.dtype) -> None:
    base = Net(bias).to(dtype)
    result = personalize(base, X.to(dtype), effort=effort, sparsity=0.6)
    before = fingerprint(base)
    result.save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", base)
    assert same_bits(loaded, result.model)
    assert fingerprint(loaded) == fingerprint(result.model)
    assert fingerprint(base) == before == result.base
    with torch.inference_mode():
        assert torch.equal(loaded(X.to(dtype)), result.model(X.to(dtype)))
    assert not loaded.training
    assert loaded.a.weight is loaded.b.weight  # still tied
    assert loaded.a.weight is not base.a.weight


def test_what_is_in_it(me: Path, result: Result) -> None:
    assert sorted(f.name for f in me.iterdir()) == sorted([JSON, TENSORS])
    about = json.loads((me / JSON).read_text())
    assert about["format"] == artifact.FORMAT
    assert about["base"] == result.base
    assert set(about["pruned"]) == {
        "a.weight", "attend.in_proj_weight", "attend.out_proj.weight", "head.weight"
    }  # fmt: skip
    tensors = load_file(me / TENSORS)
    state = result.model.state_dict()
    for name in about["pruned"]:
        mask, values = tensors.pop(f"{name}.mask"), tensors.pop(f"{name}.values")
        bits = np.unpackbits(mask.numpy(), count=state[name].numel())
        assert bits.sum() == len(values) == (state[name] != 0).sum()
        assert torch.equal(values, state[name][state[name] != 0])
    assert set(tensors) == set(about["changed"])
    assert all(torch.equal(tensors[n], state[n]) for n in tensors)
    assert "norm.weight" not in about["changed"]  # what did not change is not stored
    report = finepruning.read_report(me)
    assert report == json.loads(json.dumps(result.report.to_dict()))


def test_a_sparse_artifact_is_small(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 200))
    personalize(model, torch.randn(64, 200), sparsity=0.9, effort="fast").save(tmp_path / "me")
    size = sum(f.stat().st_size for f in (tmp_path / "me").iterdir())
    assert size < 0.2 * 4 * sum(p.numel() for p in model.parameters())


def test_loading_does_not_depend_on_the_mode_it_is_called_in(base: nn.Module, me: Path) -> None:
    with torch.inference_mode():
        loaded = finepruning.load(me, base)
    assert not any(p.is_inference() for p in loaded.parameters())
    assert same_bits(loaded, finepruning.load(me, base.train()))


def test_a_shared_bias_stays_shared(tmp_path: Path) -> None:
    base = Net(bias=True)
    personalize(base, X).save(tmp_path / "me")
    loaded = finepruning.load(tmp_path / "me", base)
    assert loaded.a.bias is loaded.b.bias


@pytest.mark.parametrize("kind", ["folder", "file", "link", "own"])
def test_nothing_is_overwritten(result: Result, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "me"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        result.save(out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FinepruningError, match=f"{out}: exists already; remove") as error:
        result.save(out)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def fail(error: BaseException) -> Callable[..., None]:
    def failing(*args: Any, **kwargs: Any) -> None:
        raise error

    return failing


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (artifact, "save_file", FULL),
        (artifact, "save_file", SafetensorError("I/O error")),
        (Path, "write_text", FULL),
        (os, "rename", OSError(errno.EACCES, "Permission denied")),
        (artifact, "save_file", KeyboardInterrupt()),
        (Path, "write_text", KeyboardInterrupt()),
        (artifact, "save_file", MemoryError()),
    ],
)
def test_nothing_half_written_stays(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    owner: Any, name: str, error: BaseException,
) -> None:  # fmt: skip
    out = tmp_path / "me"
    expected: type[BaseException] = FinepruningError
    if not isinstance(error, OSError | SafetensorError):
        expected = type(error)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail(error))
        with pytest.raises(expected) as raised:
            result.save(out)
    if expected is FinepruningError:
        assert str(raised.value).startswith(f"{out}: cannot be written (")
        assert "; free some space" in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    result.save(out)  # and once there is space again, it works
    assert out.is_dir()


def test_the_disk_fills_while_tensors_are_written(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(tensors: dict[str, Tensor], file: Path) -> None:
        save_file(tensors, file)
        file.write_bytes(file.read_bytes()[:100])
        raise FULL

    monkeypatch.setattr(artifact, "save_file", half)
    with pytest.raises(FinepruningError, match="No space left"):
        result.save(tmp_path / "me")
    assert not list(tmp_path.iterdir())


def test_others_may_read_it(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "me")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "me").stat().st_mode & 0o777 == 0o777 & ~mask
    for file in (tmp_path / "me").iterdir():
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_place_that_is_not_there(result: Result, tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="make it first"):
        result.save(tmp_path / "no" / "where" / "me")
    assert not list(tmp_path.iterdir())


def test_a_relative_path(
    result: Result, base: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result.save("me")
    assert same_bits(finepruning.load("me", base), result.model)
    assert [f.name for f in tmp_path.iterdir()] == ["me"]


# Damage.


def edit_json(**changes: Any) -> Callable[[Path], None]:
    def edit(me: Path) -> None:
        about = json.loads((me / JSON).read_text())
        about.update(changes)
        (me / JSON).write_text(json.dumps({k: v for k, v in about.items() if v is not ...}))

    return edit


def edit_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(me: Path) -> None:
        tensors = load_file(me / TENSORS)
        change(tensors)
        save_file(tensors, me / TENSORS)

    return edit


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda me: (me / name).write_bytes((me / name).read_bytes()[:size])  # type: ignore[return-value]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no folder": lambda me: me.rename(me.with_name("elsewhere")),
    "no json": lambda me: (me / JSON).unlink(),
    "no tensors": lambda me: (me / TENSORS).unlink(),
    "garbage json": lambda me: (me / JSON).write_text("{]"),
    "binary json": lambda me: (me / JSON).write_bytes(b"\xff\xfe\x00"),
    "empty json": lambda me: (me / JSON).write_text(""),
    "other json": lambda me: (me / JSON).write_text("[1, 2]"),
    "truncated json": cut(JSON, 50),
    "truncated tensors": cut(TENSORS, 200),
    "truncated by a byte": lambda me: cut(TENSORS, (me / TENSORS).stat().st_size - 1)(me),
    "empty tensors": cut(TENSORS, 0),
    "later format": edit_json(format=99),
    "no format": edit_json(format=...),
    **{f"no {key}": edit_json(**{key: ...}) for key in ("base", "pruned", "changed", "report")},
    **{f"odd {key}": edit_json(**{key: 3}) for key in ("base", "pruned", "changed", "report")},
    "unknown weight": edit_json(pruned=["nobody.weight"]),
    "weight not a name": edit_json(pruned=[3]),
    "unknown bias": edit_json(changed=["head.nothing"]),
    "a method for a bias": edit_json(changed=["head.forward"]),
    "no mask": edit_tensors(lambda t: t.pop("head.weight.mask")),
    "no values": edit_tensors(lambda t: t.pop("head.weight.values")),
    "no bias": edit_tensors(lambda t: t.pop("head.bias")),
    "short mask": edit_tensors(lambda t: t.update({"head.weight.mask": t["head.weight.mask"][:1]})),
    "long mask": edit_tensors(
        lambda t: t.update({"head.weight.mask": t["head.weight.mask"].repeat(2)})
    ),
    "other mask": edit_tensors(lambda t: t["head.weight.mask"][0].bitwise_xor_(0b10000000)),
    "mask of floats": edit_tensors(
        lambda t: t.update({"head.weight.mask": t["head.weight.mask"].float()})
    ),
    "one value for all": edit_tensors(
        lambda t: t.update({"head.weight.values": t["head.weight.values"][:1].clone()})
    ),
    "values of another type": edit_tensors(
        lambda t: t.update({"head.weight.values": t["head.weight.values"].double()})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told(base: nn.Module, me: Path, damage: str) -> None:
    DAMAGE[damage](me)
    before = fingerprint(base)
    with pytest.raises(FinepruningError) as error:
        finepruning.load(me, base)
    message = str(error.value)
    assert message.startswith(str(me))
    assert "; " in message
    assert "\n" not in message
    assert fingerprint(base) == before


def test_a_bias_of_another_shape_is_told(tmp_path: Path) -> None:
    base = Net(bias=True)
    personalize(base, X).save(tmp_path / "me")
    edit_tensors(lambda t: t.update({"head.bias": t["head.bias"][:2].clone()}))(tmp_path / "me")
    with pytest.raises(FinepruningError, match="damaged"):
        finepruning.load(tmp_path / "me", base)


@pytest.mark.parametrize("damage", ["no json", "garbage json", "later format", "no report"])
def test_damage_is_told_by_inspection(me: Path, damage: str) -> None:
    DAMAGE[damage](me)
    with pytest.raises(FinepruningError) as error:
        finepruning.read_report(me)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.a.weight.data.view(-1)[0].mul_(1.0001),
        lambda m: m.norm.bias.data.add_(1e-6),
        lambda m: m.double(),
        lambda m: m.add_module("more", nn.Linear(1, 1)),
        lambda m: m.register_buffer("more", torch.zeros(1)),
    ],
)
def test_another_base_is_told(me: Path, change: Callable[[nn.Module], object]) -> None:
    other = Net()
    change(other)
    with pytest.raises(FinepruningError, match="another base model; load the weights") as error:
        finepruning.load(me, other)
    assert "\n" not in str(error.value)


def test_fingerprint() -> None:
    """Of names, types, shapes and bits; not of mode, gradients or memory layout."""
    model = nn.Conv2d(3, 4, 3)
    one = fingerprint(model)
    assert len(one) == 64
    model.train().requires_grad_(False)
    assert fingerprint(model) == fingerprint(model.to(memory_format=torch.channels_last)) == one
    odd = nn.Module()
    for name, value in {
        "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3), "flag": torch.tensor([True]),
        "number": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16),
    }.items():  # fmt: skip
        odd.register_buffer(f"a_{name}", value)
    assert fingerprint(odd) != one
    with torch.no_grad():
        model.weight[0, 0, 0, 0] = 0.0
        zero = fingerprint(model)
        model.weight[0, 0, 0, 0] = -0.0
    assert fingerprint(model) != zero
