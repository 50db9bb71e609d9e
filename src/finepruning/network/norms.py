"""Batch norms as taps, and as statistics that can be a person's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import precise
from .taps import Place, wire_call


@dataclass(frozen=True)
class ChannelMoments:
    """First and second moments of a batch norm's inputs, of each channel ``(C,)``, in float64."""

    count: float
    """Positions."""
    samples: float
    total: Any
    squares: Any
    per_sample: Any
    """Sum of the squared means of single samples."""

    @classmethod
    def of(cls, x: Tensor) -> ChannelMoments:
        """Those of inputs ``(N, C, ...)``."""
        x = precise(x).flatten(2)
        n, _, positions = x.shape
        means = x.mean(2).double()
        mean = means.mean(0)
        # In two passes: torch.var_mean, which takes one, is ten times slower.
        variance = (x - mean.to(x)[None, :, None]).square().mean((0, 2)).double()
        count = n * positions
        squares = count * (variance + mean**2)
        return cls(count, n, count * mean, squares, (means**2).sum(0))

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """Those of both sets of samples."""
        return ChannelMoments(*(a + b for a, b in zip(self._parts(), other._parts(), strict=True)))

    def decayed(self, factor: float) -> ChannelMoments:
        """The same with each sample counting ``factor`` times."""
        return ChannelMoments(*(factor * part for part in self._parts()))

    def to(self, device: Any) -> ChannelMoments:
        """The same on another device."""
        parts = (self.total, self.squares, self.per_sample)
        return ChannelMoments(self.count, self.samples, *(part.to(device) for part in parts))

    def _parts(self) -> tuple[Any, ...]:
        return self.count, self.samples, self.total, self.squares, self.per_sample

    @property
    def mean(self) -> Tensor:
        """Means ``(C,)``."""
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        """Variances ``(C,)``."""
        return (self.squares / self.count - self.mean**2).clip(0)


@dataclass(frozen=True)
class Norm:
    """One batch norm of the network."""

    name: str
    module: Any

    def moved(self, seen: ChannelMoments) -> float:
        """Mean over channels of the squared shift of the mean, in variances of training, less what
        so few samples move it by chance."""
        m, mean = self.module, seen.mean
        chance = (seen.per_sample / seen.samples - mean**2).clip(0) / max(1, seen.samples - 1)
        shift = (mean - m.running_mean.double()) ** 2 - chance
        return float((shift / (m.running_var.double() + m.eps)).mean())

    def follow(self, seen: ChannelMoments, share: float) -> None:
        """Normalise by statistics of which ``share`` is the person's: by weight and bias, so that
        all that changes is parameters."""
        m, mean, variance = self.module, seen.mean, seen.variance
        old_mean, old_variance = m.running_mean.double(), m.running_var.double()
        new_mean = old_mean + share * (mean - old_mean)
        new_variance = old_variance + share * (variance - old_variance)
        before, after = (old_variance + m.eps).sqrt(), (new_variance + m.eps).sqrt()
        weight = m.weight.double()
        m.bias.data = (m.bias + weight * (old_mean - new_mean) / after).to(m.bias.dtype)
        m.weight.data = (weight * (before / after)).to(m.weight.dtype)

    def align(self, before: ChannelMoments, now: ChannelMoments, share: float) -> None:
        """Give for inputs of the moments ``now`` what was given for those of ``before``, ``share``
        of the way; by weight and bias, as :meth:`follow` does."""
        m = self.module
        mean = before.mean + share * (now.mean - before.mean)
        ratio = ((before.variance + m.eps) / (now.variance + m.eps)) ** (share / 2)
        weight, centre = m.weight.double(), m.running_mean.double()
        scaled = weight * ratio
        scale = (m.running_var.double() + m.eps).sqrt()
        bias = m.bias + (weight * (before.mean - centre) - scaled * (mean - centre)) / scale
        m.bias.data = bias.to(m.bias.dtype)
        m.weight.data = scaled.to(m.weight.dtype)


def norm_places(norms: Sequence[Norm]) -> tuple[Place, ...]:
    """Where the engine meets them."""
    return tuple(Place(norm.module, (norm,), wire_call) for norm in norms)


def holds_statistics(m: nn.Module) -> bool:
    """Whether it is a batch norm that computes what PyTorch's do (or timm's, which add an
    activation) by the statistics of training."""
    if not isinstance(m, _BatchNorm) or "forward" in vars(m):
        return False
    own = type(m).forward is _BatchNorm.forward or type(m).__name__ == "BatchNormAct2d"
    return own and m.running_mean is not None


def find_norms(model: nn.Module) -> tuple[Norm, ...]:
    """The batch norms that hold statistics and parameters; none where they are all folded away.

    Only those that compute what PyTorch's do (or timm's, which add an activation), and share their
    parameters with no other.
    """
    holders = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))

    def plain(m: Any) -> bool:
        held = holds_statistics(m) and m.weight is not None and m.bias is not None
        return held and all(holders[id(p)] == 1 for p in m.parameters(recurse=False))

    norms = tuple(Norm(name, m) for name, m in model.named_modules() if plain(m))
    folded = all(bool((n.module.running_mean == 0).all()) for n in norms)
    return () if folded else norms
