"""The folder that is written: what is in it, and all or nothing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import finepruning
from finepruning import FinepruningError, Result, personalize
from finepruning.artifact.layout import FORMAT, JSON, STATISTICS, TENSORS
from saved import same_bits


def test_what_is_in_it(me: Path, result: Result) -> None:
    assert sorted(f.name for f in me.iterdir()) == sorted([JSON, STATISTICS, TENSORS])
    about = json.loads((me / JSON).read_text())
    assert about["format"] == FORMAT
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
        (safetensors.torch, "save_file", FULL),
        (safetensors.torch, "save_file", SafetensorError("I/O error")),
        (Path, "write_bytes", FULL),
        (os, "rename", OSError(errno.EACCES, "Permission denied")),
        (safetensors.torch, "save_file", KeyboardInterrupt()),
        (Path, "write_bytes", KeyboardInterrupt()),
        (safetensors.torch, "save_file", MemoryError()),
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

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(FinepruningError, match="No space left"):
        result.save(tmp_path / "me")
    assert not list(tmp_path.iterdir())


def test_others_may_read_it(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path / "me")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "me").stat().st_mode & 0o777 == 0o777 & ~mask
    for file in (tmp_path / "me" / name for name in (JSON, TENSORS)):
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
