"""Statistics as tensors by name, and back.

``samples``, ``squares``, ``logits``, ``shift``; ``inputs/LAYER/`` ``count``, ``mean``, ``F``
(float16, in units of ``scale``) and ``rest``; ``means/LAYER/`` and ``norms/NORM/`` the sums that
they are; ``classes`` ``(k, 2)``, numbers and samples, and ``sums/LAYER`` ``(k, C)``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .._errors import FinepruningError
from ..core.arrays import TINY, LowRank
from ..core.drift import Usual
from ..core.moments import Gram, Marginals
from ..network.norms import ChannelMoments
from ..steps.statistics import Statistics
from .layout import STATISTICS, file_of, read_about
from .seal import read_file


def to_tensors(statistics: Statistics) -> dict[str, Tensor]:
    """All of it, by name."""
    found: dict[str, Any] = {"samples": statistics.samples, "squares": statistics.usual.squares}
    if statistics.logits is not None:
        found["logits"] = statistics.logits
    if statistics.shift is not None:
        found["shift"] = statistics.shift
    for name, gram in statistics.inputs.items():
        scale = gram.H.F.abs().amax() + TINY
        rest = gram.H.diagonal() * 0 if gram.H.rest is None else gram.H.rest
        parts = {"count": gram.count, "mean": gram.mean.float(), "rest": rest.float()}
        parts |= {"F": (gram.H.F / scale).half(), "scale": scale.float()}
        found |= {f"inputs/{name}/{key}": value for key, value in parts.items()}
    found |= {f"offsets/{name}": value for name, value in statistics.offsets.items()}
    if statistics.usual.counts:
        counts = statistics.usual.counts
        found["classes"] = torch.tensor([*counts.items()], dtype=torch.float64)
        for name, by in statistics.usual.sums.items():
            found[f"sums/{name}"] = torch.from_numpy(np.stack([by[k] for k in counts])).float()
    for kind, of in (("means", statistics.usual.means), ("norms", statistics.norms)):
        for name, sums in of.items():
            values = {f.name: getattr(sums, f.name) for f in fields(sums)}
            found |= {f"{kind}/{name}/{key}": value for key, value in values.items()}
    return {name: _tensor(value) for name, value in found.items()}


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().clone()
    return torch.tensor(value, dtype=torch.float64)


LARGEST = 2**32
"""Bytes of a file of format 1, which does not say how many it has."""


def read_statistics(path: str | os.PathLike[str], key: bytes | None = None) -> Statistics:
    """What was kept with an artifact, sealed with ``key``. Raises :class:`FinepruningError` where
    nothing was, or it is damaged."""
    about = read_about(path, key)
    file = file_of(path, about, "statistics")
    if file is None or not file.is_file():
        raise FinepruningError(
            f"{Path(path)}: nothing was kept for updates (no {STATISTICS}); personalise anew"
        )
    try:
        said = about["files"]["statistics"] if about["format"] > 1 else {}
        data = read_file(file, said.get("bytes", LARGEST))
        if said and hashlib.sha256(data).hexdigest() != said["sha256"]:
            raise ValueError(f"{file.name} is not the file that was saved")
        return _of(safetensors.torch.load(data))
    except FinepruningError:
        raise
    except Exception as error:  # whatever a damaged one comes up with
        raise FinepruningError(
            f"{file}: damaged ({' '.join(str(error).split())}); personalise anew"
        ) from error


def _of(tensors: dict[str, Tensor]) -> Statistics:
    groups: dict[str, dict[str, dict[str, Any]]] = {
        "inputs": {},
        "means": {},
        "norms": {},
        "sums": {},
    }
    offsets: dict[str, Tensor] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "offsets":
            offsets[rest] = value
        elif kind == "sums":
            groups[kind][rest] = {"": value.double().numpy()}
        elif kind in groups:
            name, _, part = rest.rpartition("/")
            groups[kind].setdefault(name, {})[part] = value if value.ndim else value.item()
    inputs = {
        name: Gram(p["count"], p["mean"], LowRank(p["F"].float() * p["scale"], p["rest"]))
        for name, p in groups["inputs"].items()
    }
    means = {
        name: Marginals(p["count"], p["total"].numpy(), p["squares"].numpy())
        for name, p in groups["means"].items()
    }
    norms = {name: ChannelMoments(**parts) for name, parts in groups["norms"].items()}
    classes = tensors.get("classes", torch.empty(0, 2))
    counts = {int(k): float(n) for k, n in classes.tolist()}
    sums = {name: dict(zip(counts, of[""], strict=True)) for name, of in groups["sums"].items()}
    usual = Usual(means, float(tensors["squares"]), counts, sums)
    return Statistics(
        float(tensors["samples"]), inputs, usual, norms, tensors.get("logits"),
        tensors.get("shift"), offsets,
    )  # fmt: skip
