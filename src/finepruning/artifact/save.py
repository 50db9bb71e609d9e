"""Writing an artifact: all of it, or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..steps.statistics import Statistics
from .folder import write_folder
from .layout import FORMAT, JSON, check_place, read_about
from .statistics import to_tensors


def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    pruned: list[str],
    changed: list[str],
    base: str,
    report: dict[str, Any],
    *,
    statistics: Statistics | None = None,
    replace: bool = False,
    source: dict[str, Any] | None = None,
    plain: Mapping[str, Any] | None = None,
    moving: Sequence[str] = (),
    key: bytes | None = None,
) -> None:
    """Write the artifact for ``model`` at ``path``: all or nothing, also where the process is
    killed meanwhile.

    ``pruned`` and ``changed`` name the parameters that are stored as mask and values, and as they
    are; ``key`` is what it is sealed with. Raises :class:`FinepruningError` where ``path`` cannot
    be written, or exists and is not to be ``replace`` d.
    """
    out = Path(path)
    there = replace and out.exists()
    if not there:
        check_place(out)
    # Nothing is replaced that is no artifact.
    before = read_about(out, key) if there else None
    about: dict[str, Any] = {"format": FORMAT, "base": base, "pruned": pruned, "changed": changed}
    if moving:
        about["moving"] = [*moving]
    if plain:
        about["plain"] = dict(plain)
    if source is not None:
        about["source"] = source
    parts = {"personal": _tensors(model, pruned, changed)}
    if statistics is not None:
        parts["statistics"] = to_tensors(statistics)
    about["report"] = report
    write_folder(out, JSON, about, parts, key=key, private=("statistics",), before=before)


def _tensors(model: nn.Module, pruned: list[str], changed: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in pruned:
        flat = model.get_parameter(name).detach().cpu().reshape(-1)
        mask = flat != 0
        tensors[f"{name}.mask"] = torch.from_numpy(np.packbits(mask.numpy()))
        tensors[f"{name}.values"] = flat[mask].clone()
    for name in changed:
        tensors[name] = tensor_of(model, name).detach().cpu().clone()
    return tensors


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name."""
    owner, _, key = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), key)
    return tensor
