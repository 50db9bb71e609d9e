"""``timm:NAME``: a network of PyTorch Image Models."""

from __future__ import annotations

from .._errors import FinepruningError
from ..data.pictures import Preprocess
from .libraries import import_library, wanted
from .loaded import Loaded
from .weights import Checkpoint

FORM = "timm:NAME"


def takes(spec: str) -> bool:
    """Whether ``spec`` has this source's form."""
    return spec.partition(":")[0] == "timm"


def load(spec: str, weights: Checkpoint | None) -> Loaded:
    timm = import_library("timm", f"--model {spec}")
    name = spec.partition(":")[2]
    tensors = {} if weights is None else weights.tensors
    try:
        model = timm.create_model(name, pretrained=weights is None)
        head = tensors.get(f"{model.pretrained_cfg.get('classifier')}.weight")
        if head is not None and len(head) != model.num_classes:
            model = timm.create_model(name, pretrained=False, num_classes=len(head))
    except Exception as error:  # an unknown name, a network without weights, no connection
        raise FinepruningError(f"--model {spec}: {wanted(error, weights)}") from error
    if weights is not None:
        weights.fit_into(model)
    config = timm.data.resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    if config["crop_mode"] == "border" or height != width or config["interpolation"] == "random":
        return Loaded(model.float(), timm.data.create_transform(**config, is_training=False))
    scaled = int(height / config["crop_pct"])
    preprocess = Preprocess(
        (scaled, scaled) if config["crop_mode"] == "squash" else scaled,
        height,
        tuple(config["mean"]),
        tuple(config["std"]),
        channels,
        config["interpolation"],
    )
    return Loaded(model.float(), preprocess)
