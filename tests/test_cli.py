"""The command, from arguments to exit code, with a stand-in for the numerical core."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from finepruning._cli import main
from finepruning._data import Preprocess
from finepruning._models import Loaded, load_model
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import finepruning
from finepruning import _account, _cli
from finepruning._errors import FinepruningError

DATA = Path(os.environ.get("FINEPRUNING_DATA", "../shared/data"))
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
"""


@pytest.fixture(autouse=True)
def _same_path_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        for i in range(2):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 8), colour).save(path)
    (tmp_path / "photos" / "red" / "broken.jpg").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """Options for a network whose outputs are red, green and blue."""
    (tmp_path / "net.py").write_text(NET)
    save_file({"2.weight": torch.eye(3), "2.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    return ["--model", f"{tmp_path / 'net.py'}:net", "--weights", str(tmp_path / "w.safetensors")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put a stand-in in the place of the numerical core, and see how it is called."""
    calls: dict[str, Any] = {}

    class Report:
        def to_dict(self) -> dict[str, Any]:
            return {"sparsity": 0.7}

        def __str__(self) -> str:
            return "a report"

    def personalize(model: nn.Module, batches: Iterable[Any], **options: Any) -> SimpleNamespace:
        calls.update(options, shapes=[tuple(x.shape) for x in batches])
        return SimpleNamespace(
            report=Report(), save=lambda path: Path(path).mkdir(), model=nn.Identity()
        )

    def load(path: str, base: nn.Module) -> nn.Module:
        return nn.Sequential(base, nn.Hardtanh(-1, 0))  # all ties: always the first class

    monkeypatch.setattr(_account, "format_report", lambda report: f"formatted {report}")
    monkeypatch.setattr(finepruning, "personalize", personalize, raising=False)
    monkeypatch.setattr(finepruning, "load", load, raising=False)
    monkeypatch.setattr(finepruning, "read_report", lambda path: {"path": str(path)}, raising=False)
    return calls


# personalize


def test_personalize(
    model: list[str],
    photos: Path,
    tmp_path: Path,
    calls: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "me"
    argv = ["personalize", *model, "--data", str(photos), "--out", str(out)]
    assert main([*argv, "--batch-size", "4"]) == 0
    assert out.is_dir()
    assert calls["shapes"] == [(4, 3, 224, 224), (2, 3, 224, 224)]
    assert (calls["sparsity"], calls["effort"], calls["readout"]) == (0.7, "best", True)
    printed = capsys.readouterr()
    assert printed.out == "a report\n"
    assert "assumed; change with --resize" in printed.err
    assert "6 images; 1 skipped: " in printed.err
    assert "broken.jpg: not an image" in printed.err


def test_personalize_options_and_json(
    model: list[str],
    photos: Path,
    tmp_path: Path,
    calls: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["personalize", *model, "--data", str(photos), "--out", str(tmp_path / "me")]
    argv += ["--sparsity", "0.5", "--effort", "fast", "--no-readout", "--seed", "3"]
    argv += ["--resize", "none", "--crop", "6x4", "--mean", "0.5", "--std", ".1,.2", "0.3"]
    assert main([*argv, "--device", "cpu", "--format", "json"]) == 0
    assert calls == {
        "sparsity": 0.5,
        "effort": "fast",
        "readout": False,
        "seed": 3,
        "device": "cpu",
        "shapes": [(6, 3, 6, 4)],
    }
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == {"sparsity": 0.7}
    assert result["images"] == 6
    assert [Path(s["path"]).name for s in result["skipped"]] == ["broken.jpg"]


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("where", ["me", "nowhere/me"])
def test_out_is_checked_before_any_work(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "me").mkdir()
    monkeypatch.setattr(_cli, "_load", None)
    argv = ["personalize", "--model", "timm:x", "--data", str(tmp_path)]
    assert main([*argv, "--out", str(tmp_path / where)]) == 1
    assert_one_line(capsys, "--out")


# evaluate


def test_evaluate(model: list[str], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = photos.parent / "classes.txt"
    order.write_text("red\ngreen\nblue\n")
    argv = ["evaluate", *model, "--data", str(photos), "--classes", str(order)]
    assert main(argv) == 0
    printed = capsys.readouterr()
    head, dense, note = printed.out.splitlines()
    assert head == "       all 3 outputs                 told the 3 classes            ms a sample"
    right, latency = dense.rsplit(maxsplit=1)
    assert right == "dense  6/6 = 100.0% [61.0%, 100.0%]  6/6 = 100.0% [61.0%, 100.0%]"
    assert float(latency) >= 0
    assert note == "[95 % Wilson interval]"
    assert "6 images; 1 skipped: " in printed.err


@pytest.mark.usefixtures("calls")
def test_evaluate_dense_and_personal_side_by_side(
    model: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "me").mkdir()
    argv = ["evaluate", *model, "--data", str(photos), "--personal", str(tmp_path / "me")]
    assert main([*argv, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # As many folders as outputs: the sorted order, blue, green, red. Only green is right then.
    assert result["dense"]["correct"] == 2
    assert result["personal"]["n"] == result["images"] == 6
    assert len(result["skipped"]) == 1
    assert main(argv) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["dense", "personal"]


# inspect


@pytest.mark.usefixtures("calls")
def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "me"]) == 0
    assert capsys.readouterr().out == "formatted {'path': 'me'}\n"
    assert main(["inspect", "me", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": "me"}


# What goes wrong


def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("finepruning: error: ")
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["prune"],
        ["personalize", "--data", "d", "--out", "o"],
        ["personalize", "--model", "m", "--data", "d", "--out", "o", "--sparsity", "1"],
        ["personalize", "--model", "m", "--data", "d", "--out", "o", "--sparsity", "nan"],
        ["personalize", "--model", "m", "--data", "d", "--out", "o", "--effort", "huge"],
        ["evaluate", "--model", "m", "--data", "d", "--batch-size", "0"],
        ["evaluate", "--model", "m", "--data", "d", "--crop", "1x2x3"],
        ["evaluate", "--model", "m", "--data", "d", "--mean", "a"],
        ["inspect"],
    ],
)
def test_wrong_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert capsys.readouterr().out == ""


def test_failures_are_1_and_one_line(
    model: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(photos)]
    assert main(["evaluate", *model, "--data", str(tmp_path / "none")]) == 1
    assert_one_line(capsys, "none: does not exist")
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", *model, "--data", str(tmp_path / "empty")]) == 1
    assert_one_line(capsys, "holds nothing that can be used; it takes images", "wav")
    assert main(["evaluate", "--model", "resnet50", *data]) == 1
    assert_one_line(capsys, "resnet50: not found; give torchvision:NAME")
    assert main(["evaluate", *model[:2], "--weights", "none.pt", *data]) == 1
    assert_one_line(capsys, "none.pt: no such file")
    assert main(["evaluate", *model, *data, "--personal", str(tmp_path / "me")]) == 1
    assert_one_line(capsys, "--personal")
    assert main(["evaluate", *model, *data, "--interpolation", "magic"]) == 1
    assert_one_line(capsys, "interpolation: 'magic'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none(
    model: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *model, "--data", str(photos), "--device", "cuda"]) == 1
    assert_one_line(capsys, "--device cpu")


def test_options_replace_a_models_own_preprocessing_only_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "finepruning._models.load_model",
        lambda *_: Loaded(nn.Identity(), lambda image: torch.zeros(1)),
    )
    options = ["--crop", "32", "--resize", "32", "--mean", "0", "--std", "1"]
    parse = _cli._parser().parse_args
    base = ["evaluate", "--model", "m", "--data", "d"]
    loaded = _cli._load(parse([*base, *options]), False)
    assert loaded.preprocess == Preprocess(32, 32, (0.0,), (1.0,))
    with pytest.raises(FinepruningError, match="--crop: m brings its own preprocessing"):
        _cli._load(parse([*base, *options[:2]]), False)


class OutOfMemoryError(RuntimeError):
    """Named as PyTorch's."""


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "finepruning: interrupted"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (FinepruningError("two\nlines"), 1, "finepruning: error: two lines"),
        (MemoryError(), 1, "give a smaller --batch-size"),
        (OutOfMemoryError("CUDA"), 1, "give a smaller --batch-size"),
    ],
)
def test_exceptions_to_exit_codes(
    raised: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(_cli, "_inspect", fail)
    assert main(["inspect", "me"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert printed.err.count("\n") == 1


# As a process of its own


def test_help_in_a_moment() -> None:
    """Without PyTorch's import, which takes seconds."""
    code = "import sys, finepruning._cli as c; c._parser().format_help(); print(len(sys.argv))"
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "finepruning._cli" in imported
    assert not {"torch", "numpy", "PIL", "transformers"} & imported


def test_a_closed_pipe_and_ctrl_c(model: list[str], photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finepruning", "evaluate", *model, "--data", str(photos)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    (tmp_path / "net.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "finepruning: interrupted\n")


# Real data


def test_the_resnet_and_the_dogs() -> None:
    """One image a breed through the real network: 5 of the 10 are right over 1000 outputs."""
    folder = DATA / "imagenet"
    if not folder.is_dir():
        pytest.skip(f"no real data: FINEPRUNING_DATA={DATA} has no folder imagenet")
    loaded = load_model("torchvision:resnet50", folder / "resnet50.safetensors")
    paths = [sorted(f.iterdir())[0] for f in sorted((folder / "dogs" / "test").iterdir())]
    x = torch.stack([loaded.preprocess(Image.open(p).convert("RGB")) for p in paths])
    with torch.inference_mode():
        best = loaded.model(x).argmax(1)
    truth = torch.tensor([155, 159, 162, 167, 182, 193, 207, 229, 258, 273])
    assert int((best == truth).sum()) == 5


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"finepruning {finepruning.__version__}\n"


# the real thing, from end to end


def test_personalize_evaluate_and_inspect_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, (name, (r, g, b)) in enumerate(COLOURS.items()):
        for j in range(4):
            path = tmp_path / "photos" / name / f"{j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (r - 9 * j, g, b + j + i)).save(path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),"
        " nn.Flatten(), nn.Linear(8, 3))\n"
    )
    common = ["--model", f"{tmp_path / 'net.py'}:net", "--data", str(tmp_path / "photos")]
    common += ["--resize", "8", "--crop", "8", "--format", "json"]
    me = str(tmp_path / "me")
    assert main(["personalize", *common, "--out", me, "--sparsity", "0.5"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["samples"] == 12
    assert report["zeros"] == -(-report["weights"] // 2)
    assert main(["evaluate", *common, "--personal", me]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dense"]["n"] == found["personal"]["n"] == 12
    assert main(["inspect", me]) == 0
    assert "50.0" in capsys.readouterr().out
    assert main(["personalize", *common, "--out", me]) == 1
    assert "exists" in capsys.readouterr().err
