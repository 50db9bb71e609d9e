"""``FILE.py:function``: the user's own code, which returns a network and may say how to prepare."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .._errors import FinepruningError
from ..data.front_end import FrontEnd
from ..data.pictures import Preprocess
from .loaded import Loaded
from .python_file import run_function
from .weights import Checkpoint

FORM = "FILE.py:function"


def takes(spec: str) -> bool:
    """Whether ``spec`` has this source's form."""
    return spec.rpartition(":")[0].endswith(".py")


def load(spec: str, weights: Checkpoint | None) -> Loaded:
    file, _, function = spec.rpartition(":")
    made = run_function(Path(file), function, "--model")
    model, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not (preprocess is None or callable(preprocess)):
        raise FinepruningError(
            f"--model {file}:{function}: returned {type(made).__name__};"
            " return a torch.nn.Module, or (module, preprocess)"
        )
    if weights is not None:
        weights.fit_into(model)
    front = preprocess if isinstance(preprocess, FrontEnd) else None
    assumed = preprocess is None
    return Loaded(model, preprocess or Preprocess(), None, assumed, front, own=front is None)
