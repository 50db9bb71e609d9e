"""Passes through an engine, in short: what several tests of the network and of the steps share."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finepruning.data.batches import Batch, read_batches
from finepruning.network.engine import Engine, _Runner
from finepruning.network.find import find_layers


def engine_of(model: nn.Module) -> Engine:
    return Engine(model, torch.device("cpu"))


def batch(x: Any) -> Batch:
    """One call of the model, whatever its inputs: a dictionary's ``x`` or any value's."""
    if isinstance(x, Tensor):
        return Batch(x, len(x))
    return Batch(x, next((len(v) for v in x.values() if isinstance(v, Tensor)), 1))


def batches(data: Iterable[Any]) -> list[Batch]:
    return [*read_batches(data)]


def through(
    model: nn.Module, x: Any, watch: Callable[[Any, Tensor, Tensor], None] | None = None
) -> tuple[Any, list[str]]:
    """What ``model`` gives for ``x`` when it runs in an engine, and the names of the layers that
    were called."""
    engine, calls = engine_of(model), []

    def note(tap: Any, x: Tensor, y: Tensor) -> None:
        calls.append(tap.name)
        if watch is not None:
            watch(tap, x, y)

    (passed,) = engine.stream([batch(x)], find_layers(engine.model).places, note)
    return passed.output, calls


def lock_step(
    model: nn.Module,
    inputs: Sequence[Any],
    visit: Callable[[Any, dict[int, Tensor]], None] = lambda layer, inputs: None,
    expected: dict[str, set[int]] | None = None,
) -> Engine:
    engine = engine_of(model)
    places = find_layers(engine.model).places
    engine.lock_step([batch(x) for x in inputs], places, visit, expected)
    return engine


MADE: weakref.WeakSet[_Runner] = weakref.WeakSet()
"""Batches that any lock-step pass has made, and that are still there."""


@contextmanager
def noted() -> Iterator[None]:
    """Note every batch that a lock-step pass makes."""
    make = _Runner.__init__

    def init(runner: _Runner, *args: Any) -> None:
        make(runner, *args)
        MADE.add(runner)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Runner, "__init__", init)
        yield


def runners() -> int:
    """Batches that are still under way."""
    return sum(map(bool, MADE))


@contextmanager
def nothing_left() -> Iterator[None]:
    """No thread and no greenlet is left of what is done within."""
    threads, under_way = threading.active_count(), runners()
    with noted():
        yield
    assert threading.active_count() == threads
    assert runners() == under_way
