"""Copies of networks, also of such as hold a tensor that was computed with gradients."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module) -> nn.Module:
    """A copy of ``model``, in evaluation mode.

    Weights that the old ``weight_norm`` and ``spectral_norm`` compute, and whatever else a forward
    pass leaves on a module, are no leaves, which ``copy.deepcopy`` refuses. Their values will do.
    """
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, memo).eval()
