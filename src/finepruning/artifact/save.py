"""Writing an artifact: all of it, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .._errors import FinepruningError
from .layout import FORMAT, JSON, TENSORS


def save(
    path: str | os.PathLike[str],
    model: nn.Module,
    pruned: list[str],
    changed: list[str],
    base: str,
    report: dict[str, Any],
) -> None:
    """Write the artifact for ``model`` at ``path``: all or nothing.

    ``pruned`` and ``changed`` name the parameters that are stored as mask and values, and as they
    are. Raises :class:`FinepruningError` where ``path`` exists or cannot be written.
    """
    out = Path(path)
    if out.exists() or out.is_symlink():
        raise FinepruningError(f"{out}: exists already; remove it or give another name")
    if not out.absolute().parent.is_dir():
        raise FinepruningError(f"{out}: there is no folder {out.parent}; make it first")
    tensors: dict[str, Tensor] = {}
    for name in pruned:
        flat = model.get_parameter(name).detach().cpu().reshape(-1)
        mask = flat != 0
        tensors[f"{name}.mask"] = torch.from_numpy(np.packbits(mask.numpy()))
        tensors[f"{name}.values"] = flat[mask].clone()
    for name in changed:
        tensors[name] = model.get_parameter(name).detach().cpu().clone()
    about = {"format": FORMAT, "base": base, "pruned": pruned, "changed": changed, "report": report}
    aside: str | None = None
    try:
        aside = tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent)
        save_file(tensors, Path(aside, TENSORS))
        Path(aside, JSON).write_text(json.dumps(about, indent=1) + "\n")
        # mkdtemp's folder and safetensors' file are their owner's alone.
        os.chmod(aside, 0o777 & ~_umask())
        os.chmod(Path(aside, TENSORS), 0o666 & ~_umask())
        os.rename(aside, out)
        aside = None
    except (OSError, SafetensorError) as error:
        raise FinepruningError(
            f"{out}: cannot be written ({error}); free some space or give another place"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
