"""Writing an artifact: all of it, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .._errors import FinepruningError
from ..steps.statistics import Statistics
from .layout import FORMAT, JSON, STATISTICS, TENSORS, check_place, read_about
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
) -> None:
    """Write the artifact for ``model`` at ``path``: all or nothing.

    ``pruned`` and ``changed`` name the parameters that are stored as mask and values, and as they
    are. Raises :class:`FinepruningError` where ``path`` cannot be written, or exists and is not to
    be ``replace`` d.
    """
    out = Path(path)
    if replace and out.exists():
        read_about(out)  # nothing is replaced that is no artifact
    else:
        check_place(out)
    tensors: dict[str, Tensor] = {}
    for name in pruned:
        flat = model.get_parameter(name).detach().cpu().reshape(-1)
        mask = flat != 0
        tensors[f"{name}.mask"] = torch.from_numpy(np.packbits(mask.numpy()))
        tensors[f"{name}.values"] = flat[mask].clone()
    for name in changed:
        tensors[name] = tensor_of(model, name).detach().cpu().clone()
    about = {"format": FORMAT, "base": base, "pruned": pruned, "changed": changed, "report": report}
    if moving:
        about["moving"] = [*moving]
    if plain:
        about["plain"] = dict(plain)
    if source is not None:
        about["source"] = source
    aside: str | None = None
    try:
        aside = tempfile.mkdtemp(prefix=".finepruning-", dir=out.absolute().parent)
        save_file(tensors, Path(aside, TENSORS))
        Path(aside, JSON).write_text(json.dumps(about, indent=1) + "\n")
        # mkdtemp's folder and safetensors' file are their owner's alone.
        os.chmod(aside, 0o777 & ~_umask())
        os.chmod(Path(aside, TENSORS), 0o666 & ~_umask())
        if statistics is not None:
            save_file(to_tensors(statistics), Path(aside, STATISTICS))  # their owner's alone
        if replace and out.exists():
            aside = _swapped(aside, out)
        else:
            os.rename(aside, out)
            aside = None
    except (OSError, SafetensorError) as error:
        raise FinepruningError(
            f"{out}: cannot be written ({error}); free some space or give another place"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name."""
    owner, _, key = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), key)
    return tensor


def _swapped(aside: str, out: Path) -> str:
    """Put a folder in the place of another, with whatever else lies there; the old one, to be
    removed."""
    old = tempfile.mkdtemp(prefix=".finepruning-old-", dir=out.absolute().parent)
    before = Path(old, out.name)
    try:
        os.rename(out, before)
        os.rename(aside, out)
    except OSError:
        if before.exists():
            os.rename(before, out)
        shutil.rmtree(old, ignore_errors=True)
        raise
    for other in before.iterdir():
        if other.name not in (JSON, TENSORS, STATISTICS):
            os.rename(other, out / other.name)
    return old


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
