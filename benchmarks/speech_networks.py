"""Networks for one-second words, from the waveform: two DS-CNNs, a transformer, and one for CTC.

The spectrogram is computed inside, so that a recording is all that a user has to hold. None of it
is pruned: what counts as a weight is what Conv and Linear layers have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor, nn

RATE = 16000
WORDS = 20
FLOOR = 1e-3
"""What is added to every power, in units of the clip's mean: what is further below it is silence,
and as silent in a quiet room as in a loud one."""


class LogMel(nn.Module):
    """Log mel spectrogram ``(B, 1, bands, frames)`` of waveforms ``(B, T)``, free of their level.

    A triangle for each band, evenly spaced on the mel scale (``2595 log10(1 + f / 700)``).
    """

    window: Tensor
    mel: Tensor

    def __init__(self, hop: float, window: float, bands: int = 40, low: float = 60.0) -> None:
        super().__init__()
        self.hop = round(hop * RATE)
        length = round(window * RATE)
        self.fft = 2 ** math.ceil(math.log2(length))
        top = 2595 * math.log10(1 + RATE / 2 / 700)
        bottom = 2595 * math.log10(1 + low / 700)
        edges = 700 * (10 ** (torch.linspace(bottom, top, bands + 2) / 2595) - 1)
        f = torch.linspace(0, RATE / 2, self.fft // 2 + 1)
        up = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        down = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
        # Not in a checkpoint: they follow from the numbers above.
        self.register_buffer("mel", torch.minimum(up, down).clamp(min=0), persistent=False)
        self.register_buffer("window", torch.hann_window(length), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        return self.log(self.power(wave))

    def power(self, wave: Tensor) -> Tensor:
        """Power in each band of each frame, ``(B, bands, frames)``."""
        size = len(self.window)
        found = torch.stft(wave, self.fft, self.hop, size, self.window, return_complex=True)
        return self.mel @ (found.real**2 + found.imag**2)

    def log(self, power: Tensor) -> Tensor:
        """What the network sees of a power: its logarithm, in units of the clip's mean."""
        level = power.mean((1, 2), keepdim=True) + 1e-10
        return (power / level + FLOOR).log()[:, None]


class Separable(nn.Sequential):
    """A depthwise and a pointwise convolution, each with BatchNorm and ReLU."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class DSCNN(nn.Module):
    """Depthwise-separable keyword spotter after Zhang et al. 2017, "Hello Edge", arXiv 1711.07128.

    With 276 channels and 5 blocks in the shape of its DS-CNN-L, with 64 and 4 of its DS-CNN-S; but
    40 mel bands instead of 10 cepstral coefficients, so that the first convolution has stride 2
    along the bands as well.
    """

    def __init__(self, channels: int, blocks: int, words: int = WORDS) -> None:
        super().__init__()
        self.mel = LogMel(hop=0.02, window=0.04)
        self.first = nn.Sequential(
            nn.Conv2d(1, channels, (8, 10), (4, 2), (2, 5), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*[Separable(channels, 1 if i else 2) for i in range(blocks)])
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(channels, words)

    def forward(self, wave: Tensor) -> Tensor:
        return self.answer(self.mel(wave))

    def answer(self, mel: Tensor) -> Tensor:
        """Logits ``(B, words)`` of a spectrogram."""
        return self.head(self.drop(self.blocks(self.first(mel)).mean((2, 3))))


class Stem(nn.Module):
    """Two convolutions of stride 2 over a spectrogram, then all bands of a frame in one vector."""

    def __init__(self, channels: int, width: int, bands: int = 40) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.frame = nn.Linear(channels * bands // 4, width)

    def forward(self, mel: Tensor) -> Tensor:
        return self.frame(self.convolutions(mel).flatten(1, 2).mT)


class Transformer(nn.Module):
    """Keyword transformer after Berg et al. 2021, arXiv 2104.00769, behind a convolutional stem.

    The stem stands where that has a linear projection of frames: without one, 3,600 recordings are
    too few. 26 frames, whose mean is classified.
    """

    def __init__(
        self, width: int = 128, layers: int = 4, heads: int = 4, words: int = WORDS
    ) -> None:
        super().__init__()
        self.mel = LogMel(hop=0.01, window=0.03)
        self.stem = Stem(32, width)
        self.place = nn.Parameter(0.02 * torch.randn(26, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width, words)

    def forward(self, wave: Tensor) -> Tensor:
        return self.answer(self.mel(wave))

    def answer(self, mel: Tensor) -> Tensor:
        """Logits ``(B, words)`` of a spectrogram."""
        x = self.stem(mel) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.drop(self.norm(x).mean(1)))


class Block1d(nn.Module):
    """A depthwise and a pointwise convolution over time, added to what they got."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding="same", groups=width, bias=False)
        self.pointwise = nn.Conv1d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.drop(self.norm(self.pointwise(self.depthwise(x)))))


class Speller(nn.Module):
    """Characters from 26 frames, for CTC, after QuartzNet (Kriman et al. 2019, arXiv 1910.10261).

    Frames of 40 ms, because the names are short, and with twice as many training takes far longer.
    :class:`Reader` reads them.
    """

    def __init__(self, width: int = 256, blocks: int = 5) -> None:
        super().__init__()
        self.mel = LogMel(hop=0.01, window=0.03)
        self.stem = Stem(32, width)
        self.blocks = nn.Sequential(*[Block1d(width, 9, 0.1) for _ in range(blocks)])
        self.head = nn.Linear(width, 28)

    def forward(self, wave: Tensor) -> Tensor:
        return self.answer(self.mel(wave))

    def answer(self, mel: Tensor) -> Tensor:
        """Logits ``(B, frames, characters)`` of a spectrogram."""
        return self.head(self.blocks(self.stem(mel).mT).mT)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dscnn": lambda: DSCNN(276, 5),
    "dscnn-small": lambda: DSCNN(64, 4),
    "transformer": Transformer,
    "speller": Speller,
}
"""The networks by name, untrained."""


def build(name: str) -> nn.Module:
    """An untrained network: one of :data:`NETWORKS`."""
    return NETWORKS[name]()


LETTERS = " abcdefghijklmnopqrstuvwxyz"
"""The speller's outputs behind the blank, which is output 0."""


def spell(word: str) -> Tensor:
    """The speller's outputs for a word.

    >>> spell("cab")
    tensor([4, 2, 3])
    """
    return torch.tensor([1 + LETTERS.index(letter) for letter in word])


class Reader:
    """From the speller's best outputs to text, called as a Hugging Face tokenizer is."""

    def batch_decode(self, ids: Tensor, skip_special_tokens: bool = True) -> list[str]:
        """Outputs ``(B, frames)`` as text: what is repeated is written once, blanks are not."""
        return ["".join(LETTERS[i - 1] for i, _ in groupby(row) if i) for row in ids.tolist()]
