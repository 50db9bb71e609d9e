"""Front ends: from a waveform to the network's input, as the user or Hugging Face wrote them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import FinepruningError

SHORTEST = 0.1
"""Seconds: no word is shorter, and the networks' convolutions need some input."""

Inputs = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class FrontEnd:
    """From a waveform to the network's input for one sample, without a batch dimension.

    >>> FrontEnd()(torch.zeros(8000)).shape
    torch.Size([8000])

    ``function`` turns a mono waveform at ``rate`` samples a second, float32 of shape ``(T,)``, into
    a tensor or a dict of tensors; None: the network takes the waveform. ``longest``: seconds that
    the network takes at once; longer recordings are cut, or skipped where they have a transcript.

    Raises :class:`FinepruningError` where ``rate`` or ``longest`` cannot be.
    """

    function: Callable[[Tensor], Inputs] | None = None
    rate: int = 16000
    longest: float = 30.0
    name: str = "the waveform itself"

    def __post_init__(self) -> None:
        if self.rate < 1:
            raise FinepruningError(f"rate: {self.rate}; give samples a second, such as 16000")
        if not SHORTEST <= self.longest < math.inf:
            raise FinepruningError(
                f"longest: {self.longest} seconds; give more than {SHORTEST}, such as 30"
            )

    def __call__(self, wave: Tensor) -> Inputs:
        made = wave if self.function is None else self.function(wave)
        if isinstance(made, Mapping):
            return {str(key): torch.as_tensor(value) for key, value in made.items()}
        return torch.as_tensor(made)

    def __str__(self) -> str:
        return f"{self.name}, mono at {self.rate} Hz, at most {self.longest:g} s at once"


@dataclass(frozen=True)
class HubFeatures:
    """A Hugging Face feature extractor, as a function of one waveform."""

    extractor: Any

    def __call__(self, wave: Tensor) -> dict[str, Tensor]:
        made = self.extractor(
            wave.numpy(),
            sampling_rate=self.extractor.sampling_rate,
            return_tensors="pt",
            return_attention_mask=True,
        )
        inputs = {key: value[0] for key, value in made.items()}
        if "attention_mask" not in inputs and (real := self._frames(len(wave))):
            frames = torch.arange(self.extractor.max_length)
            inputs["attention_mask"] = (frames < real).int()
        if "attention_mask" in inputs and bool(inputs["attention_mask"].all()):
            del inputs["attention_mask"]  # nothing is padded
        return inputs

    @property
    def window(self) -> float | None:
        """Seconds that the network takes, no more and no less; None: what there is."""
        if type(self.extractor).__name__.startswith("ASTFeatureExtractor"):
            return float(self.extractor.max_length / 100)
        return getattr(self.extractor, "chunk_length", None)

    def _frames(self, samples: int) -> int:
        """Frames of a clip in AST's window, whose extractor pads but gives no mask; 0: not AST."""
        if not type(self.extractor).__name__.startswith("ASTFeatureExtractor"):
            return 0
        return 1 + max(0, samples - self.extractor.sampling_rate // 40) // (
            self.extractor.sampling_rate // 100
        )


def hub_front_end(extractor: Any) -> FrontEnd:
    """A Hugging Face feature extractor as a front end; a processor's is taken out of it."""
    extractor = getattr(extractor, "feature_extractor", extractor)
    features = HubFeatures(extractor)
    name = f"the model's own {type(extractor).__name__}"
    rate = int(extractor.sampling_rate)
    return FrontEnd(features, rate, float(features.window or 30.0), name)
