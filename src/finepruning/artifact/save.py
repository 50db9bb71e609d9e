"""Writing an artifact: all of it, or nothing."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .._errors import FinepruningError
from .._version import __version__
from ..steps.statistics import Statistics
from .aside import aside
from .layout import FORMAT, JSON, NAMES, check_place, read_about
from .seal import ZEROS, digest_of, sealed
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
    if there:
        before = _names(read_about(out, key))  # nothing is replaced that is no artifact
    else:
        check_place(out)
        before = []
    about = {
        "format": FORMAT, "seal": "sha256" if key is None else "hmac-sha256", "base": base,
        "pruned": pruned, "changed": changed, "written": time.strftime(DATE, time.gmtime()),
        "versions": {
            "finepruning": __version__, "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }  # fmt: skip
    if moving:
        about["moving"] = [*moving]
    if plain:
        about["plain"] = dict(plain)
    if source is not None:
        about["source"] = source
    parts = {"personal": _tensors(model, pruned, changed)}
    if statistics is not None:
        parts["statistics"] = to_tensors(statistics)
    try:
        with aside(out if there else out.absolute().parent) as folder:
            files: dict[str, Any] = {}
            for part, tensors in parts.items():
                name = next(name for name in NAMES[part] if name not in before)
                save_file(tensors, folder / name)
                if part == "personal":  # statistics are their owner's alone
                    os.chmod(folder / name, 0o666 & ~_umask())
                size = (folder / name).stat().st_size
                files[part] = {"name": name, "bytes": size, "sha256": digest_of(folder / name)}
            text = {"digest": ZEROS.decode(), **about, "files": files, "report": report}
            written = sealed(f"{json.dumps(text, indent=1)}\n".encode(), key)
            (folder / JSON).write_bytes(written)
            os.chmod(folder / JSON, 0o666 & ~_umask())
            _to_disk(folder)
            if there:
                _commit(folder, out)
            else:
                os.chmod(folder, 0o777 & ~_umask())  # mkdtemp's is its owner's alone
                os.rename(folder, out)
    except (OSError, SafetensorError) as error:
        raise FinepruningError(
            f"{out}: cannot be written ({error}); free some space or give another place"
        ) from error


DATE = "%Y-%m-%dT%H:%M:%SZ"


def _names(about: dict[str, Any]) -> list[str]:
    if about["format"] == 1:
        return [names[0] for names in NAMES.values()]
    return [of["name"] for of in about["files"].values()]


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


def _commit(folder: Path, out: Path) -> None:
    """Put the files of ``folder`` beside those of before; from when the JSON is there, they are
    the artifact, and all others of such names go."""
    new = [file.name for file in folder.iterdir() if file.name != JSON]
    for name in [*new, JSON]:
        os.replace(folder / name, out / name)
    for name in {name for names in NAMES.values() for name in names} - {*new}:
        (out / name).unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name."""
    owner, _, key = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(owner), key)
    return tensor


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
