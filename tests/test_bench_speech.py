"""The speech half of the benchmarks: spectrogram, networks, training, users, and word errors.

All on tones instead of words: recordings are third parties', and not needed here.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import networks  # type: ignore[import-not-found]
import page  # type: ignore[import-not-found]
import speech_data  # type: ignore[import-not-found]
import train_speech  # type: ignore[import-not-found]
import users  # type: ignore[import-not-found]
import wer  # type: ignore[import-not-found]
from groups import read_groups, sources, whole  # type: ignore[import-not-found]
from measure import Row, append_row, read_rows, result_file  # type: ignore[import-not-found]
from speech_networks import (  # type: ignore[import-not-found]
    FLOOR,
    RATE,
    LogMel,
    Reader,
    Speller,
    build,
    spell,
)
from targets import targets  # type: ignore[import-not-found]

WORDS = [*speech_data.DIGITS, "go", "stop"]


def tone(frequency: float, seconds: float = 1.0, level: float = 0.3) -> Tensor:
    return level * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six training speakers and two users, who say each word four times as a tone in noise."""
    rng, root = np.random.default_rng(0), tmp_path / "data"
    people = {"train": [f"t{i}" for i in range(6)], "users": ["u0", "u1"]}
    for part, speakers in people.items():
        for speaker in speakers:
            for number, word in enumerate(WORDS):
                folder = root / "speech_arabic" / part / speaker / word
                folder.mkdir(parents=True)
                for take in range(4):
                    wave = tone(200 * (number + 1), 0.1).numpy() + 0.05 * rng.normal(size=1600)
                    soundfile.write(folder / f"{take}.wav", wave, RATE)
    monkeypatch.setenv("FINEPRUNING_DATA", str(root))
    return root


# --- Spectrogram and networks


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 4000.0])
def test_a_tone_is_loudest_in_its_band(frequency: float) -> None:
    mel = LogMel(hop=0.01, window=0.03)
    band = int(mel.power(tone(frequency)[None]).mean(2).argmax())
    edges = 2595 * np.log10(1 + np.array([60.0, RATE / 2]) / 700)
    centres = 700 * (10 ** (np.linspace(*edges, 42) / 2595) - 1)[1:-1]
    assert band == np.abs(centres - frequency).argmin()


def test_level_does_not_matter_and_silence_is_silence() -> None:
    mel = LogMel(hop=0.02, window=0.04)
    wave = torch.cat([tone(500, 0.5), torch.zeros(8000)])[None]
    torch.testing.assert_close(mel(wave), mel(0.1 * wave), rtol=0, atol=1e-4)
    assert float(mel(wave)[..., -3:].max()) == pytest.approx(math.log(FLOOR))
    assert mel(torch.zeros(1, 16000)).isfinite().all()


def weights(model: nn.Module) -> int:
    attention = [m.in_proj_weight for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    layers = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    return sum(weight.numel() for weight in attention + layers)


@pytest.mark.parametrize(
    ("name", "least", "most", "shape"),
    [
        ("dscnn", 300_000, 1_000_000, (2, 20)),
        ("transformer", 300_000, 1_000_000, (2, 20)),
        ("dscnn-small", 20_000, 50_000, (2, 20)),
        ("speller", 300_000, 1_000_000, (2, 26, 28)),
    ],
)
def test_networks_are_of_their_size(
    name: str, least: int, most: int, shape: tuple[int, ...]
) -> None:
    model = build(name).eval()
    assert least < weights(model) < most
    with torch.no_grad():
        assert model(torch.randn(2, RATE)).shape == shape
    assert not [key for key in model.state_dict() if key.startswith("mel.")]


def test_the_reader_joins_repeats_and_drops_blanks() -> None:
    ids = [0, *spell("th"), *spell("h"), 0, *spell("r"), *spell("e"), 0, *spell("e"), 0]
    assert Reader().batch_decode(torch.tensor([ids, [0] * len(ids)])) == ["three", ""]


# --- Training


def test_changed_recordings_are_others_of_the_same_kind() -> None:
    mel = LogMel(hop=0.01, window=0.03)
    power = mel.power(torch.stack([tone(500), tone(2000)]))
    change = train_speech.Change(mel)
    torch.manual_seed(0)
    one, two = change(power), change(power)
    assert one.shape == mel.log(power).shape
    assert one.isfinite().all()
    assert not torch.equal(one, two)
    torch.manual_seed(0)
    assert torch.equal(change(power), one)
    still = replace(change, tempo=0.0, tract=0.0, start=0.0, colour=0.0, noisy=0.0, masked=(0, 200))
    torch.testing.assert_close(still(power), mel.log(power), rtol=0, atol=0.05)


def test_masks_are_of_whole_bands_and_frames_and_no_wider() -> None:
    torch.manual_seed(0)
    x = torch.zeros(200, 1, 40, 50)
    for dim, other in ((2, 3), (3, 2)):
        hidden = train_speech.Change._mask(x, dim, 8) < 0
        assert torch.equal(hidden.any(other), hidden.all(other))
        assert {*hidden.any(other).sum((1, 2)).tolist()} == {*range(9)}


def test_spelled_right_costs_nothing() -> None:
    said = torch.tensor([0, 1])
    outputs = torch.zeros(2, 12, 28)
    outputs[:, :, 0] = 20.0
    for row, word in zip(outputs, ("three", "go"), strict=True):
        for i, letter in enumerate(spell(word).tolist()):
            row[2 * i + 1, letter] = 40.0
    right, wrong = (
        float(train_speech.spelling_loss(outputs, said, words))
        for words in (["three", "go"], ["go", "three"])
    )
    assert right < 1e-3 < 1.0 < wrong


def test_training_learns_tones(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    heard = speech_data.recordings("train")
    two = heard.of(heard.speakers[:2])
    pick = (two.said == 0) | (two.said == 11)
    two = replace(two, waves=two.waves[pick].repeat(1, 10), said=two.said[pick])
    model = train_speech.train("dscnn-small", two, 30)
    assert not model.training
    assert train_speech.accuracy(model, two) == 1.0


def test_what_is_trained_is_what_is_loaded(
    data: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (networks, train_speech):
        monkeypatch.setattr(module, "CHECKPOINTS", tmp_path / "made")
    with pytest.raises(SystemExit) as end:
        networks.load_network("dscnn-small-smoke")
    assert not end.value.code
    assert capsys.readouterr().out == (
        "skipped: no dscnn-small-smoke.safetensors; run"
        " python benchmarks/train_speech.py dscnn-small --smoke\n"
    )
    made: list[nn.Module] = []
    train = train_speech.train
    monkeypatch.setattr(train_speech, "train", lambda *args: made.append(train(*args)) or made[-1])
    command = ["train_speech.py", "dscnn-small", "--smoke", "--missing"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", command)
        train_speech.main()
    assert len(made) == 1
    loaded = networks.load_network("dscnn-small-smoke")
    x = torch.randn(2, RATE)
    with torch.no_grad():
        assert torch.equal(loaded(x), made[0](x))


# --- Users


def test_halves_change_places(data: Path) -> None:
    found = {user.name: user for user in users.speech_users(6)}
    assert [*found] == [
        f"u{i}-{k}/{f}" for i in (0, 1) for k in ("words", "digits") for f in (0, 1)
    ]
    for name, classes in (("words", 12), ("digits", 10)):
        one, two = found[f"u1-{name}/0"], found[f"u1-{name}/1"]
        assert one.pool is two.pool
        assert {*one.own.tolist()} == {*two.tested.tolist()}
        assert {*one.tested.tolist()} == {*two.own.tolist()}
        assert [len(one.classes), one.n, len(one.tested)] == [classes, 2 * classes, 2 * classes]
        for user in (one, two):
            assert user.truth.bincount().unique().tolist()[-1] == 2
    assert {WORDS_SORTED[c] for c in found["u0-digits/0"].classes} == {*speech_data.DIGITS}


WORDS_SORTED = sorted(WORDS)


def test_development_users_are_training_speakers_held_out(data: Path) -> None:
    speakers = [f"s{i:02}" for i in range(18)]
    assert speech_data.held_out(speakers) == ["s01", "s05", "s09", "s13"]
    assert {u.name.split("-")[0] for u in users.development_speech_users()} == {"t1", "t5"}


# --- Rows


def fold(number: int, correct: int, **changes: Any) -> Row:
    start = Row(
        "20 words", f"u0-words/{number}", 100, "dense", 0.0, 0.0, correct, correct + 1, 100,
        1.0 + number, 1.0, 1.0, math.nan, math.nan, math.nan,
    )  # fmt: skip
    return replace(start, **changes)


def test_folds_are_one_person() -> None:
    dense, ours = whole([fold(0, 90), fold(1, 96), fold(0, 97, method="x", wanted=0.7)])
    assert (dense.user, dense.correct, dense.told, dense.total) == ("u0-words", 186, 188, 200)
    assert (dense.n, dense.seconds, dense.wanted) == (100, 1.5, 0.0)
    assert (ours.user, ours.correct, ours.total, ours.wanted) == ("u0-words", 97, 100, 0.7)
    other = replace(fold(0, 90), user="3of10-1")
    assert whole([other]) == [other]


@pytest.mark.parametrize(("right", "met"), [(90, (False, False)), (91, (True, False)),
                                            (93, (True, True))])  # fmt: skip
def test_targets_of_speakers(tmp_path: Path, right: int, met: tuple[bool, bool]) -> None:
    for name, wanted in (("dscnn-small", 0.5), ("dscnn", 0.7)):
        path = tmp_path / f"speech-{name}-cpu-x-finepruning0.1.0-torch2.0.0.csv"
        for number in (0, 1):
            for kind in ("20 words", "digits"):
                append_row(path, fold(number, 90, kind=kind))
                ours = fold(number, right, kind=kind, method="finepruning best", wanted=wanted)
                append_row(path, ours)
    found = [*targets(read_groups(sources(tmp_path)), [])]
    for name in ("dscnn, ", "dscnn-small, "):
        said = [t for t in found if t.what.startswith(f"Six speakers, {name}")]
        assert tuple(t.met for t in said) == met
    (harmless,) = [t for t in found if t.what.startswith("speech, dscnn-small, 50%")]
    assert (harmless.reached, harmless.met) == ("0 of 2 below", True)


def test_a_run_writes_word_errors(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    network = Speller(16, 1).eval()
    monkeypatch.setattr(wer, "load_network", lambda name: network)
    made = tmp_path / "results"
    monkeypatch.setattr(wer, "result_file", lambda name: result_file(name, made))
    monkeypatch.setattr(sys, "argv", ["wer.py", "--smoke", "--networks", "speller-smoke"])
    wer.main()
    ((path),) = made.iterdir()
    assert path.name.startswith("wer-speller-smoke-cpu-")
    rows = read_rows(path, wer.WerRow)
    assert [row.method for row in rows] == [*wer.METHODS]
    assert all(row.words == 24 and 0 <= row.word_errors <= row.words for row in rows)
    assert [row.wanted for row in rows] == [0.0, 0.5, 0.5, 0.5, 0.5]
    assert all(row.sparsity == pytest.approx(row.wanted, abs=1e-3) for row in rows)
    text = page.page(sources(made, smoke=True), tmp_path / "docs")
    rate = 100 * rows[1].word_errors / rows[1].words
    assert f"| **finepruning best** | 50 % | 1 | {rate:.1f} |" in text
    assert "| method | sparsity | u0-words |" in text
