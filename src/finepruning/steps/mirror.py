"""Mirror: pictures seen in a mirror are calibration data too, where they are answered alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..data.batches import Batch
from .observation import Observation


def mirrored(batch: Batch) -> Batch | None:
    """The same pictures ``(N, C, H, W)``, left and right exchanged; None where a batch is anything
    else."""
    x = batch.inputs
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[-1] < 2:
        return None
    return replace(batch, inputs=x.flip(-1), items=0)


def mirrored_alone(seen: Observation, room: int) -> tuple[Batch, ...]:
    """The calibration data mirrored, ``room`` samples at most; none where all samples are seen to
    be many already, or there is nothing to tell by whether they are answered alike."""
    rows = seen.calibration_samples + len(seen.held_rows)
    if seen.logits is None or seen.samples != rows or seen.known != rows:
        return ()
    found: list[Batch] = []
    for batch in seen.calibration:
        other = mirrored(batch)
        if other is None:
            return ()
        if sum(b.size for b in found) + other.size > room:
            break
        found.append(other)
    return tuple(found)


@dataclass(frozen=True)
class Mirrored:
    """What came of it."""

    samples: int = 0
    """How many pictures were looked at mirrored."""
    changed: float = 0.0
    """What mirroring changes, in what the outputs tell between samples."""
    used: bool = False
    """Whether the layers were fitted to them too."""


def beside_mirrored(
    seen: Observation, again: Observation, limit: float
) -> tuple[Observation, Mirrored]:
    """``seen`` with the mirrored samples among those that the layers are fitted to, where mirroring
    changes at most a share ``limit`` of what is told between samples."""
    assert seen.logits is not None
    assert again.logits is not None
    held = set(seen.held_rows)
    rows = [i for i in range(len(seen.logits)) if i not in held][: len(again.logits)]
    changed = _changed(seen.logits[rows].double(), again.logits.double())
    found = Mirrored(again.samples, round(changed, 3), changed <= limit)
    return seen.beside(again) if found.used else seen, found


def _changed(logits: Tensor, others: Tensor) -> float:
    """Mean square of what changes, in the variance over samples; 2: they have nothing to do with
    each other.

    >>> _changed(torch.eye(2), torch.eye(2)), _changed(torch.eye(2), torch.eye(2).flip(0))
    (0.0, 4.0)
    """
    variance = (logits - logits.mean(0)).square().sum()
    return float((logits - others).square().sum() / variance.clamp(min=torch.finfo().tiny))
