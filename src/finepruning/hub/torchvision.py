"""``torchvision:NAME``: its networks; ResNets with a checkpoint of the user's also without it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from .._errors import FinepruningError
from ..data.pictures import Preprocess
from .libraries import import_library, wanted
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
        preset, classes = chosen.transforms(), chosen.meta.get("categories")
        if not hasattr(preset, "resize_size"):
            raise FinepruningError(
                f"--model {spec}: takes no pictures of one size, as networks for detection do;"
                " give a FILE.py:function that returns the part of it that does"
            )
        if weights is None:
            model = models.get_model(name, weights=chosen)
        else:
            model = _built(models, name, weights)
    except FinepruningError:
        raise
    except Exception as error:  # an unknown name, a network without weights, no connection
        raise FinepruningError(f"--model {spec}: {wanted(error, weights)}") from error
    if weights is not None:
        weights.fit_into(model)
    crop = getattr(preset, "crop_size", None)  # networks for segmentation take all of a picture
    preprocess = Preprocess(
        _square(preset.resize_size),
        None if crop is None else _square(crop),
        tuple(preset.mean),
        tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    return Loaded(model, preprocess, tuple(classes) if classes and weights is None else None)


OWN_INPUT = ("googlenet", "inception_v3")
"""Networks that turn ImageNet's normalisation into their own, as their published weights need."""


def _built(models: Any, name: str, weights: Checkpoint) -> Any:
    """A network that the user's weights fit, which downloads nothing."""
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights": None}
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if name in OWN_INPUT:
        options |= {"init_weights": False, "transform_input": True}
        options["aux_logits"] = any(key.lower().startswith("aux") for key in weights.tensors)
    model = models.get_model(name, **options)
    classes = _classes_in(model, weights.tensors)
    return model if classes is None else models.get_model(name, **options, num_classes=classes)


def _classes_in(model: Any, tensors: Mapping[str, Any]) -> int | None:
    """How many classes a checkpoint's last layer has, where the model's has another number."""
    own = [(key, value) for key, value in model.state_dict().items() if value.ndim > 1]
    key, last = own[-1]
    found = next((value for name, value in tensors.items() if name.endswith(key)), None)
    if found is None or found.shape == last.shape or found.shape[1:] != last.shape[1:]:
        return None
    return len(found)


def _square(size: Any) -> int | tuple[int, int]:
    """Torchvision writes a side as ``[224]``, timm and others as ``224`` or ``(224, 224)``."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))
