"""Replicas: twins of a network with the same parameters and a state of their own.

Every forward pass of ours runs on a replica and none on the network itself. What a model's forward
keeps on its modules (attributes, buffers, lists, what hooks record) goes to the replica, and with
it: nothing of a person's data stays behind, and batches that are under way at once do not meet.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1 << 16
"""Elements of a tensor up to which every replica gets its own, without a question whether it ever
changes."""

_ATOMS = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, range, slice, type, ModuleType),
        *(torch.dtype, torch.device, torch.Size),
    )
)
"""Types of values that never change, and so are shared."""
_CONTAINERS = (list, dict, set, deque)

Recipe = list[tuple[str, Callable[[Any, dict[int, Any]], Any]]]


class Replicas:
    """Makes replicas of ``model``, whose structure stays as it is from now on.

    The first gets all of its large tensors copied, and shows which of them a forward pass changes:
    from then on only these are copied. Parameters never are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = [*{id(m): m for m in model.modules()}.values()]
        self._recipes = [_recipe(m) for m in self._modules]
        self._parameters = {id(p): p for p in model.parameters()}
        self._large = _Large()

    def make(self) -> tuple[nn.Module, dict[nn.Module, nn.Module]]:
        """A replica, and for each module of the network its twin."""
        twins = {m: _blank(m) for m in self._modules}
        self._large.look()
        # What copy.deepcopy takes for copied already.
        memo: dict[int, Any] = {id(m): twin for m, twin in twins.items()} | self._parameters
        memo[_POLICY] = self._large
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

    def put_back(self, given: nn.Module, ours: Iterable[Tensor]) -> None:
        """Put back what passes have written over, beside ``ours``: parameters and large buffers
        get the values that they have in ``given``, of which the network is a copy."""
        kept = set(map(id, ours))
        others = dict(given.named_modules())
        for path, mine in self._model.named_modules():
            theirs = others.get(path)
            if theirs is None or isinstance(mine, torch.jit.ScriptModule):
                continue
            large = {name: b for name, b in mine._buffers.items() if _is_large(b)}
            for name, value in {**mine._parameters, **large}.items():
                before = theirs._parameters.get(name, theirs._buffers.get(name))
                if value is None or before is None or id(value) in kept:
                    continue
                before = before.detach().to(value.device)
                if not torch.equal(value, before):
                    value.data.copy_(before)


class _Large:
    """Which large tensors are copied: all, until a pass has shown which of them change."""

    def __init__(self) -> None:
        self._copies: list[tuple[Tensor, Tensor]] | None = []
        self._changing: set[int] = set()

    def copy(self, value: Tensor) -> Tensor:
        """A copy of ``value``, or itself."""
        if self._copies is None and id(value) not in self._changing:
            return value
        made = value.detach().clone()
        if self._copies is not None:
            self._copies.append((value, made))
        return made

    def look(self) -> None:
        """What has come of the copies?"""
        if self._copies:
            self._changing = {id(v) for v, made in self._copies if not torch.equal(v, made)}
            self._copies = None


def _is_large(value: Tensor | None) -> bool:
    return value is not None and value.numel() > SMALL


OWN = frozenset(vars(nn.Module()))
"""What every module has to itself. Of anything else, two modules may share one object, an empty
list for example, that a pass writes to."""
_POLICY = -1
"""Key of :class:`_Large` among the ids of a memo: no object has it."""


def _blank(module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):  # its state is not in Python
        return module
    return object.__new__(type(module))


def _recipe(module: nn.Module) -> Recipe:
    """How each attribute of a module that is not simply shared gets to its twin."""
    recipe: Recipe = []
    for name, value in vars(module).items():
        if _constant(value):
            continue
        if name == "_modules":
            recipe.append((name, _twins))
        elif name == "_parameters":
            recipe.append((name, _shallow))
        elif name in OWN and type(value) in (dict, OrderedDict, set) and not value:
            recipe.append((name, _empty))
        else:
            recipe.append((name, _copied))
    return recipe


def _constant(value: Any) -> bool:
    """Whether nothing of it can change: half of what a module holds is such tuples of sizes."""
    return type(value) in _ATOMS or (type(value) is tuple and all(map(_constant, value)))


def _twins(value: Any, memo: dict[int, Any]) -> Any:
    return {name: None if m is None else memo[id(m)] for name, m in value.items()}


def _shallow(value: Any, memo: dict[int, Any]) -> Any:
    return value.copy()


def _empty(value: Any, memo: dict[int, Any]) -> Any:
    return type(value)()  # ten times quicker than a copy, and a module has ten


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy in which modules are the replica's and parameters the network's."""
    known = memo.get(id(value))
    if known is not None or type(value) in _ATOMS:
        return value if known is None else known
    made: Any = value
    if isinstance(value, Tensor):
        made = memo[_POLICY].copy(value) if _is_large(value) else value.detach().clone()
    elif isinstance(value, FunctionType):
        return _function(value, memo)
    elif type(value) in _CONTAINERS and all(type(v) in _ATOMS for v in _values(value)):
        made = value.copy()
    elif isinstance(value, dict):
        made = copy.copy(value)
        memo[id(value)] = made
        for key, held in value.items():
            made[key] = _copied(held, memo)
    elif type(value) is list:
        made = memo[id(value)] = []
        made += [_copied(held, memo) for held in value]
    elif type(value) is tuple:
        made = tuple(_copied(held, memo) for held in value)
    else:
        try:
            made = copy.deepcopy(value, memo)
        except Exception:
            made = _by_attributes(value, memo)
    memo[id(value)] = made
    return made


def _by_attributes(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of what cannot be copied as a whole. A lock, a file, a generator is shared."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _copied(value.__self__, memo))
    try:
        made = object.__new__(type(value))
        attributes = vars(value)
    except TypeError:
        return value
    memo[id(value)] = made
    vars(made).update({name: _copied(held, memo) for name, held in attributes.items()})
    return made


def _belongs(value: Any, memo: dict[int, Any]) -> bool:
    """Whether it is a module of the network, or a method of one."""
    owner = value.__self__ if isinstance(value, MethodType) else value
    return isinstance(owner, nn.Module) and id(owner) in memo


def mapped(value: Any, known: dict[int, Any]) -> Any:
    """A copy of ``value``, such as a function, in which objects are those ``known`` by identity."""
    return _copied(value, {**known, _POLICY: _Large()})


def _values(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """A function, such as a hook, that writes to copies of what it has at hand."""
    cells = function.__closure__ or ()
    scope = function.__globals__
    reachable = {
        name: held
        for name in function.__code__.co_names
        if type(held := scope.get(name)) in _CONTAINERS or _belongs(held, memo)
    }
    defaults = function.__defaults__, function.__kwdefaults__
    if not cells and not reachable and not any(defaults) and not vars(function):
        return function
    closure = tuple(CellType() for _ in cells)
    # It is known before what it leads to is looked at: that may lead back to it.
    made = memo[id(function)] = FunctionType(
        function.__code__, dict(scope) if reachable else scope, function.__name__, None, closure
    )
    made.__globals__.update({name: _copied(held, memo) for name, held in reachable.items()})
    made.__defaults__, made.__kwdefaults__ = (_copied(default, memo) for default in defaults)
    vars(made).update({name: _copied(held, memo) for name, held in vars(function).items()})
    for cell, mine in zip(cells, closure, strict=True):
        with suppress(ValueError):  # nothing is in it yet
            mine.cell_contents = _copied(cell.cell_contents, memo)
    return made
