"""How much of what a network answers is left once its weights are stored in fewer bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import logits_of, read_batches


@dataclass(frozen=True)
class Stays:
    """Two networks over the same samples."""

    answers: int
    """How many there are: one a sample, or one a position."""
    same: int
    """Of these, how many both give."""
    off: float
    """Root mean square of the outputs' differences, of the first one's outputs."""

    def line(self, values: bool) -> str:
        """In words; ``values``: the outputs are numbers, of which none is the same to the last bit.

        >>> Stays(4, 3, 0.01).line(False), Stays(4, 3, 0.01).line(True)
        ('3 of 4 answers are the same (75.0%)', 'outputs are off by 1.0% of their size')
        """
        if values:
            return f"outputs are off by {self.off:.1%} of their size"
        return (
            f"{self.same} of {self.answers} answers are the same ({self.same / self.answers:.1%})"
        )


def stays(exact: nn.Module, stored: nn.Module, batches: Iterable[Any]) -> Stays | None:
    """What of ``exact``'s answers ``stored`` gives too, both on one device; None: outputs are no
    tensor, or none with more than one number a sample."""
    device = next(exact.parameters()).device
    same, count, off, size = 0, 0, 0.0, 0.0
    with torch.inference_mode():
        for batch in read_batches(batches):
            here = batch.to(device)
            one, two = (logits_of(here.call(net)) for net in (exact, stored))
            if not isinstance(one, Tensor) or one.ndim < 2:
                return None
            one, two = one.double(), two.double()
            same += int((one.argmax(-1) == two.argmax(-1)).sum())
            count += one[..., 0].numel()
            off += float((one - two).square().sum())
            size += float(one.square().sum())
    return Stays(count, same, (off / size) ** 0.5 if size else 0.0)
