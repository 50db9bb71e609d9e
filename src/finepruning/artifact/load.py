"""Reading an artifact: the base network becomes this person's, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import FinepruningError
from ..network.copying import copied
from ..network.plain import become
from .fingerprint import is_of
from .folder import HEADER, damaged, file_of, read_tensors
from .kept import remember
from .layout import read_about
from .values import parts_of, restored


def load(path: str | os.PathLike[str], base: nn.Module, *, key: bytes | None = None) -> nn.Module:
    """Turn ``base`` into the network that was saved at ``path``; ``base`` itself is left untouched.

    >>> model = finepruning.load("me/", base)  # doctest: +SKIP

    ``base`` must be the same pretrained module, with the same weights, that was personalised;
    ``key`` what the artifact was sealed with, if it was. Returns a new module in evaluation mode,
    bit for bit the one that was saved. Raises :class:`FinepruningError` where the artifact is
    damaged, not whole, sealed otherwise, or belongs to another base; nothing else.
    """
    if not isinstance(base, nn.Module):
        raise FinepruningError(f"base: a {type(base).__name__}; give the torch.nn.Module")
    about, tensors = read_whole(path, base, key)
    kind = about.get("values", "exact")
    try:
        with torch.inference_mode(False), torch.no_grad():
            model = copied(base)
            for name, how in about.get("plain", {}).items():
                become(model.get_submodule(name), how)
            for name in about["pruned"]:
                weight = model.get_parameter(name)
                weight.copy_(restored(name, weight, tensors, kind))
            for name in about["changed"]:
                _set(model, name, tensors[name])
    except Exception as error:  # whatever a hostile one comes up with
        raise damaged(path, error) from error
    statistics = file_of(Path(path), about, "statistics")
    if statistics is not None and statistics.is_file():
        remember(model, (Path(path).absolute(), key))
    return model


def read_whole(
    path: str | os.PathLike[str], base: nn.Module, key: bytes | None, known: str = ""
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the artifact says and holds, of the same moment: another process may replace it.
    ``known`` is the fingerprint of ``base``, if it is known."""
    about = read_about(path, key)
    while True:
        try:
            return about, _tensors(path, about, base, known)
        except FinepruningError:
            again = read_about(path, key)
            if again == about:
                raise
            about = again


def _tensors(
    path: str | os.PathLike[str], about: dict[str, Any], base: nn.Module, known: str
) -> dict[str, Tensor]:
    if known != about["base"] and not is_of(base, about["base"], about.get("moving", ())):
        raise FinepruningError(
            f"{Path(path)}: made for another base model; load the weights that were personalised"
        )
    tensors = read_tensors(Path(path), about, "personal", _most(about, base))
    parts = parts_of(about.get("values", "exact"))
    wanted = {*about["changed"], *(f"{n}.{part}" for n in about["pruned"] for part in parts)}
    for name in sorted(wanted.symmetric_difference(tensors)):
        raise damaged(path, f"{name!r} is {'missing' if name in wanted else 'one too many'}")
    return tensors


def _most(about: dict[str, Any], base: nn.Module) -> int:
    """Bytes that tensors of these names can take, by the shapes of the base."""
    held = {n: v for n, v in base.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    # Not nbytes, which sparse ones have none of.
    sizes = {name: value.numel() * value.element_size() for name, value in held.items()}
    largest = max(sizes.values(), default=0)
    total = HEADER
    for name in about["changed"]:
        # A bias that the base has none of is no larger than its largest parameter.
        total += 2 * (len(name.encode()) + HEADER) + (
            held[name].nbytes if name in held else largest
        )
    for name in about["pruned"]:
        total += PARTS * (len(name.encode()) + HEADER)
        total += EACH * held[name].numel() if name in held else 0
    return total


PARTS, EACH = 12, 16
"""Tensors that a pruned weight is stored as, and bytes that each of its elements takes, at most."""


def _set(model: nn.Module, name: str, value: Tensor) -> None:
    """Store a changed parameter: in place where there is one, which others may share."""
    check_changed(model, name, value)
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    given = getattr(module, key)
    if given is None:
        device = next(model.parameters()).device
        setattr(module, key, nn.Parameter(value.to(device), requires_grad=False))
    else:
        given.copy_(value)


def check_changed(model: nn.Module, name: str, value: Tensor) -> None:
    """Raise :class:`ValueError` where ``value`` cannot take the place of a parameter or buffer, or
    of a bias that there is none of."""
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    given = module._parameters.get(key, module._buffers.get(key))
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name!r} holds what is no number")
    if given is None and getattr(module, key) is None:
        weight = module.get_parameter(key.replace("bias", "weight"))
        outputs = getattr(module, "out_channels", weight.shape[0])  # of a transposed convolution
        outputs = getattr(module, "nf", outputs)  # transformers' Conv1D
        fits = value.shape == (outputs,) and value.dtype == weight.dtype
    else:
        fits = given is not None and (given.shape, given.dtype) == (value.shape, value.dtype)
    if not fits:
        raise ValueError(f"{name!r} has another shape or type")
