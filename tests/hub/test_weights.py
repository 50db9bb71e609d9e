"""Checkpoints that fit, and that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning import FinepruningError, load_model
from finepruning.hub.weights import fit_weights, read_weights


def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path) -> None:
    state = {"module.weight": torch.zeros(2, 3)}
    for i, wrapped in enumerate([state, {"state_dict": state}, {"model": state, "epoch": 3}]):
        torch.save(wrapped, tmp_path / f"{i}.pth")
        model = nn.Linear(3, 2, bias=False)
        fit_weights(model, read_weights(tmp_path / f"{i}.pth"), "x")
        assert not model.weight.any()


class Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code in a checkpoint was run",))


def test_checkpoints_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Danger(), tmp_path / "danger.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.safetensors").write_text("hello, this is not a checkpoint")
    (tmp_path / "text.pt").write_text("hello, this is not a checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    names = ["danger.pt", "list.pt", "text.safetensors", "text.pt", "empty.pt", "none.pt"]
    for name in names:
        with pytest.raises(FinepruningError, match=f"--weights .*{name}: ") as error:
            read_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    assert "was run" not in capsys.readouterr().out


def test_a_checkpoint_that_does_not_fit_says_where() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    state = model.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    bad = {**state, "0.weight": torch.zeros(5, 4), "head.bias": torch.zeros(2)}
    del bad["1.bias"]
    with pytest.raises(FinepruningError) as error:
        fit_weights(model, bad, "w.pt")
    assert str(error.value) == (
        "--weights w.pt: does not fit this model (1 missing: 1.bias (3,);"
        " 1 unexpected: head.bias (2,); 1 of another shape: 0.weight (5, 4) for (3, 4));"
        " give the checkpoint that was made for it"
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_networks_checkpoint(resnet18: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(FinepruningError, match=r"80 missing: .*, \.\.\.\)"):
        load_model("torchvision:resnet34", resnet18[0])


def test_tied_weights_and_old_batchnorm() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "n": nn.BatchNorm1d(3)})
    model["b"].weight = model["a"].weight
    state = {key: torch.ones_like(value) for key, value in model.state_dict().items()}
    del state["b.weight"], state["n.num_batches_tracked"]
    fit_weights(model, state, "w.pt")
    assert model["b"].weight.sum() == 9
