"""Replicas: twins of a network with the same parameters and a state of their own.

Every forward pass of ours runs on a replica and none on the network itself. What a model's forward
keeps on its modules (attributes, buffers, lists, what hooks record) goes to the replica, and with
it: nothing of a person's data stays behind, and batches that are under way at once do not meet.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1 << 16
"""Elements of a tensor up to which every replica gets its own, without a question whether it ever
changes."""

_ATOMS = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type),
        *(torch.dtype, torch.device, torch.Size),
    )
)
"""Types of values that never change, and so are shared."""
_CONTAINERS = (list, dict, set)

Recipe = list[tuple[str, Callable[[Any, dict[int, Any]], Any]]]


class Replicas:
    """Makes replicas of ``model``, whose structure stays as it is from now on.

    ``changing`` holds the ids of large tensors, beside parameters, that a forward pass is known to
    change: they are copied too.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [*{id(m): m for m in model.modules()}.values()]
        self._recipes = [_recipe(m) for m in self._modules]
        self._shared = {id(p): p for p in model.parameters()}
        self.changing: set[int] = set()

    def make(self) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
        """A replica, and for each module of the network its twin."""
        twins = {m: _blank(m) for m in self._modules}
        # What copy.deepcopy takes for copied already.
        memo: dict[int, Any] = {id(m): twin for m, twin in twins.items()} | self._shared
        memo[_POLICY] = self.changing
        for module, recipe in zip(self._modules, self._recipes, strict=True):
            twin = twins[module]
            if twin is module:
                continue
            state = vars(module).copy()
            for name, way in recipe:
                state[name] = way(state[name], memo)
            vars(twin).update(state)
            if type(module).__name__ == "OptimizedModule":  # compiled: run what it was made of
                vars(twin)["forward"] = twin._orig_mod
        return twins[self._modules[0]], twins


_POLICY = -1
"""Key of :attr:`Replicas.changing` among the ids of a memo: no object has it."""


def _blank(module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):  # its state is not in Python
        return module
    return object.__new__(type(module))


def _recipe(module: nn.Module) -> Recipe:
    """How each attribute of a module that is not simply shared gets to its twin."""
    recipe: Recipe = []
    for name, value in vars(module).items():
        if name == "_parameters" or type(value) in _ATOMS:
            continue
        if name == "_modules":
            recipe.append((name, _twins))
        elif type(value) in (dict, OrderedDict) and not value:
            recipe.append((name, _empty))
        else:
            recipe.append((name, _copied))
    return recipe


def _twins(value: Any, memo: dict[int, Any]) -> Any:
    return {name: None if m is None else memo[id(m)] for name, m in value.items()}


def _empty(value: Any, memo: dict[int, Any]) -> Any:
    return type(value)()  # ten times quicker than a copy, and a module has ten


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy in which modules are the replica's and parameters the network's."""
    known = memo.get(id(value))
    if known is not None or type(value) in _ATOMS:
        return value if known is None else known
    made: Any = value
    if isinstance(value, Tensor):
        if value.numel() <= SMALL or id(value) in memo[_POLICY]:
            made = value.detach().clone()
    elif isinstance(value, FunctionType):
        made = _function(value, memo)
    elif type(value) in _CONTAINERS and all(type(v) in _ATOMS for v in _values(value)):
        made = value.copy()
    elif isinstance(value, dict):
        made = copy.copy(value)
        memo[id(value)] = made
        for key, held in value.items():
            made[key] = _copied(held, memo)
    elif type(value) in (list, tuple):
        made = type(value)(_copied(held, memo) for held in value)
    else:
        try:
            made = copy.deepcopy(value, memo)
        except Exception:  # a lock, a file, a generator: what cannot be copied is shared
            made = value
    memo[id(value)] = made
    return made


def _values(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """A function, such as a hook, that writes to copies of what it has at hand."""
    cells = function.__closure__ or ()
    reachable = {
        name: held
        for name in function.__code__.co_names
        if type(held := function.__globals__.get(name)) in _CONTAINERS
    }
    if not cells and not reachable:
        return function
    closure = tuple(CellType(_cell(cell, memo)) for cell in cells)
    scope = function.__globals__
    if reachable:
        scope = dict(scope) | {name: _copied(held, memo) for name, held in reachable.items()}
    made = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    vars(made).update(vars(function))
    return made


def _cell(cell: CellType, memo: dict[int, Any]) -> Any:
    try:
        return _copied(cell.cell_contents, memo)
    except ValueError:  # nothing is in it yet
        return None
