"""Folders that Hugging Face saved: with a processor and without, trained and not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from finepruning import FinepruningError, load_model


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "cat", 1: "dog", 2: "horse"},
    )
    path = tmp_path_factory.mktemp("hub")
    transformers.ResNetForImageClassification(config).half().save_pretrained(path / "resnet")
    vit = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        num_labels=4,
    )
    transformers.ViTForImageClassification(vit).save_pretrained(path / "vit")
    transformers.ViTModel(vit).save_pretrained(path / "headless")
    (path / "resnet" / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "do_resize": true,'
        ' "size": {"height": 24, "width": 20}, "do_normalize": true,'
        ' "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    return path


def test_hub_folder_with_a_processor(hub_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = load_model(str(hub_folder / "resnet"))
    assert loaded.classes == ("cat", "dog", "horse")
    assert not loaded.assumed
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    x = loaded.preprocess(Image.new("RGB", (50, 40), "white"))
    assert (x.shape, x.dtype) == ((3, 24, 20), torch.float32)
    assert torch.allclose(x, torch.tensor(2.0))
    assert loaded.model(x[None]).logits.shape == (1, 3)
    assert capfd.readouterr() == ("", "")


def test_hub_folder_without_a_processor(hub_folder: Path) -> None:
    loaded = load_model(str(hub_folder / "vit"))
    assert loaded.assumed
    assert loaded.classes is None  # LABEL_0, ... say nothing
    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (3, 32, 32)


def test_hub_folder_with_other_weights(hub_folder: Path, tmp_path: Path) -> None:
    state = load_model(str(hub_folder / "vit")).model.state_dict()
    save_file({key: value + 1 for key, value in state.items()}, tmp_path / "w.safetensors")
    model = load_model(str(hub_folder / "vit"), tmp_path / "w.safetensors").model
    assert all(torch.equal(v, state[key] + 1) for key, v in model.state_dict().items())


def test_hub_folder_without_a_trained_head(hub_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match=r"no weights for classifier\.bias"):
        load_model(str(hub_folder / "headless"))
    with pytest.raises(FinepruningError, match=f"--model {tmp_path}: "):
        load_model(str(tmp_path))
