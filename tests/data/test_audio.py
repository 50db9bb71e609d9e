"""Audio folders: any rate and channel count, bad files named, no padding, in a fixed order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers as hf
from torch import Tensor

from finepruning import AudioFolder, FinepruningError, FrontEnd, class_folders
from finepruning.data.audio import find_audio, read_audio
from finepruning.data.front_end import hub_front_end


def tone(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(path, np.stack([wave] * channels, 1), rate)
    return path


# Decoding


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 2), (48000, 1)])
def test_any_rate_and_channels_become_mono_at_the_rate(
    tmp_path: Path, ending: str, rate: int, channels: int
) -> None:
    wave = read_audio(tone(tmp_path / f"a.{ending}", rate=rate, channels=channels), 16000)
    assert (wave.dtype, wave.ndim) == (torch.float32, 1)
    assert len(wave) == pytest.approx(8000, abs=8)
    middle = wave[2000:6000]
    assert middle.abs().max() == pytest.approx(0.5, abs=0.03)
    spectrum = torch.fft.rfft(middle).abs()
    assert int(spectrum.argmax()) * 16000 / 4000 == pytest.approx(440, abs=4)


def test_of_channels_that_cancel_the_loudest_is_taken(tmp_path: Path) -> None:
    one = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "a.flac", np.stack([one, -one], 1), 16000)
    wave = read_audio(tmp_path / "a.flac", 16000)
    np.testing.assert_allclose(abs(wave.numpy()), abs(one), atol=1e-4)


def test_bad_files_are_named_with_the_reason(tmp_path: Path) -> None:
    tone(tmp_path / "good.wav")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "phone.m4a").write_bytes(b"....ftypM4A")
    tone(tmp_path / "click.wav", seconds=0.01)
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(tmp_path / "torn.flac", noise, 16000)
    torn = (tmp_path / "torn.flac").read_bytes()
    (tmp_path / "torn.flac").write_bytes(torn[: len(torn) // 2])
    folder = AudioFolder(tmp_path)
    assert [x.shape for x in folder] == [(1, 8000)]
    assert folder.clips == 1
    reasons = {path.name: reason for path, reason in folder.skipped}
    assert reasons["empty.wav"] == "an empty file"
    assert reasons["nothing.wav"] == "no samples in it"
    assert "not audio" in reasons["text.wav"]
    assert reasons["notes.txt"] == "not an audio file"
    assert "convert it to wav" in reasons["phone.m4a"]
    assert "shorter than 0.1 s" in reasons["click.wav"]
    assert "NaN" in reasons["nan.wav"]
    assert "damaged" in reasons["torn.flac"]
    assert len(reasons) == len(folder.skipped) == 8
    assert len(list(folder)) == 1
    assert len(folder.skipped) == 8, "named once, however often it is read"


def test_no_usable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="no audio in this folder"):
        AudioFolder(tmp_path)
    (tmp_path / "a.wav").touch()
    with pytest.raises(FinepruningError, match=r"none of the audio files.*a\.wav: an empty file"):
        list(AudioFolder(tmp_path))


@pytest.mark.parametrize("library", ["soundfile", "soxr"])
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    tone(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(FinepruningError, match=rf"{library}.*pip install finepruning\[speech\]"):
        AudioFolder(tmp_path)


# Batches


def test_clips_of_one_length_form_batches_in_a_fixed_order(tmp_path: Path) -> None:
    for i, seconds in enumerate([0.2, 0.3, 0.2, 0.2, 0.3, 0.4]):
        tone(tmp_path / f"{i}.wav", seconds)
    folder = AudioFolder(tmp_path, batch_size=2)
    shapes = [tuple(x.shape) for x in folder]
    assert shapes == [(2, 3200), (2, 4800), (1, 3200), (1, 6400)]
    for one, two in zip(folder, folder, strict=True):
        assert torch.equal(one, two)


def test_a_seed_shuffles_the_files(tmp_path: Path) -> None:
    """Otherwise a large folder would be judged by the first of its sub-folders."""
    for i in range(8):
        tone(tmp_path / f"{i}.wav", seconds=0.2 + 0.1 * i)

    def lengths(seed: int | None) -> list[int]:
        return [x.shape[1] for x in AudioFolder(tmp_path, seed=seed)]

    assert lengths(None) == sorted(lengths(None))
    assert lengths(1) == lengths(1) != lengths(None)
    assert sorted(lengths(1)) == lengths(None)


def test_few_clips_are_held_at_once(tmp_path: Path) -> None:
    for i in range(12):
        tone(tmp_path / f"{i:02}.wav", 0.2 + 0.01 * i)
    folder = AudioFolder(tmp_path, batch_size=1)
    assert [x.shape[1] for x in folder] == [3200 + 160 * i for i in range(12)]
    held = AudioFolder(tmp_path, batch_size=2)
    assert sorted(x.shape[1] for x in held) == [3200 + 160 * i for i in range(12)]


def test_long_recordings_are_cut(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 2.55)
    front = FrontEnd(longest=1.0)
    assert [tuple(x.shape) for x in AudioFolder(tmp_path, front)] == [(2, 16000), (1, 8800)]
    tone(tmp_path / "a.wav", 2.05)  # a crumb at the end is dropped
    assert [tuple(x.shape) for x in AudioFolder(tmp_path, front)] == [(2, 16000)]


def test_labels(tmp_path: Path) -> None:
    for name in ("no", "yes", "other"):
        tone(tmp_path / name / "a.wav", 1.5)
    assert class_folders(tmp_path) == ["no", "other", "yes"]
    folder = AudioFolder(tmp_path, FrontEnd(longest=1.0), labels={"yes": 1, "no": 0})
    ((x, y),) = list(folder)
    assert x.shape == (2, 16000), "a labelled clip is one sample, never cut in two"
    assert y.tolist() == [0, 1]
    assert folder.skipped == [(tmp_path / "other" / "a.wav", "not in the folder of a class")]


def test_texts(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        tone(tmp_path / f"{name}.wav")
    tone(tmp_path / "long.wav", 2.0)
    texts = {tmp_path / "a.wav": "one", tmp_path / "b.wav": "two", tmp_path / "long.wav": "x"}
    folder = AudioFolder(tmp_path, FrontEnd(longest=1.0), texts=texts)
    ((x, y),) = list(folder)
    assert (tuple(x.shape), y) == ((2, 8000), ["one", "two"])
    reasons = {path.name: reason for path, reason in folder.skipped}
    assert reasons["c.wav"] == "no transcript"
    assert "longer than the 1 s" in reasons["long.wav"]


# Front ends


def test_silence_that_has_no_logarithm_is_skipped_and_named(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav")
    half = np.concatenate([np.zeros(8000, "f4"), np.ones(8000, "f4") / 2])
    soundfile.write(tmp_path / "silent.wav", half, 16000)

    def energies(wave: Tensor) -> dict[str, Tensor]:
        return {"x": wave.unfold(0, 400, 400).square().mean(1).log()}

    folder = AudioFolder(tmp_path, FrontEnd(energies))
    (batch,) = list(folder)
    assert len(batch["x"]) == 1
    ((path, reason),) = folder.skipped
    assert path.name == "silent.wav"
    assert "NaN or infinite" in reason


def test_the_users_own_function(tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", rate=44100, channels=2)

    def spectrogram(wave: Tensor) -> dict[str, Tensor]:
        return {"x": wave.unfold(0, 400, 400).square().mean(1)}

    (batch,) = list(AudioFolder(tmp_path, FrontEnd(spectrogram, rate=8000)))
    assert batch["x"].shape == (1, 10)

    def broken(wave: Tensor) -> Tensor:
        raise KeyError("mel")

    with pytest.raises(FinepruningError, match=r"a\.wav: the front end failed with KeyError"):
        list(AudioFolder(tmp_path, FrontEnd(broken)))


EXTRACTORS: dict[str, tuple[Any, str, tuple[int, ...], int | None]] = {
    "wav2vec2": (hf.Wav2Vec2FeatureExtractor(), "input_values", (8000,), None),
    "ast": (hf.ASTFeatureExtractor(max_length=128, num_mel_bins=40), "input_values", (128, 40), 48),
    "whisper": (hf.WhisperFeatureExtractor(chunk_length=2), "input_features", (80, 200), 50),
}


@pytest.mark.parametrize("name", EXTRACTORS)
def test_hugging_face(tmp_path: Path, name: str) -> None:
    """Windows that are filled up carry a mask of the frames that are real."""
    extractor, key, shape, real = EXTRACTORS[name]
    front = hub_front_end(extractor)
    tone(tmp_path / "a.wav", rate=22050)
    (batch,) = list(AudioFolder(tmp_path, front))
    assert batch[key].shape == (1, *shape)
    if real is None:
        assert set(batch) == {key}
    else:
        mask = batch["attention_mask"][0]
        assert mask.tolist() == [1] * real + [0] * (shape[0 if name == "ast" else 1] - real)
    assert type(extractor).__name__ in str(front)


def test_the_longest_piece_is_the_window_of_the_network() -> None:
    assert hub_front_end(EXTRACTORS["ast"][0]).longest == 1.28
    assert hub_front_end(EXTRACTORS["whisper"][0]).longest == 2


def test_a_full_window_has_no_mask() -> None:
    assert "attention_mask" not in hub_front_end(EXTRACTORS["whisper"][0])(torch.randn(32000))


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(FinepruningError, match="rate: 0"):
        FrontEnd(rate=0)
    for longest in (0, float("inf"), float("nan")):
        with pytest.raises(FinepruningError, match="longest: "):
            FrontEnd(longest=longest)
    with pytest.raises(FinepruningError, match="batch size: 0"):
        AudioFolder(tone(tmp_path / "a.wav").parent, batch_size=0)
    assert find_audio(tmp_path)[0] == [tmp_path / "a.wav"]
