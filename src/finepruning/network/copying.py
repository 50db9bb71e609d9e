"""Copies of networks, also of such as ``copy.deepcopy`` refuses, or copies by half."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from .replica import mapped


def copied(model: nn.Module) -> nn.Module:
    """A copy of ``model``, in evaluation mode, that shares nothing with it that is written to.

    Weights that the old ``weight_norm`` and ``spectral_norm`` compute, and whatever else a forward
    pass leaves on a module, are no leaves, which ``copy.deepcopy`` refuses: their values will do.
    Functions it takes for constants: a ``forward`` or a hook that was patched on, and has a module
    at hand, would go on calling the given one.
    """
    given = [*model.modules()]
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in given
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    made = copy.deepcopy(model, memo)
    known = {key: value for key, value in memo.items() if isinstance(value, nn.Module | Tensor)}
    for module in given:
        if isinstance(module, torch.jit.ScriptModule):  # its state is not in Python
            continue
        twin = vars(known[id(module)])
        for name, value in vars(module).items():
            if _has_functions(value):
                twin[name] = mapped(value, known)
    return made.eval()


def _has_functions(value: Any) -> bool:
    if isinstance(value, FunctionType):
        return True
    return type(value) in (dict, OrderedDict) and any(map(_has_functions, value.values()))
