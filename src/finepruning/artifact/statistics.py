"""Statistics as tensors by name, and back.

``samples``, ``squares``, ``logits``, ``shift``; ``inputs/LAYER/`` ``count``, ``mean``, ``F``
(float16, in units of ``scale``) and ``rest``; ``means/LAYER/`` and ``norms/NORM/`` the sums that
they are; ``classes`` ``(k, 2)``, numbers and samples, and ``sums/LAYER`` ``(k, C)``.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import FinepruningError
from ..core.arrays import TINY, LowRank
from ..core.drift import Usual
from ..core.moments import Gram, Marginals
from ..network.norms import ChannelMoments
from ..steps.statistics import Statistics
from .folder import damaged, file_of, read_tensors
from .layout import STATISTICS, read_about


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
"""Bytes that they never take."""


def read_statistics(path: str | os.PathLike[str], key: bytes | None = None) -> Statistics:
    """What was kept with an artifact, sealed with ``key``. Raises :class:`FinepruningError` where
    nothing was, or it is damaged."""
    about, folder = read_about(path, key), Path(path)
    file = file_of(folder, about, "statistics")
    if file is None or not file.is_file():
        raise FinepruningError(
            f"{folder}: nothing was kept for updates (no {STATISTICS}); personalise anew"
        )
    tensors = read_tensors(folder, about, "statistics", LARGEST)
    try:
        return _of(tensors)
    except Exception as error:  # whatever a hostile one comes up with
        raise damaged(file, error) from error


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
