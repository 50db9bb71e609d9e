"""Checkpoints that fit, and that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
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


# --- Checkpoints as they are found


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net."]
)
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_what_wrappers_put_before_names(prefix: str, form: str, tmp_path: Path) -> None:
    given, model = nn.Linear(3, 2), nn.Linear(3, 2)
    state = {prefix + key: value for key, value in given.state_dict().items()}
    path = tmp_path / f"a.{form}"
    if form == "pth":
        torch.save({"net": {"state_dict": state}, "epoch": 3, "optimizer": {"state": {}}}, path)
    else:
        save_file(state, path)
    fit_weights(model, read_weights(path), path)
    assert torch.equal(model.weight, given.weight)


def test_a_prefix_that_is_the_models_own_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(3, 2)

    given, model = Net(), Net()
    fit_weights(model, given.state_dict(), "x")
    assert torch.equal(model.model.weight, given.model.weight)
    fit_weights(model, {f"model.{k}": v + 1 for k, v in given.state_dict().items()}, "x")
    assert torch.equal(model.model.weight, given.model.weight + 1)


def test_weights_in_several_files(tmp_path: Path) -> None:
    given, model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Sequential(
        nn.Linear(3, 4), nn.Linear(4, 2)
    )  # fmt: skip
    where = {}
    for i in range(2):
        part = {k: v for k, v in given.state_dict().items() if k.startswith(str(i))}
        save_file(part, tmp_path / f"model-{i}.safetensors")
        where |= dict.fromkeys(part, f"model-{i}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    for path in (index, tmp_path):
        fit_weights(model, read_weights(path), path)
        assert torch.equal(model[1].weight, given[1].weight)
    index.write_text(json.dumps({"weight_map": {"a": "../../none.safetensors"}}))
    with pytest.raises(FinepruningError, match=r"none.safetensors: no such file"):
        read_weights(index)
    index.write_text("{")
    with pytest.raises(FinepruningError, match="cannot be read"):
        read_weights(index)


def test_integers_are_no_weights() -> None:
    with pytest.raises(FinepruningError, match=r"weight holds torch.int8.*quantised"):
        fit_weights(nn.Linear(3, 2, False), {"weight": torch.zeros(2, 3, dtype=torch.int8)}, "x")


def test_heads_for_training_alone_are_passed_over() -> None:
    model = nn.Linear(3, 2)
    state = dict(model.state_dict()) | {"aux1.fc.weight": torch.zeros(2, 2)}
    fit_weights(model, state, "x")
