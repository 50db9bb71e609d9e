"""Taps: the places of a network at which a pass can be looked at, or stopped.

The network itself is never touched. A pass runs on a replica (:mod:`~finepruning.network.replica`),
and *wiring* a module of the replica makes its calls go through the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


class Tap(Protocol):
    """One place: a layer, or a batch norm."""

    name: str


Run = Callable[[Tensor], Tensor]
"""What is computed there."""
Call = Callable[[Any, Run, Tensor], Tensor]
"""``call(tap, run, x)``: the engine's way to ``run(x)``."""
Wire = Callable[[Any, tuple[Any, ...], Call], None]
"""``wire(module, taps, call)`` makes a module of a replica call ``taps`` through the engine."""


@dataclass(frozen=True)
class Place:
    """A module, its taps, and how it is wired."""

    module: nn.Module
    taps: tuple[Any, ...]
    wire: Wire


def wire_call(module: Any, taps: tuple[Any, ...], call: Call) -> None:
    """Make each call of ``module``, which takes one input, a call of its one tap."""
    (tap,) = taps
    run = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if len(args) + len(kwargs) != 1:
            return run(*args, **kwargs)  # which says what is wrong
        if args:
            return call(tap, run, args[0])
        ((name, x),) = kwargs.items()
        return call(tap, lambda x: run(**{name: x}), x)

    module.forward = forward


def has_own_forward(module: nn.Module, base: type[nn.Module] | None) -> bool:
    """Whether it computes something else than ``base``, the class that it derives from."""
    names = ("forward", "_conv_forward")
    changed = [getattr(type(module), n, 0) is not getattr(base, n, 0) for n in names if base]
    return "forward" in vars(module) or any(changed)
