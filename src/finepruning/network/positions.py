"""Which positions of each layer are real, where samples are padded to a window of fixed size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .convolutions import ConvLayer
from .layers import Layer

PREFIXES = (1, 2)
"""Tokens that networks put before those of the grid: a class token, and one for distillation."""


class RealPositions:
    """Which positions of each layer are real, in one forward pass of a batch in a fixed window.

    What is known is, for each length of a time axis met so far, which of its steps are real: of
    the input's from the mask; of a convolution's output those steps that the sample would have if
    it were given alone; of tokens made of a grid of patches those whose time is real.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self._known: dict[int, Tensor] = {} if mask is None else {mask.shape[1]: mask}
        self._samples = 0 if mask is None else len(mask)

    def of(self, layer: Layer, x: Tensor) -> Tensor | None:
        """Which of ``layer.positions(x)`` are real, bool ``(samples, positions)``; None: all."""
        if not self._known:
            return None
        if isinstance(layer, ConvLayer):
            real = self._of_convolution(layer, x)
        else:
            real = self._of_tokens(x)
        return real if real is not None and bool(real.any()) else None

    def _of_convolution(self, layer: ConvLayer, x: Tensor) -> Tensor | None:
        m = layer.how
        if x.ndim != len(m.kernel_size) + 2 or len(x) != self._samples:
            return None
        axis = next((i for i, n in enumerate(x.shape[2:]) if n in self._known), None)
        if axis is None:
            return None
        left, right = layer.sides(axis)
        # Alone, the sample would have the convolution's own padding around it: as many steps.
        around = F.pad(self._known[x.shape[2 + axis]].float(), (left + right, left + right))
        beyond = 1 - F.max_pool1d(around[:, None], left + right + 1, stride=1)
        kernel = beyond.new_ones(1, 1, m.kernel_size[axis])
        taps = F.conv1d(beyond, kernel, stride=m.stride[axis], dilation=m.dilation[axis])[:, 0]
        real = taps < 0.5
        out = layer.out_shape(x)
        shape = [1] * len(out)
        shape[axis] = out[axis]
        grid = real.view(-1, *shape).expand(-1, *out).reshape(self._samples, -1)
        self._known[out[axis]] = real
        self._known.setdefault(grid.shape[1], grid)
        return grid

    def _of_tokens(self, x: Tensor) -> Tensor | None:
        n = self._samples
        if x.ndim == 2:
            steps = len(x) // n
            exact = len(x) == n * steps and steps in self._known
            return self._known[steps].reshape(-1, 1) if exact else None
        if x.ndim == 3 and len(x) == n:
            for prefix in (0, *PREFIXES):
                if (known := self._known.get(x.shape[1] - prefix)) is not None:
                    return F.pad(known, (prefix, 0), value=True)
        if x.ndim == 3 and x.shape[1] == n and len(x) in self._known:
            return self._known[len(x)].T
        if x.ndim > 3 and len(x) == n:
            for axis, size in enumerate(x.shape[1:-1]):
                if size in self._known:
                    shape = [1] * (x.ndim - 2)
                    shape[axis] = size
                    real = self._known[size].view(-1, *shape)
                    return real.expand(-1, *x.shape[1:-1]).reshape(n, -1)
        return None


def drawn(real: Tensor, count: int, start: Tensor) -> tuple[Tensor, Tensor]:
    """Samples and positions: up to ``count`` of each sample's real ones, evenly from ``start``."""
    samples, positions = [], []
    for i, row in enumerate(real):
        at = row.nonzero()[:, 0]
        taken = min(count, len(at))
        if taken:
            rank = ((torch.arange(taken) + start[i]) * (len(at) / taken)).long()
            positions.append(at[rank.clamp(max=len(at) - 1).to(at.device)])
            samples.append(torch.full_like(positions[-1], i))
    return torch.cat(samples), torch.cat(positions)
