"""``torchvision:NAME``: its networks; ResNets with a checkpoint of the user's also without it."""

from __future__ import annotations

from typing import Any

from .._errors import FinepruningError
from ..data.images import Preprocess
from .libraries import import_library, one_line
from .loaded import Loaded
from .resnet import RESNETS, resnet
from .weights import Checkpoint

FORM = "torchvision:NAME"


def takes(spec: str) -> bool:
    """Whether ``spec`` has this source's form."""
    return spec.partition(":")[0] == "torchvision"


def load(spec: str, weights: Checkpoint | None) -> Loaded:
    name = spec.partition(":")[2]
    if weights is not None and name in RESNETS:
        head = weights.tensors.get("fc.weight")
        model = resnet(name, len(head) if head is not None and head.ndim == 2 else 1000)
        weights.fit_into(model)
        return Loaded(model, Preprocess())
    hint = "; or give --weights FILE.safetensors" if name in RESNETS else ""
    models = import_library("torchvision", f"--model {spec}", hint).models
    try:
        choices = list(models.get_model_weights(name))
        chosen = models.get_model_weights(name).DEFAULT if weights is None else choices[0]
        model = models.get_model(name, weights=chosen if weights is None else None)
    except Exception as error:  # an unknown name, a network without weights, no connection
        raise FinepruningError(f"--model {spec}: {one_line(error)}") from error
    if weights is not None:
        weights.fit_into(model)
    preset, classes = chosen.transforms(), chosen.meta.get("categories")
    preprocess = Preprocess(
        _square(preset.resize_size),
        _square(preset.crop_size),
        tuple(preset.mean),
        tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    return Loaded(model, preprocess, tuple(classes) if classes and weights is None else None)


def _square(size: Any) -> int | tuple[int, int]:
    """Torchvision writes a side as ``[224]``, timm and others as ``224`` or ``(224, 224)``."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))
