"""Normalise anew: batch norms whose statistics are those of somebody else's camera or voice.

A batch norm subtracts the mean and divides by the deviation that its inputs had in training. On
another device, or for another voice, they are others, and the network errs. But they are others
too where a person has few of the classes, and to follow them there loses what tells these classes
apart. Which it is shows in the middle of the network: there another device moves the means, and
few classes do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ._batches import Batch
from ._find import Found
from ._flow import flow
from ._layers import Layer
from ._scratch import Scratch

SKEWED = 0.5
"""Up to this trust in the read-out nothing shows that classes are missing."""
MOVED = 0.035
"""Mean squared shift, in variances, of the middle norms' means that another device is behind."""


@dataclass
class Norm:
    """One batch norm, and the first moments of its inputs on the person's data."""

    name: str
    module: Any
    count: int = 0
    x: Any = 0.0
    xx: Any = 0.0

    def run(self, x: Tensor) -> Tensor:
        """What the module itself does."""
        return cast(Tensor, type(self.module).forward(self.module, x))

    def add(self, x: Tensor) -> None:
        """Add inputs ``(N, C, ...)``."""
        x = x.double().transpose(0, 1).flatten(1)
        self.count += x.shape[1]
        self.x, self.xx = self.x + x.sum(1), self.xx + (x * x).sum(1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel ``(C,)``."""
        mean = self.x / self.count
        return mean, (self.xx / self.count - mean**2).clip(0)

    def moved(self) -> float:
        """Mean over channels of the squared shift of the mean, in variances of training."""
        m = self.module
        return float(((self.moments()[0] - m.running_mean) ** 2 / (m.running_var + m.eps)).mean())

    def follow(self, share: float) -> None:
        """Normalise by statistics of which ``share`` is the person's: by weight and bias, so that
        all that changes is parameters."""
        m = self.module
        mean, variance = self.moments()
        new_mean = m.running_mean + share * (mean - m.running_mean)
        new_variance = m.running_var + share * (variance - m.running_var)
        before, after = (m.running_var + m.eps).sqrt(), (new_variance + m.eps).sqrt()
        bias = m.bias + m.weight * (m.running_mean - new_mean) / after
        m.bias.data = bias.to(m.bias.dtype)
        m.weight.data = (m.weight * (before / after)).to(m.weight.dtype)


def find_norms(model: nn.Module) -> list[Norm]:
    """The batch norms that hold statistics and parameters; none where they are all folded away."""
    norms = [
        Norm(name, m)
        for name, m in model.named_modules()
        if isinstance(m, _BatchNorm) and m.running_mean is not None and m.affine
    ]
    folded = all(bool((n.module.running_mean == 0).all()) for n in norms)
    return [] if folded else norms


@contextmanager
def watched(norms: Sequence[Norm]) -> Iterator[None]:
    """While this lasts, the inputs of ``norms`` are added up."""

    def adder(norm: Norm) -> Any:
        return lambda module, args: norm.add(args[0])

    handles = [norm.module.register_forward_pre_hook(adder(norm)) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def why_kept(norms: Sequence[Norm], trust: float, padded: bool) -> str:
    """Why not to normalise anew, from what was watched of the dense network; empty: do.

    ``trust`` is the read-out's: at 0 no class seems to be missing.
    """
    called = [norm for norm in norms if norm.count]
    if not called:
        return "there are none with statistics"
    if padded:
        return "padding would count"
    third = len(called) // 3
    middle = called[third : len(called) - third]
    moved = sum(norm.moved() for norm in middle) / len(middle)
    if trust > SKEWED and moved <= MOVED:
        return f"few classes, and no sign of another device (means moved by {moved:.3f})"
    return ""


def normalise_anew(
    model: nn.Module, norms: Sequence[Norm], calibration: Sequence[Batch], share: float
) -> None:
    """One forward pass, all samples in lock-step: each norm follows what the ones before it give.

    ``model`` is changed in place; ``share`` of the new statistics is the person's.
    """
    fresh = {norm.name: Norm(norm.name, norm.module) for norm in norms if norm.count}
    found = Found(cast(list[Layer], [*fresh.values()]), {}, [], {})

    def visit(layer: Layer, inputs: dict[int, Tensor]) -> None:
        norm = fresh[layer.name]
        for x in inputs.values():
            norm.add(x)
        norm.follow(share)

    def forward(batch: Batch) -> Any:
        return lambda: batch.call(model)

    batches = [forward(batch) for batch in calibration]
    expected = {name: set(range(len(batches))) for name in fresh}
    with torch.no_grad():
        flow(found, batches, visit, expected, Scratch(model))
