"""One bad file never ends the job, never takes the memory, never hangs; and each is named."""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import fuzz
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from finepruning import AudioFolder, FinepruningError, FrontEnd, ImageFolder, Preprocess
from finepruning.data.audio import read_audio
from finepruning.data.folder import find_files
from finepruning.data.pictures import IMAGES, LARGE, read_image

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def png(width: int, height: int) -> bytes:
    """A header that promises so many pixels, and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


# --- Pictures


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(60000, 60000), "larger than any photo"),
        (png(1, 60000), "too long and thin"),
        (png(16, 16), "truncated"),
        (b"hello", "not an image"),
        (b"", "not an image"),
    ],
)
def test_a_picture_that_cannot_be(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises((OSError, ValueError), match=reason):
        read_image(tmp_path / "a.png")


def test_exif_that_is_damaged_turns_the_picture_all_the_same(tmp_path: Path) -> None:
    """Orientation 6, and a text where a number belongs."""
    ifd = struct.pack("<H", 2) + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)
    ifd += struct.pack("<HHI4s", 0x11A, 2, 4, b"abc\0") + b"\0" * 4
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + ifd
    Image.fromarray(PIXELS).save(tmp_path / "bad.jpg", exif=exif)
    assert read_image(tmp_path / "bad.jpg").size == (12, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as file:
        wanted = ImageOps.exif_transpose(file).convert("RGB")
    assert read_image(tmp_path / "a.png").tobytes() == wanted.tobytes()


def test_a_photo_of_a_large_sensor_is_read_smaller_and_without_a_warning(tmp_path: Path) -> None:
    Image.new("RGB", (12000, 9000), (9, 99, 200)).save(tmp_path / "a.jpg")
    assert LARGE < 12000 * 9000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "a.jpg")
    assert 1024 <= image.height < 9000
    assert image.width / image.height == pytest.approx(4 / 3, abs=0.01)
    assert Preprocess()(image).shape == (3, 224, 224)


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(PIXELS.repeat(8, 0).repeat(8, 1))).save(tmp_path / "a.heic")
    assert read_image(tmp_path / "a.heic").size == (128, 96)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"pip install finepruning\[heic\]"):
        read_image(tmp_path / "a.heic")


def test_what_is_no_regular_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    files, skipped = find_files(tmp_path, IMAGES)
    assert [path.name for path in files] == ["a.png"]
    assert {path.name for path, _ in skipped} == {"pipe.jpg", "gone.png"}
    assert all("not a regular file" in reason for _, reason in skipped)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open anything")
def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0)
    _, skipped = find_files(tmp_path, IMAGES)
    assert "cannot be opened" in dict(skipped)[tmp_path / "closed"]


@SLOW
@given(number=st.integers(0, 2**31))
def test_damaged_pictures(number: int, tmp_path: Path) -> None:
    """Read, or refused with a reason."""
    kinds = fuzz.images()
    data = fuzz.damaged([*kinds.values()], number, 1)
    path = tmp_path / f"x.{[*kinds][number % len(kinds)].partition('-')[0]}"
    path.write_bytes(data)
    assert fuzz.look_at_image(path) == ""


# --- Sounds


WAVE = np.random.default_rng(0).normal(0, 0.1, 16000).astype("f4")


def wav(wave: np.ndarray, rate: int = 16000, kind: str = "PCM_16") -> bytearray:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype=kind)
    return bytearray(file.getvalue())


def with_number(data: bytearray, at: int, form: str, value: int) -> bytearray:
    struct.pack_into(form, data, at, value)
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (with_number(wav(WAVE), 24, "<I", 1), "1 samples a second"),
        (with_number(wav(WAVE), 24, "<I", 2**31), "samples a second|damaged"),
        (with_number(wav(WAVE), 22, "<H", 1000), "channels|damaged"),
        (wav(WAVE)[:8000], "cut off: 7[5-6]% of its sound is missing"),
        (wav(WAVE * 1e30, kind="FLOAT"), "where 1 is full scale"),
        (wav(WAVE * 0), "nothing but silence"),
        (wav(WAVE[:100]), "shorter than 0.1 s"),
    ],
)
def test_a_sound_that_cannot_be(data: bytearray, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises((OSError, ValueError), match=reason):
        read_audio(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF + 1 - 1])
def test_a_sound_that_was_written_to_a_pipe(size: int, tmp_path: Path) -> None:
    """Its size was not known when its header was written."""
    data = wav(WAVE)
    at = data.index(b"data") + 4
    (tmp_path / "a.wav").write_bytes(with_number(data, at, "<I", size))
    assert len(read_audio(tmp_path / "a.wav", 16000)) == len(WAVE)


def test_what_was_switched_off_in_a_long_recording_is_no_speech(tmp_path: Path) -> None:
    long = np.concatenate([WAVE, np.zeros(3 * 16000, "f4"), WAVE])
    soundfile.write(tmp_path / "a.wav", long, 16000)
    (batch,) = AudioFolder(tmp_path, FrontEnd(longest=1.0))
    assert batch.shape == (2, 16000)


def test_an_hour_is_enough(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.tile(WAVE[:1000], 3700), 1000)
    assert len(read_audio(tmp_path / "a.flac", 1000)) == pytest.approx(3600 * 1000, rel=0.1)


@SLOW
@given(number=st.integers(0, 2**31))
def test_damaged_sounds(number: int, tmp_path: Path) -> None:
    """Read, or refused with a reason."""
    kinds = fuzz.sounds()
    data = fuzz.damaged([*kinds.values()], number, 1)
    path = tmp_path / f"x.{[*kinds][number % len(kinds)].partition('-')[0].lower()}"
    path.write_bytes(data)
    assert fuzz.look_at_sound(path) == ""


# --- A folder of them


def test_the_job_goes_on(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(PIXELS).save(tmp_path / f"{i}.png")
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000))
    (tmp_path / "\x1b[31mred.png").write_bytes(b"hello")
    folder = ImageFolder(tmp_path, Preprocess(8, 8))
    (batch,) = folder
    assert torch.is_tensor(batch)
    assert len(batch) == 3
    assert len(folder.skipped) == 2
    for path in tmp_path.glob("[0-2].png"):
        path.unlink()
    with pytest.raises(FinepruningError, match="none of the images can be used"):
        list(ImageFolder(tmp_path, Preprocess(8, 8)))
