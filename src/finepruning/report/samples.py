"""Some of a person's own samples, for a page that only they are to see."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path

import torch
from torch import Tensor

from ..data.audio import read_audio
from ..data.pictures import IMAGES, read_image

SIDE, RATE, SECONDS = 160, 8000, 2
"""Pixels of a picture's longer side; samples a second of a clip, and seconds of it: a page of
twelve stays below a megabyte."""


def medium(path: Path) -> str:
    """A picture or a clip as a piece of a page, with its data inside.

    Raises :class:`FinepruningError` where it cannot be read.
    """
    if path.suffix.lower() in IMAGES.suffixes:
        picture = read_image(path)
        picture.thumbnail((SIDE, SIDE))
        held = io.BytesIO()
        picture.convert("RGB").save(held, "JPEG", quality=80)
        return f'<img alt="" src="{_inside("image/jpeg", held.getvalue())}">'
    wav = _wav(read_audio(path, RATE))
    return f'<audio controls src="{_inside("audio/wav", wav)}"></audio>'


def _wav(clip: Tensor) -> bytes:
    """A mono waveform between -1 and 1 as a WAV file of 16 bits."""
    clip = clip.reshape(-1)[: RATE * SECONDS]
    numbers = (clip.clamp(-1, 1) * 32767).to(torch.int16).numpy().astype("<i2")
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(numbers.tobytes())
    return held.getvalue()


def _inside(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
