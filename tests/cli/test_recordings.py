"""The command on folders of recordings, with real networks, from arguments to exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from PIL import Image

from finepruning.cli.main import main

NET = """
import torch
from torch import nn

class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 8, 20, 10)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.conv(x[:, None]).relu().mean(2))

def net():
    return Keywords()

def energies(wave):
    return wave.unfold(0, 80, 40).square().mean(1)

energies.rate = 8000
"""


def speak(path: Path, seconds: float, rate: int, channels: int = 1, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(path, noise, rate)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Mixed rates, stereo, a zero-length file, a text file, a corrupt file."""
    folder = tmp_path / "voice_notes"
    rates = [8000, 16000, 44100, 48000]
    for i in range(8):
        ending = ["wav", "flac", "ogg", "mp3"][i % 4]
        seconds, rate = 0.3 + 0.05 * (i // 4), rates[i % 4]
        speak(folder / ["no", "yes"][i % 2] / f"{i}.{ending}", seconds, rate, 1 + i // 4, i)
    (folder / "empty.wav").touch()
    (folder / "read me.txt").write_text("hello")
    (folder / "yes" / "torn.flac").write_bytes(b"fLaC and no more")
    return folder


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:net"


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "wav2vec2"
    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(5, 2), num_labels=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, classifier_proj_size=16,
        id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    hf.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def assert_one_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    errors = capsys.readouterr().err.splitlines()
    assert text in errors[-1]
    assert "Traceback" not in "".join(errors)


def names(result: dict[str, Any]) -> set[str]:
    return {Path(skip["path"]).name for skip in result["skipped"]}


def test_a_hugging_face_folder_on_mixed_recordings(
    wav2vec2: Path, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(wav2vec2), "--data", str(notes), "--format", "json"]
    out = str(tmp_path / "me")
    argv = ["personalize", *model, "--out", out, "--sparsity", "0.5", "--no-check"]
    assert main(argv) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["clips"] == 8
    assert names(result) == {"empty.wav", "read me.txt", "torn.flac"}
    assert result["report"]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert "the model's own Wav2Vec2FeatureExtractor, mono at 16000 Hz" in printed.err
    assert "8 clips; 3 skipped: " in printed.err

    assert main(["evaluate", *model, "--personal", out]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dense"]["n"] == result["personal"]["n"] == 8
    assert names(result) == {"empty.wav", "read me.txt", "torn.flac"}


def test_the_users_own_network_takes_the_waveform(
    net: str, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["personalize", "--model", net, "--data", str(notes), "--out", str(tmp_path / "me")]
    assert main([*argv, "--sparsity", "0.5", "--effort", "fast"]) == 0
    printed = capsys.readouterr().err
    assert "audio: the waveform itself, mono at 16000 Hz" in printed
    assert "assumed; change with --front-end" in printed
    argv = ["evaluate", "--model", net, "--data", str(notes), "--front-end"]
    assert main([*argv, net.replace(":net", ":energies"), "--seconds", "0.2"]) == 0
    printed = capsys.readouterr().err
    assert "mono at 8000 Hz, at most 0.2 s at once" in printed
    assert main([*argv, net.replace(":net", ":energies"), "--rate", "4000"]) == 0
    assert "mono at 4000 Hz" in capsys.readouterr().err


def test_the_majority_decides_and_the_rest_is_named(
    net: str, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(notes / "me.jpg")
    argv = ["personalize", "--model", net, "--data", str(notes), "--out", str(tmp_path / "me")]
    assert main([*argv, "--sparsity", "0.5", "--format", "json"]) == 0
    assert "me.jpg" in names(json.loads(capsys.readouterr().out))


def test_errors_say_what_and_how_to_go_on(
    net: str, wav2vec2: Path, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for i in range(2):
        (photos / "no").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(photos / "no" / f"{i}.png")
    assert main(["evaluate", "--model", str(wav2vec2), "--data", str(photos)]) == 1
    assert_one_line(capsys, "takes audio, but")
    assert main(["evaluate", "--model", net, "--data", str(photos), "--rate", "8000"]) == 1
    assert_one_line(capsys, "--rate: ")
    assert main(["evaluate", "--model", net, "--data", str(notes), "--crop", "8"]) == 1
    assert_one_line(capsys, "--crop: ")
    speak(photos / "a.wav", 0.3, 16000)
    speak(photos / "b.wav", 0.3, 16000)
    assert main(["evaluate", "--model", net, "--data", str(photos)]) == 1
    assert_one_line(capsys, "as many images and audio files (2 each)")
    assert main(["evaluate", "--model", str(wav2vec2), "--data", str(notes), "--rate", "8000"]) == 1
    assert_one_line(capsys, "--rate 8000: the model's own front end takes 16000 Hz")
    with pytest.raises(SystemExit):
        main(["evaluate", "--model", net, "--data", str(notes), "--seconds", "inf"])
    assert "give a number of 0.1 or more" in capsys.readouterr().err
    argv = ["evaluate", "--model", net, "--data", str(notes), "--front-end"]
    assert main([*argv, "energies"]) == 1
    assert_one_line(capsys, "--front-end energies: give FILE.py:function")
    assert main([*argv, net.replace(":net", ":none")]) == 1
    assert_one_line(capsys, "no function 'none'")
