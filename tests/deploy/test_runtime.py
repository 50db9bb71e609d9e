"""What runs on the device: without PyTorch, over a folder, with clear errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from finepruning import Deployed, FinepruningError, Preprocess, export
from finepruning.data.pictures import read_image


class Colours(nn.Module):
    """Answers with the colour of which there is most."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 * x.mean((2, 3))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, colour in enumerate(["red", "lime", "blue"]):
        Image.new("RGB", (30, 20), colour).save(folder / f"{i}.png")
    (folder / "3.png").write_text("no picture")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    names, prepared = ["red", "green", "blue"], Preprocess(16, 8, (0.5,), (0.5,))
    export(Colours(), tmp_path / "m.onnx", torch.randn(2, 3, 8, 8), classes=names,
           preprocess=prepared)  # fmt: skip
    return tmp_path / "m.onnx"


def test_a_folder_of_photos(file: Path, photos: Path) -> None:
    deployed = Deployed(file)
    for batch in (1, 2, 8):
        found = [*deployed.predict(photos, batch)]
        assert [p.name for p in found] == ["red", "green", "blue"]
        assert [p.path.name for p in found] == ["0.png", "1.png", "2.png"]
        assert all(0.9 < p.share <= 1 for p in found)
        assert [(p.name, "not an image" in why) for p, why in deployed.skipped] == [("3.png", True)]


def test_pictures_are_prepared_as_in_pytorch(photos: Path) -> None:
    prepared = Preprocess((12, 14), 10)
    image = read_image(photos / "1.png")
    assert np.array_equal(prepared.pixels(image), prepared(image).numpy())


def test_arrays_where_there_is_no_preprocessing(tmp_path: Path) -> None:
    export(nn.Linear(4, 3).eval(), tmp_path / "m.onnx", torch.randn(2, 4))
    (tmp_path / "x").mkdir()
    for i in range(3):
        np.save(tmp_path / "x" / f"{i}.npy", np.full(4, i, "f4"))
    assert [p.path.name for p in Deployed(tmp_path / "m.onnx").predict(tmp_path / "x")] == [
        "0.npy", "1.npy", "2.npy",
    ]  # fmt: skip


def test_the_command_needs_no_pytorch(file: Path, photos: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'safetensors', 'greenlet', 'tqdm', 'psutil', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        "from finepruning.cli.main import main\n"
        f"sys.exit(main(['run', {str(file)!r}, '--data', {str(photos)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["red", "green", "blue"]
    assert "3.png: not an image" in done.stderr


def test_what_is_no_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FinepruningError, match="there is no such file; give what export wrote"):
        Deployed(tmp_path / "no.onnx")
    (tmp_path / "m.onnx").write_text("nothing")
    with pytest.raises(FinepruningError, match="ONNX Runtime cannot read it"):
        Deployed(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FinepruningError, match="pip install onnxruntime"):
        Deployed(tmp_path / "m.onnx")
