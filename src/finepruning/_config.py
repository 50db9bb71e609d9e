"""What can be chosen, in one frozen record that is saved beside the tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ._errors import FinepruningError

EFFORTS = ("best", "fast", "paper")


@dataclass(frozen=True)
class Config:
    """All choices of one personalisation. The defaults are what the benchmarks chose.

    >>> Config(sparsity=0.5, effort="fast").sparsity
    0.5

    Raises :class:`FinepruningError` where a value is out of range.
    """

    sparsity: float = 0.7
    """Zeros wanted, as a share of *all* weights of Conv and Linear layers, in [0, 1)."""
    effort: str = "best"
    """``best`` compensates, ``fast`` scores and repairs, ``paper`` is the published rule alone."""
    readout: bool = True
    """Fold the person's class prior into the output bias, and silence outputs never used."""
    seed: int = 0
    """Draws the positions that are sampled, and the calibration samples where there are too
    many."""
    positions: int = 8000
    """Output positions sampled a layer for ``best``, over all samples together."""
    ridge: float = 0.3
    """How strongly refitted weights hold on to the generic ones."""
    planned: float = 0.3
    """0: every layer the same sparsity; 1: all by measured energy; between: a geometric mean."""
    norms: float = 0.25
    """Share of the person's statistics in the batch norms', where another device shows; 0: off."""
    neighbours: float = 1.0
    """What a neighbour that is sure adds, at most, to a logit that ``best`` fits the last layer to;
    0: off, as without a read-out."""
    memory: float = 1.5e9
    """Bytes of activations that may wait at once. More samples than fit are only read out."""

    def __post_init__(self) -> None:
        if not (isinstance(self.sparsity, int | float) and 0 <= self.sparsity < 1):
            raise FinepruningError(
                f"sparsity={self.sparsity!r}: must be at least 0 and below 1, such as 0.7"
            )
        if self.effort not in EFFORTS:
            raise FinepruningError(f"effort={self.effort!r}: choose one of {', '.join(EFFORTS)}")
        for name in ("positions", "memory", "ridge"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
                raise FinepruningError(f"{name}={value!r}: must be a finite number above 0")
        for name in ("planned", "norms"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= 1):
                raise FinepruningError(f"{name}={value!r}: must be between 0 and 1")
        if not (isinstance(self.neighbours, int | float) and 0 <= self.neighbours <= 100):
            raise FinepruningError(f"neighbours={self.neighbours!r}: must be between 0 and 100")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**63):
            raise FinepruningError(f"seed={self.seed!r}: must be a whole number from 0 to 2^63 - 1")
