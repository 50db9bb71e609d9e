"""Looks for what a personalisation may leave behind: on the given model, or in the result."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SKIPPED = (types.ModuleType, type, types.BuiltinFunctionType, str, bytes, int, float)


def reachable(start: Any) -> Iterator[Any]:
    """Every object that ``start`` leads to: by attributes, entries, closures, defaults, globals
    that a function names, and what a bound method is bound to."""
    seen: dict[int, Any] = {}
    ahead = [start]
    while ahead:
        thing = ahead.pop()
        if id(thing) in seen or isinstance(thing, SKIPPED):
            continue
        seen[id(thing)] = thing
        yield thing
        ahead += _leads_to(thing)


def _leads_to(thing: Any) -> list[Any]:
    found: list[Any] = []
    if isinstance(thing, dict):
        found += [*thing.keys(), *thing.values()]
    elif hasattr(type(thing), "__iter__") and not isinstance(thing, Tensor | np.ndarray | Iterator):
        found += list(thing)
    if isinstance(thing, types.FunctionType):
        found += [c.cell_contents for c in thing.__closure__ or () if _filled(c)]
        found += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        found += [
            value
            for name in thing.__code__.co_names
            if not callable(value := thing.__globals__.get(name))
        ]
    if isinstance(thing, types.MethodType):
        found += [thing.__self__, thing.__func__]
    if isinstance(thing, functools.partial):
        found += [thing.func, thing.args, thing.keywords]
    if isinstance(thing, Tensor):
        found.append(thing.grad)
    found += vars(thing).values() if hasattr(thing, "__dict__") else ()
    return found


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def tensors(start: Any) -> list[Tensor]:
    arrays = [t for t in reachable(start) if isinstance(t, Tensor | np.ndarray)]
    return [torch.from_numpy(a) if isinstance(a, np.ndarray) else a.detach() for a in arrays]


def of_the_person(start: Any, data: Tensor) -> list[Tensor]:
    """What ``start`` leads to that holds a value of ``data``, which are like no others."""
    values = data.flatten().double()
    return [
        t
        for t in tensors(start)
        if t.numel() and bool(torch.isin(t.flatten().double(), values).any())
    ]


def photograph(model: nn.Module) -> dict[str, Any]:
    """All there is to see of a module: values are copied, objects are told by their identity."""
    return {
        "tensors": {
            name: (id(t), t.data_ptr(), t._version, t.requires_grad, t.detach().clone())
            for name, t in [*model.named_parameters(), *model.named_buffers()]
        },
        "modules": {
            name: (id(m), m.training, {k: _seen(v) for k, v in vars(m).items()})
            for name, m in model.named_modules()
        },
    }


def _seen(value: Any, depth: int = 0) -> Any:
    """A value as it can be compared later."""
    if isinstance(value, Tensor):
        return id(value), value.detach().clone()
    if isinstance(value, dict):
        return id(value), [(k, _seen(v, depth + 1)) for k, v in value.items()]
    if isinstance(value, list | tuple | set) or type(value).__name__ == "deque":
        return id(value), [_seen(v, depth + 1) for v in value]
    if hasattr(value, "__dict__") and depth < 3 and not isinstance(value, nn.Module | type):
        return id(value), _seen(vars(value), depth + 1)
    return id(value)


def same(a: Any, b: Any) -> bool:
    """Whether two photographs show the same, bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def _bits(t: Tensor) -> Tensor:
    return t.contiguous().reshape(-1).view(torch.uint8)


def ambience() -> list[Any]:
    """What belongs to the whole process or thread, and is nobody's to change."""
    return [
        torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled(),
        torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(),
        torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        signal.getsignal(signal.SIGINT), sys.gettrace(), sys.getprofile(),
        torch.nn.modules.module._global_forward_hooks.copy(),
        torch.nn.modules.module._global_forward_pre_hooks.copy(), np.geterr(),
    ]  # fmt: skip
