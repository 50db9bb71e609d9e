"""Checkpoints: read without running any code in them, and fitted tensor by tensor."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .._errors import FinepruningError
from .libraries import one_line


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, to go into a network that some source has built."""

    path: str | Path
    tensors: dict[str, Tensor]

    def fit_into(self, model: nn.Module) -> None:
        """Load all of it into ``model``: :func:`fit_weights`."""
        fit_weights(model, self.tensors, self.path)


WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema")
"""Under what a checkpoint may hold its tensors, beside optimisers and counts."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What wrappers put before names: DataParallel, torch.compile, Lightning."""
INDEX = ".index.json"


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint as a flat dict of tensors on the CPU; wrappers around it are taken off.

    It may be in several files: give their ``.index.json``, or the folder that holds it.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise FinepruningError(f"--weights {path}: no such file")
    if path.name.endswith(INDEX):
        return _sharded(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FinepruningError(
            f"--weights {path}: holds more than tensors (a whole pickled model?) or is damaged;"
            " save model.state_dict() instead"
        ) from None
    except Exception as error:  # a reader of arbitrary bytes may raise anything at all
        raise FinepruningError(f"--weights {path}: cannot be read: {one_line(error)}") from None
    found = _tensors_in(state)
    if found is None:
        raise FinepruningError(f"--weights {path}: not a dict of tensors; save model.state_dict()")
    return found


def _tensors_in(state: Any, depth: int = 3) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint, however it is nested; None: there are none."""
    if not isinstance(state, dict) or not depth:
        return None
    named = all(isinstance(key, str) for key in state)
    if state and named and all(isinstance(value, Tensor) for value in state.values()):
        return state
    for key in WRAPPERS:
        if (found := _tensors_in(state.get(key), depth - 1)) is not None:
            return found
    return None


def _in_folder(folder: Path) -> Path:
    """The file of a folder that holds its weights, or lists the files that do."""
    files = sorted(folder.glob(f"*{INDEX}")) or sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise FinepruningError(
            f"--weights {folder}: {len(files)} files of weights in it; give one of them"
        )
    return files[0]


def _sharded(path: Path) -> dict[str, Tensor]:
    try:
        where = json.loads(path.read_text())["weight_map"]
        files = sorted(set(where.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FinepruningError(f"--weights {path}: cannot be read: {one_line(error)}") from None
    parts = [read_weights(path.parent / Path(str(file)).name) for file in files]
    return {key: value for part in parts for key, value in part.items()}


def _without_prefixes(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The same tensors by the names that the model itself has, where wrappers have changed
    them."""

    def known(some: dict[str, Tensor]) -> int:
        return len(some.keys() & own)

    best = state
    for count in (1, 2, 3):
        for wrappers in product(PREFIXES, repeat=count):
            prefix = "".join(wrappers)
            inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if known(inside) > known(best):
                best = inside
    return best


AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")
"""Heads that some networks have for training alone."""


def fit_weights(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load ``state`` into ``model``, in the model's dtypes; every tensor must fit."""
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    state = _without_prefixes(state, own.keys())
    if not any(key.startswith(AUXILIARY) for key in own):
        state = {key: v for key, v in state.items() if not key.startswith(AUXILIARY)}
    for key, value in state.items():
        if key in own and own[key].is_floating_point() and not value.is_floating_point():
            raise FinepruningError(
                f"--weights {source}: {key} holds {value.dtype}, where the network has"
                f" {own[key].dtype}: a quantised checkpoint? give the one it was made from"
            )
    # Formats that store a shared tensor once leave out its other names; and checkpoints from
    # before PyTorch 0.4.1 have no num_batches_tracked, which no inference needs.
    given = {own[key].data_ptr() for key in own.keys() & state.keys() if own[key].numel()}
    missing = [
        f"{key} {_shape(value)}"
        for key, value in own.items()
        if key not in state
        and value.data_ptr() not in given
        and not key.endswith("num_batches_tracked")
    ]
    problems = [
        ("missing", missing),
        ("unexpected", [f"{key} {_shape(v)}" for key, v in state.items() if key not in own]),
        (
            "of another shape",
            [
                f"{key} {_shape(state[key])} for {_shape(value)}"
                for key, value in own.items()
                if key in state and state[key].shape != value.shape
            ],
        ),
    ]
    found = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for what, keys in problems
        if keys
    ]
    if found:
        raise FinepruningError(
            f"--weights {source}: does not fit this model ({'; '.join(found)});"
            " give the checkpoint that was made for it"
        )
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise FinepruningError(f"--weights {source}: does not fit: {one_line(error)}") from None


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))
