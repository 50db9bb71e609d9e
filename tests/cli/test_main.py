"""The command as a whole: exit codes, lines on stderr, and from end to end."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import finepruning
from command import COLOURS, assert_one_line
from finepruning import FinepruningError
from finepruning.cli import inspect
from finepruning.cli.main import COMMANDS, main


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

    monkeypatch.setattr(inspect, "run", fail)
    assert main(["inspect", "me"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert printed.err.count("\n") == 1


def test_another_command_is_another_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    greet = SimpleNamespace(
        HELP="say hello",
        add_options=lambda parser: parser.add_argument("name"),
        run=lambda args: ({"hello": args.name}, f"hello {args.name}"),
    )
    monkeypatch.setitem(COMMANDS, "greet", greet)
    assert main(["greet", "you"]) == 0
    assert main(["greet", "you", "--format", "json"]) == 0
    assert capsys.readouterr().out == 'hello you\n{\n  "hello": "you"\n}\n'


# As a process of its own


def test_help_in_a_moment() -> None:
    """Without PyTorch's import, which takes seconds."""
    code = "import sys, finepruning.cli.main as c; c._parser().format_help(); print(len(sys.argv))"
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "finepruning.cli.main" in imported
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
        assert process.stderr is not None
        assert process.stderr.readline() == "here\n"  # the result alone goes to stdout
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "finepruning: interrupted\n")


def test_the_script_that_is_installed() -> None:
    about = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, function = about["project"]["scripts"]["finepruning"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"finepruning {finepruning.__version__}\n"


# The real thing


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
