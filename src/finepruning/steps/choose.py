"""Choose: the largest sparsity at which few enough answers change.

A few calibration passes prune the network along a path of sparsities each; samples held back tell
of every one what it does. The network itself is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..core.choose import ChoiceOptions, largest
from ..core.fit import Solution
from ..network.engine import Engine
from ..network.find import Found
from ..network.layers import Layer
from .check import Check
from .prune import Pruning, apply

MIDDLE, LOW, HIGH = ((0.4, 0.5, 0.6, 0.7), 1), ((0.1, 0.2, 0.3), 1), ((0.8, 0.9), 0)
"""Sparsities that are tried together, and which of them the network has meanwhile."""

Along = Callable[[Sequence[float], int], tuple[Pruning, Mapping[str, Sequence[Solution]]]]
"""``along(sparsities, level)``: prune along a path of sparsities, as :func:`prune_path` does."""


@dataclass(frozen=True)
class Level:
    """One sparsity that was tried."""

    sparsity: float
    check: Check


@dataclass(frozen=True)
class Choice:
    """What was tried, and what was chosen."""

    tolerance: float
    sparsity: float | None
    """None: the dense network is all that may be had."""
    levels: tuple[Level, ...]
    """In the order of their sparsities."""
    macs: float
    """Multiply-accumulates of the statistics and solves."""
    passes: float
    """Passes through the network that it took, over the samples of the calibration set."""
    seconds: float

    @property
    def check(self) -> Check:
        """What is known of the sparsity chosen, or of the lowest one, which is too much."""
        if not self.levels:
            return Check(0, False, "too many of the weights are in layers left alone")
        for level in self.levels:
            if level.sparsity == self.sparsity:
                return level.check
        return self.levels[0].check


def choose(
    engine: Engine,
    found: Found,
    along: Along,
    finish: Callable[[], None],
    judge: Callable[[], Check],
    possible: Callable[[float], bool],
    options: ChoiceOptions,
) -> Choice:
    """Try sparsities. ``finish`` adds what the network has beside its weights, ``judge`` looks at
    it, and ``possible`` says which sparsities there can be at all."""
    tried: list[Level] = []
    macs = seconds = passes = 0.0

    def attempt(sparsities: Sequence[float], level: int) -> None:
        nonlocal macs, seconds, passes
        some = [s for s in sparsities if possible(s)]
        if not some:
            return
        with _as_it_is(found.layers):
            pruning, path = along(some, min(level, len(some) - 1))
            for i, sparsity in enumerate(some):
                for layer in found.layers:
                    if layer.name in path:
                        apply(layer, path[layer.name][i])
                finish()
                tried.append(Level(sparsity, judge()))
        macs += sum(layer.macs for layer in pruning.layers.values())
        seconds, passes = seconds + pruning.seconds, passes + 1

    attempt(*MIDDLE)
    if not tried or not tried[0].check.passed:
        attempt(*LOW)
    elif all(one.check.passed for one in tried):
        attempt(*HIGH)
    tried.sort(key=lambda one: one.sparsity)
    best = largest([t.sparsity for t in tried], [t.check.passed for t in tried])
    return Choice(options.tolerance, best, tuple(tried), macs, passes, seconds)


@contextmanager
def _as_it_is(layers: Sequence[Layer]) -> Iterator[None]:
    """Put the layers back afterwards."""
    before = [
        (layer, layer.matrix().clone(), None if layer.bias is None else layer.bias.clone())
        for layer in layers
    ]
    try:
        yield
    finally:
        for layer, matrix, bias in before:
            if bias is None and layer.bias is not None:
                bias = layer.bias * 0  # one that was not there adds nothing
            layer.write(matrix, bias)
