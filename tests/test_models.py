"""Models by name, checkpoints that fit and that do not, preprocessing that comes along."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from finepruning._data import Preprocess
from finepruning._models import fit_weights, load_model, read_weights
from finepruning._resnet import resnet
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from finepruning._errors import FinepruningError

USER_CODE = """
import helper
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

def pair():
    return net().train(), helper.preprocess

def broken():
    raise KeyError("weights")

def wrong():
    return 3
"""


@pytest.fixture
def user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text("def preprocess(image):\n    return 'prepared'\n")
    (tmp_path / "mine.py").write_text(USER_CODE)
    return tmp_path / "mine.py"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    state = resnet("resnet18", 7).half().state_dict()
    path = tmp_path_factory.mktemp("resnet") / "half.safetensors"
    save_file(state, path)
    return path, state


# torchvision


def test_torchvision_name_with_weights_needs_no_torchvision(
    resnet18: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    path, state = resnet18
    loaded = load_model("torchvision:resnet18", path)
    assert not loaded.model.training
    assert loaded.preprocess == Preprocess()
    own = loaded.model.state_dict()
    assert own["fc.weight"].dtype == torch.float32
    assert all(torch.equal(own[key].to(value.dtype), value) for key, value in state.items())


def test_never_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FinepruningError, match=r"needs torchvision.*--weights FILE"):
        load_model("torchvision:resnet50")
    with pytest.raises(FinepruningError, match="pip install timm"):
        load_model("timm:vit_tiny_patch16_224")


def test_with_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with torchvision's interface: the real one is not always importable."""
    preset = SimpleNamespace(
        resize_size=[20],
        crop_size=[16],
        mean=[0.5, 0.5, 0.5],
        std=[0.1, 0.2, 0.3],
        interpolation=SimpleNamespace(value="bicubic"),
    )
    weights = SimpleNamespace(transforms=lambda: preset, meta={"categories": ["cat", "dog"]})

    class Enumeration(list[Any]):
        DEFAULT = weights

    def get_model(name: str, weights: Any = None) -> nn.Module:
        if name != "tiny":
            raise ValueError(f"Unknown model {name}")
        return nn.Linear(3, 2)

    models = SimpleNamespace(
        get_model_weights=lambda name: Enumeration([weights]), get_model=get_model
    )
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(models=models))
    loaded = load_model("torchvision:tiny")
    assert loaded.classes == ("cat", "dog")
    assert loaded.preprocess == Preprocess(
        20, 16, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3), interpolation="bicubic"
    )
    with pytest.raises(FinepruningError, match="Unknown model resnet_of_mine"):
        load_model("torchvision:resnet_of_mine")


# timm


def test_with_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stand-in with timm's interface."""
    config = {
        "input_size": (3, 64, 64),
        "crop_pct": 0.5,
        "crop_mode": "center",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
    }
    made: list[tuple[bool, int]] = []

    def create_model(name: str, pretrained: bool, num_classes: int = 10) -> nn.Module:
        made.append((pretrained, num_classes))
        model: Any = nn.Sequential()
        model.head = nn.Linear(4, num_classes)
        model.pretrained_cfg, model.num_classes = {"classifier": "head"}, num_classes
        return model

    data = SimpleNamespace(
        resolve_model_data_config=lambda model: config,
        create_transform=lambda **options: "timm's own",
    )
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, data=data))
    half = ((0.5,) * 3,) * 2
    assert load_model("timm:x").preprocess == Preprocess(128, 64, *half, 3, "bicubic")
    assert made == [(True, 10)]
    config["crop_mode"] = "squash"
    assert load_model("timm:x").preprocess == Preprocess((128, 128), 64, *half, 3, "bicubic")
    config["crop_mode"] = "border"
    assert load_model("timm:x").preprocess == "timm's own"
    # A checkpoint with a head of another size, as after fine-tuning.
    weights = tmp_path / "w.safetensors"
    save_file({"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)}, weights)
    assert load_model("timm:x", weights).model.head.out_features == 3
    assert made[-1] == (False, 3)


# The user's own function


def test_user_function(user_file: Path) -> None:
    loaded = load_model(f"{user_file}:net")
    assert loaded.assumed
    assert loaded.preprocess == Preprocess()
    loaded = load_model(f"{user_file}:pair")
    assert not loaded.assumed
    assert not loaded.model.training
    assert loaded.preprocess(Image.new("RGB", (2, 2))) == "prepared"


def test_user_function_with_weights(user_file: Path, tmp_path: Path) -> None:
    state = {"1.weight": torch.randn(3, 12), "1.bias": torch.randn(3)}
    save_file(state, tmp_path / "w.safetensors")
    model = load_model(f"{user_file}:net", tmp_path / "w.safetensors").model
    assert torch.equal(model.state_dict()["1.weight"], state["1.weight"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "no function 'nothing' in"),
        ("broken", r"KeyError at .*mine\.py:12: 'weights'"),
        ("wrong", r"returned int; return a torch\.nn\.Module"),
    ],
)
def test_user_function_errors(user_file: Path, function: str, message: str) -> None:
    with pytest.raises(FinepruningError, match=message) as error:
        load_model(f"{user_file}:{function}")
    assert "\n" not in str(error.value)


def test_user_file_that_does_not_parse_or_exist(user_file: Path) -> None:
    user_file.write_text("def net(:\n")
    with pytest.raises(FinepruningError, match="SyntaxError"):
        load_model(f"{user_file}:net")
    with pytest.raises(FinepruningError, match="no such file"):
        load_model(f"{user_file.parent / 'none.py'}:net")


@pytest.mark.parametrize("spec", ["resnet50", "./nowhere", "a/b/c", "", "keras:resnet50"])
def test_bad_spec(spec: str) -> None:
    with pytest.raises(FinepruningError, match=r"not found; give torchvision:NAME"):
        load_model(spec)


# Checkpoints


def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path) -> None:
    state = {"module.weight": torch.zeros(2, 3)}
    for i, wrapped in enumerate([state, {"state_dict": state}, {"model": state, "epoch": 3}]):
        torch.save(wrapped, tmp_path / f"{i}.pth")
        assert list(read_weights(tmp_path / f"{i}.pth")) == ["weight"]


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


# Hugging Face


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
