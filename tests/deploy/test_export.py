"""One file, whose answers are PyTorch's, with labels and preprocessing in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from finepruning import Deployed, FinepruningError, Preprocess, export
from shrinking import Branches, pictures, residual


@pytest.mark.parametrize("build", [residual, Branches], ids=["residual", "branches"])
def test_onnx_gives_the_same_for_any_batch(build: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file = build().eval(), tmp_path / "m.onnx"
    export(model, file, pictures(1), classes=["a", "b"], preprocess=Preprocess(8, 8))
    onnx.checker.check_model(onnx.load(file))
    deployed = Deployed(file, threads=1)
    for n in (1, 2, 7):
        x = pictures(n, seed=n)
        with torch.no_grad():
            assert np.allclose(deployed.run(x.numpy()), model(x), atol=1e-4)
    assert deployed.classes == ["a", "b"]
    assert deployed.preprocess == Preprocess(8, 8)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_inputs_by_name_and_an_output_among_others(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(values) * mask, "loss": values.sum()}

    model, file = Named().eval(), tmp_path / "m.onnx"
    inputs = {"values": torch.randn(3, 4), "mask": torch.ones(3, 1)}
    export(model, file, inputs)
    found = Deployed(file).run({k: v.numpy() for k, v in inputs.items()})
    with torch.no_grad():
        assert np.allclose(found, model(**inputs)["logits"], atol=1e-5)


def test_eight_bits_answer_nearly_the_same_and_are_a_quarter(tmp_path: Path) -> None:
    model = residual(outer=64, inner=64)
    x = pictures(48)
    export(model, tmp_path / "f.onnx", x[:2])
    export(model, tmp_path / "q.onnx", x[:2], int8=x.split(16))
    deployed = Deployed(tmp_path / "q.onnx")
    assert deployed.about["int8"]
    with torch.no_grad():
        wanted = model(pictures(32, 5)).numpy()
    found = deployed.run(pictures(32, 5).numpy())
    assert ((found - wanted) ** 2).mean() < 0.1 * wanted.var(0).mean()
    sizes = [(tmp_path / f).stat().st_size for f in ("q.onnx", "f.onnx")]
    assert sizes[0] < 0.45 * sizes[1]


def test_a_program_runs_without_the_code_that_made_it(tmp_path: Path) -> None:
    model, x = residual(), pictures(5)
    export(model, tmp_path / "m.pt2", x[:2])
    again = torch.export.load(tmp_path / "m.pt2").module()
    with torch.no_grad():
        assert torch.allclose(again(x), model(x), atol=1e-5)


def test_the_network_given_is_untouched(tmp_path: Path) -> None:
    model = residual().train()
    export(model, tmp_path / "m.onnx", pictures(2))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "int8", "said"),
    [
        ("m.tflite", False, "give a name that ends in .onnx or .pt2"),
        ("there.onnx", False, "exists already"),
        ("no/m.onnx", False, "there is no folder"),
        ("m.pt2", True, "int8 is for ONNX Runtime"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    name: str, int8: bool, said: str, tmp_path: Path
) -> None:
    (tmp_path / "there.onnx").write_text("")
    with pytest.raises(FinepruningError, match=said):
        export(residual(), tmp_path / name, pictures(2), int8=[pictures(4)] if int8 else None)


def test_a_network_that_cannot_be_exported_is_refused_in_one_line(tmp_path: Path) -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.mean().item() > 0) if x.sum().item() > 0 else -x

    with pytest.raises(FinepruningError, match=r"PyTorch cannot export this network \(") as error:
        export(Looks(), tmp_path / "m.onnx", torch.randn(2, 4))
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxscript", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FinepruningError, match=r"pip install 'finepruning\[deploy\]'"):
        export(residual(), tmp_path / "m.onnx", pictures(2))
