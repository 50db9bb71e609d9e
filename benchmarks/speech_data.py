"""Words said by people: recordings of one second, from the folder ``speech_arabic``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from networks import need
from speech_networks import RATE
from torch import Tensor

from finepruning.research import find_audio, read_audio

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Recordings:
    """Waveforms ``(n, T)`` with the word (its place in ``words``) and the speaker of each."""

    waves: Tensor
    said: Tensor
    by: list[str]
    words: list[str]

    @property
    def speakers(self) -> list[str]:
        return sorted({*self.by})

    def of(self, speakers: list[str]) -> Recordings:
        """The recordings of some speakers."""
        some = [i for i, speaker in enumerate(self.by) if speaker in speakers]
        by = [self.by[i] for i in some]
        return Recordings(self.waves[some], self.said[some], by, self.words)


def recordings(part: str, speakers: int | None = None) -> Recordings:
    """Those of ``train`` or of ``users``: ``part/<speaker>/<word>/<take>``, sorted by path.

    ``speakers``: only so many, from the first.
    """
    root = need("speech_arabic") / part
    folders = sorted(path for path in root.iterdir() if path.is_dir())[:speakers]
    words = sorted({path.name for folder in folders for path in folder.iterdir()})
    files: list[Path] = [path for folder in folders for path in find_audio(folder)[0]]
    said = torch.tensor([words.index(path.parent.name) for path in files])
    waves = torch.stack([read_audio(path, RATE) for path in files])
    return Recordings(waves, said, [path.parent.parent.name for path in files], words)


def held_out(speakers: list[str]) -> list[str]:
    """The four training speakers that development is tested on."""
    return speakers[1:16:4]
