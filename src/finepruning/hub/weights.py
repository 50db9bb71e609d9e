"""Checkpoints: read without running any code in them, and fitted tensor by tensor."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

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


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint as a flat dict of tensors on the CPU; wrappers around it are taken off."""
    path = Path(path)
    if not path.is_file():
        raise FinepruningError(f"--weights {path}: no such file")
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
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FinepruningError(f"--weights {path}: not a dict of tensors; save model.state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}  # DataParallel's


def fit_weights(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load ``state`` into ``model``, in the model's dtypes; every tensor must fit."""
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
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
