"""The artifact: the small folder that turns the base model into this person's.

``finepruning.json`` says what it is and which base it fits; ``personal.safetensors`` holds, for
each pruned weight ``NAME``, ``NAME.mask`` (uint8, one bit a weight, most significant first, in
memory order) and ``NAME.values`` (the weights that stay, in the same order), and each changed bias
as it is. No pickle.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ._errors import FinepruningError

FORMAT = 1
JSON, TENSORS = "finepruning.json", "personal.safetensors"


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    return digest.hexdigest()


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


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The artifact's JSON. Raises :class:`FinepruningError` where it is none, or of another
    format."""
    file = Path(path, JSON)
    try:
        about = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise FinepruningError(
            f"{Path(path)}: not a finepruning artifact ({file.name} cannot be read);"
            " give the folder that personalize wrote"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise FinepruningError(
            f"{file}: not of format {FORMAT}; load it with the version that wrote it"
        )
    kinds = {"base": str, "pruned": list, "changed": list, "report": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            raise FinepruningError(f"{file}: damaged artifact (no {key!r}); personalise anew")
    return about


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The report that was saved with an artifact, as :meth:`finepruning.Report.to_dict` gave it."""
    return read_about(path)["report"]


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
    if fingerprint(base) != about["base"]:
        raise FinepruningError(
            f"{Path(path)}: made for another base model; load the weights that were personalised"
        )
    try:
        with torch.inference_mode(False), torch.no_grad():
            tensors = load_file(Path(path, TENSORS))
            model = copy.deepcopy(base).eval()
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
    given = module._parameters[key]
    if given is None:
        device = next(model.parameters()).device
        setattr(module, key, nn.Parameter(value.to(device), requires_grad=False))
    elif given.shape != value.shape or given.dtype != value.dtype:
        raise ValueError(f"{name!r} has another shape or type")
    else:
        given.copy_(value)
