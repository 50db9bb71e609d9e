"""Pretrained networks by name, from any of the sources."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from .._errors import FinepruningError
from . import hugging_face, timm, torchvision, user_code
from .loaded import Loaded
from .weights import Checkpoint, read_weights


class Source(Protocol):
    """What a module of this room offers to be a source of models."""

    FORM: str
    """How a model of this source is asked for, as messages show it."""

    def takes(self, spec: str, /) -> bool:
        """Whether ``spec`` has this source's form."""

    def load(self, spec: str, weights: Checkpoint | None, /) -> Loaded:
        """Load it in float32, with ``weights``, or with the pretrained weights of the source."""


SOURCES: tuple[Source, ...] = (torchvision, timm, user_code, hugging_face)
"""The first one that takes a name loads it. Another source is a file and a name in this line."""


def load_model(spec: str, weights: str | Path | None = None) -> Loaded:
    """Load a pretrained network, always with pretrained weights, in float32.

    >>> load_model("torchvision:resnet50", "resnet50.safetensors").model  # doctest: +SKIP

    ``spec``: ``torchvision:NAME``; ``timm:NAME``; ``FILE.py:function``, a function without
    arguments that returns the model or ``(model, preprocess)``, where ``preprocess`` turns a
    ``PIL.Image`` into a tensor; a folder saved by Hugging Face's ``save_pretrained``; or the name
    of such a model on its hub. ``weights``: a checkpoint (safetensors; or pt, pth, bin, read
    without running any code in it), which must fit exactly.

    Raises :class:`FinepruningError` where there is no such model, its library is missing, or the
    checkpoint does not fit.
    """
    checkpoint = None if weights is None else Checkpoint(weights, read_weights(weights))
    source = next((source for source in SOURCES if source.takes(spec)), None)
    if source is None:
        forms = ", ".join(source.FORM for source in SOURCES)
        raise FinepruningError(f"--model {spec}: not found; give {forms}")
    loaded = source.load(spec, checkpoint)
    loaded.model.eval()
    return dataclasses.replace(loaded, name=spec)
