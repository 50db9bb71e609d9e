"""Reading an artifact: the base network becomes this person's, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .._errors import FinepruningError
from ..network.copying import copied
from ..network.plain import become
from .fingerprint import fingerprint
from .kept import remember
from .layout import STATISTICS, TENSORS, read_about


def load(path: str | os.PathLike[str], base: nn.Module) -> nn.Module:
    """Turn ``base`` into the network that was saved at ``path``; ``base`` itself is left untouched.

    >>> model = finepruning.load("me/", base)  # doctest: +SKIP

    ``base`` must be the same pretrained module, with the same weights, that was personalised.
    Returns a new module in evaluation mode, bit for bit the one that was saved. Raises
    :class:`FinepruningError` where the artifact is damaged or belongs to another base.
    """
    about = read_about(path)
    if not isinstance(base, nn.Module):
        raise FinepruningError(f"base: a {type(base).__name__}; give the torch.nn.Module")
    if fingerprint(base, about.get("moving", ())) != about["base"]:
        raise FinepruningError(
            f"{Path(path)}: made for another base model; load the weights that were personalised"
        )
    try:
        with torch.inference_mode(False), torch.no_grad():
            tensors = load_file(Path(path, TENSORS))
            model = copied(base)
            for name, how in about.get("plain", {}).items():
                become(model.get_submodule(name), how)
            for name in about["pruned"]:
                weight = model.get_parameter(name)
                weight.copy_(_unpack(name, weight, tensors))
            for name in about["changed"]:
                _set(model, name, tensors[name])
    except (
        OSError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError, AttributeError
    ) as error:  # fmt: skip
        raise FinepruningError(
            f"{Path(path)}: damaged artifact ({' '.join(str(error).split())}); personalise anew"
        ) from error
    if Path(path, STATISTICS).is_file():
        remember(model, Path(path).absolute())
    return model


def _unpack(name: str, weight: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    packed, values = tensors[f"{name}.mask"], tensors[f"{name}.values"]
    size = weight.numel()
    if packed.shape != (-(-size // 8),):
        raise ValueError(f"the mask of {name!r} is for another size")
    bits = torch.from_numpy(np.unpackbits(packed.numpy(), count=size).astype(bool))
    if values.shape != (int(bits.sum()),) or values.dtype != weight.dtype:
        raise ValueError(f"the values of {name!r} do not fit its mask")
    flat = torch.zeros(size, dtype=weight.dtype)
    flat[bits] = values
    return flat.reshape(weight.shape)


def _set(model: nn.Module, name: str, value: Tensor) -> None:
    """Store a changed parameter: in place where there is one, which others may share."""
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    given = module._parameters.get(key, module._buffers.get(key))
    if given is None and getattr(module, key) is None:
        device = next(model.parameters()).device
        setattr(module, key, nn.Parameter(value.to(device), requires_grad=False))
    elif given is None or given.shape != value.shape or given.dtype != value.dtype:
        raise ValueError(f"{name!r} has another shape or type")
    else:
        given.copy_(value)
