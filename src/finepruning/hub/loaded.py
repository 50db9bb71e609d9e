"""What a source of models hands over: the network, and how its inputs are prepared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from torch import nn

from .._errors import FinepruningError
from ..data.front_end import FrontEnd, HubFeatures, Inputs
from ..data.pictures import Preprocess
from .python_file import load_function


class ImageOptions(TypedDict, total=False):
    """The fields of :class:`Preprocess`; one that is left out stays as the model has it."""

    resize: int | tuple[int, int] | None
    crop: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    interpolation: str


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode, how its inputs are prepared, its class names where known.

    >>> loaded = Loaded(nn.Flatten(), Preprocess(), name="mine")
    >>> loaded.preparing_images(resize=64, crop=None).preprocess.resize
    64

    ``front`` is set where it takes audio: then ``preprocess`` means nothing. ``assumed``: nothing
    said how inputs are prepared; ``preprocess`` is ImageNet's usual, ``front`` the waveform itself.
    ``own``: the user's own code, whose ``preprocess`` may be meant for images or for waveforms.
    ``writes``: its outputs are transcripts, whose tokens ``reader``, a Hugging Face tokenizer,
    turns into text. ``name``: what it was asked for by, for messages.
    """

    model: nn.Module
    preprocess: Callable[[Any], Any]
    classes: tuple[str, ...] | None = None
    assumed: bool = False
    front: FrontEnd | None = None
    own: bool = False
    writes: bool = False
    reader: Any = None
    name: str = ""

    @property
    def takes_images(self) -> bool:
        return self.front is None

    @property
    def takes_audio(self) -> bool:
        """Whether its inputs can be made from audio; of the user's own code, that is not known."""
        return self.front is not None or self.own

    def preparing_images(self, **given: Unpack[ImageOptions]) -> Loaded:
        """The same network, whose images are prepared as ``given`` says.

        >>> loaded = Loaded(nn.Flatten(), Preprocess()).preparing_images(crop=(32, 64), mean=(0.5,))
        >>> print(loaded.preprocess)
        resize 256 bilinear, crop (32, 64), mean [0.5], std [0.229, 0.224, 0.225], channels 3

        ``resize`` and ``crop``: pixels, a side or ``(height, width)``, None for none; ``mean`` and
        ``std``: on the scale from 0 to 1; ``channels`` and ``interpolation``: as for
        :class:`Preprocess`. What is not given stays as the model has it. From then on it takes
        images.

        Raises :class:`FinepruningError` where a value cannot be, where the network takes audio, or
        where it brings preprocessing of its own: that is replaced only as a whole, by ``resize``,
        ``crop``, ``mean`` and ``std`` together.
        """
        if not self.takes_images:
            raise FinepruningError(f"--model {self.called}: takes audio; give a network for images")
        preprocess = self.preprocess
        if isinstance(preprocess, Preprocess):
            preprocess = dataclasses.replace(preprocess, **given)
        elif {"resize", "crop", "mean", "std"} <= given.keys():
            preprocess = Preprocess(**given)
        elif given:
            raise FinepruningError(
                f"--{next(iter(given))}: {self.called} brings its own preprocessing;"
                " give all of --resize --crop --mean --std to replace it"
            )
        assumed = self.assumed and not given
        return dataclasses.replace(self, preprocess=preprocess, assumed=assumed, own=False)

    def preparing_audio(
        self,
        front_end: str | FrontEnd | Callable[..., Inputs] | None = None,
        *,
        rate: int | None = None,
        seconds: float | None = None,
    ) -> Loaded:
        """The same network, whose recordings are prepared as said.

        >>> own = Loaded(nn.Flatten(), Preprocess(), assumed=True, own=True)
        >>> print(own.preparing_audio(rate=8000, seconds=5).front)
        the waveform itself, mono at 8000 Hz, at most 5 s at once

        ``front_end``: a :class:`FrontEnd`; or a function from a mono waveform, float32 of shape
        ``(T,)``, to the network's input for one sample, or ``FILE.py:function``, which names one
        (its attribute ``rate``, where it has one, is the rate it takes, else 16,000); None: the one
        that the model has. ``rate``: samples a second that it takes. ``seconds``: longer recordings
        are cut. From then on the network takes audio.

        Raises :class:`FinepruningError` where a value cannot be, where the network takes images, or
        where its own Hugging Face front end takes another rate or no more seconds.
        """
        if not self.takes_audio:
            raise FinepruningError(f"--model {self.called}: takes images; give a network for audio")
        front = _with_limits(self._front_end(front_end), rate, seconds)
        assumed = self.assumed and front_end is None
        return dataclasses.replace(self, front=front, assumed=assumed)

    @property
    def called(self) -> str:
        """Its name in messages."""
        return self.name or "the model"

    def _front_end(self, given: str | FrontEnd | Callable[..., Inputs] | None) -> FrontEnd:
        """The front end that is given, or else the model's, which its own code may have brought."""
        function: Any = load_function(given, "--front-end") if isinstance(given, str) else given
        name = given if isinstance(given, str) else getattr(given, "__name__", "a function")
        if given is None and self.front is None and not self.assumed:
            function, name = self.preprocess, "prepared by the model's own code"
        if isinstance(function, FrontEnd):
            return function
        if function is None:
            return self.front or FrontEnd()
        return FrontEnd(function, int(getattr(function, "rate", 16000)), name=name)


def _with_limits(front: FrontEnd, rate: int | None, seconds: float | None) -> FrontEnd:
    """The front end at another rate, with another length; what Hugging Face fixed stays fixed."""
    if isinstance(front.function, HubFeatures):
        window = front.function.window or math.inf
        for option, value, own in (
            ("--rate", rate, rate in (None, front.rate)),
            ("--seconds", seconds, (seconds or 0) <= window),
        ):
            if not own:
                raise FinepruningError(
                    f"{option} {value:g}: the model's own front end takes {front.rate} Hz and at"
                    f" most {front.longest:g} s; leave {option} out"
                )
    rate = front.rate if rate is None else rate
    longest = front.longest if seconds is None else seconds
    return dataclasses.replace(front, rate=rate, longest=longest)
