"""Normalise anew: batch norms whose statistics are those of somebody else's camera or voice.

A batch norm subtracts the mean and divides by the deviation that its inputs had in training. On
another device, or for another voice, they are others, and the network errs. But they are others
too where a person has few of the classes, and to follow them there loses what tells these classes
apart. Which it is shows in the middle of the network: there another device moves the means, and
few classes do not.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ._find import Found
from ._flow import flow
from ._layers import Layer
from ._observe import precise
from ._scratch import Scratch
from .data.batches import Batch

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
    """Positions."""
    samples: int = 0
    x: Any = 0.0
    xx: Any = 0.0
    per_sample: Any = 0.0
    """Sum of the squared means of single samples."""
    refused: bool = False

    def run(self, x: Tensor) -> Tensor:
        """What the module itself does."""
        return cast(Tensor, type(self.module).forward(self.module, x))

    def add(self, x: Tensor) -> None:
        """Add inputs ``(N, C, ...)``."""
        x = precise(x).flatten(2)
        n, _, positions = x.shape
        means = x.mean(2).double()
        variance, mean = (v.double() for v in torch.var_mean(x, (0, 2), correction=0))
        self.samples, self.count = self.samples + n, self.count + n * positions
        self.x = self.x + n * positions * mean
        self.xx = self.xx + n * positions * (variance + mean**2)
        self.per_sample = self.per_sample + (means**2).sum(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel ``(C,)``."""
        mean = self.x / self.count
        return mean, (self.xx / self.count - mean**2).clip(0)

    def moved(self) -> float:
        """Mean over channels of the squared shift of the mean, in variances of training, less what
        so few samples move it by chance."""
        m, mean = self.module, self.moments()[0]
        chance = (self.per_sample / self.samples - mean**2).clip(0) / max(1, self.samples - 1)
        shift = (mean - m.running_mean.double()) ** 2 - chance
        return float((shift / (m.running_var.double() + m.eps)).mean())

    def follow(self, share: float) -> None:
        """Normalise by statistics of which ``share`` is the person's: by weight and bias, so that
        all that changes is parameters."""
        m, (mean, variance) = self.module, self.moments()
        old_mean, old_variance = m.running_mean.double(), m.running_var.double()
        new_mean = old_mean + share * (mean - old_mean)
        new_variance = old_variance + share * (variance - old_variance)
        before, after = (old_variance + m.eps).sqrt(), (new_variance + m.eps).sqrt()
        weight = m.weight.double()
        m.bias.data = (m.bias + weight * (old_mean - new_mean) / after).to(m.bias.dtype)
        m.weight.data = (weight * (before / after)).to(m.weight.dtype)


def find_norms(model: nn.Module) -> list[Norm]:
    """The batch norms that hold statistics and parameters; none where they are all folded away.

    Only those that compute what PyTorch's do (or timm's, which add an activation), and share their
    parameters with no other.
    """
    holders = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))

    def plain(m: nn.Module) -> bool:
        own = type(m).forward is _BatchNorm.forward or type(m).__name__ == "BatchNormAct2d"
        own = own and isinstance(m, _BatchNorm) and "forward" not in vars(m)
        held = own and m.running_mean is not None and m.weight is not None and m.bias is not None
        return held and all(holders[id(p)] == 1 for p in m.parameters(recurse=False))

    norms = [Norm(name, m) for name, m in model.named_modules() if plain(m)]
    folded = all(bool((n.module.running_mean == 0).all()) for n in norms)
    return [] if folded else norms


@dataclass
class Watch:
    """What watching took, in seconds."""

    seconds: float = 0.0


@contextmanager
def watched(model: nn.Module, norms: Sequence[Norm]) -> Iterator[Watch]:
    """While this lasts, the inputs of ``norms`` are added up.

    Those that are called twice in a forward pass, or without positions ``(N, C)``, are refused:
    there are no statistics that serve both calls, and with a number a sample few classes look like
    another device.
    """
    watch, called = Watch(), set[str]()

    def adder(norm: Norm) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            started = time.perf_counter()
            plain = bool(args) and isinstance(args[0], Tensor) and args[0].ndim > 2
            norm.refused |= not plain or norm.name in called
            called.add(norm.name)
            if not norm.refused:
                norm.add(args[0])
            watch.seconds += time.perf_counter() - started

        return hook

    handles = [norm.module.register_forward_pre_hook(adder(norm)) for norm in norms]
    handles.append(model.register_forward_pre_hook(lambda *_: called.clear()))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def usable(norms: Sequence[Norm]) -> list[Norm]:
    """Those that were called, and as can be followed."""
    return [norm for norm in norms if norm.count and not norm.refused]


def how_far(norms: Sequence[Norm]) -> float:
    """How far the means in the middle third have moved on the dense network; 0 for none."""
    called = usable(norms)
    third = len(called) // 3
    middle = called[third : len(called) - third]
    return sum(norm.moved() for norm in middle) / max(1, len(middle))


def why_kept(norms: Sequence[Norm], trust: float, padded: bool) -> str:
    """Why not to normalise anew, from what was watched of the dense network; empty: do.

    ``trust`` is the read-out's: at 0 no class seems to be missing.
    """
    if not usable(norms):
        return "there are none with statistics"
    if padded:
        return "padding would count"
    if trust > SKEWED and how_far(norms) <= MOVED:
        return "no sign of another device"
    return ""


def normalise_anew(
    model: nn.Module,
    norms: Sequence[Norm],
    calibration: Sequence[Batch],
    share: float,
    device: torch.device,
) -> None:
    """One forward pass, all samples in lock-step: each norm follows what the ones before it give.

    ``model`` is changed in place; ``share`` of the new statistics is the person's.
    """

    def visit(norm: Norm, inputs: list[Tensor]) -> None:
        for x in inputs:
            norm.add(x)
        norm.follow(share)

    fresh = [Norm(norm.name, norm.module) for norm in usable(norms)]
    lock_step(model, fresh, calibration, visit, device)


def lock_step(
    model: nn.Module,
    norms: Sequence[Norm],
    batches: Sequence[Batch],
    visit: Callable[[Norm, list[Tensor]], None],
    device: torch.device,
) -> None:
    """One forward pass in which all ``batches`` meet at each norm, before it runs."""
    found = Found(cast(list[Layer], norms), {}, [], {})
    expected = {norm.name: set(range(len(batches))) for norm in norms}

    def meet(layer: Layer, inputs: dict[int, Tensor]) -> None:
        visit(cast(Norm, layer), [*inputs.values()])

    def forward(batch: Batch) -> Callable[[], Any]:
        return lambda: batch.to(device).call(model)

    with torch.no_grad():
        flow(found, [forward(batch) for batch in batches], meet, expected, Scratch(model))
