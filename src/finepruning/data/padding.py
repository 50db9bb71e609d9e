"""Padding never counts: samples are cut to what is real, or their padded positions are left out.

A batch with an ``attention_mask`` is cut into runs of samples of one length, each as if it had
been given alone; normalisation layers inside the network then see no padding either, which no
choice of positions could undo. Where the network needs its fixed window (Whisper, AST), which one
sample shows, the window stays and the batch's mask says what in it is real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .._errors import FinepruningError
from .batches import Batch, joined

MASK = "attention_mask"


class Unpad:
    """Cuts batches to what is real.

    >>> inputs = {"x": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    >>> [part.inputs["x"].shape for part in Unpad(lambda batch: None)(Batch(inputs, 2))]
    [torch.Size([1, 2]), torch.Size([1, 3])]

    ``call`` runs the network on a batch. What the network stands is tried with one padded sample,
    once: cut; else as it was given. Where it takes no mask it is not given one, which then only
    says what is real.
    """

    def __init__(self, call: Callable[[Batch], object]) -> None:
        self._call = call
        self._cut: bool | None = None
        self._takes_mask: dict[bool, bool] = {}  # for masks with and without padding

    def __call__(self, batch: Batch) -> list[Batch]:
        """The same samples in the same order, in one or more batches."""
        mask = _mask(batch)
        if mask is None or not isinstance(batch.inputs, dict):
            return [batch]
        lengths = mask.sum(1)
        if not bool(lengths.all()):
            number = int((lengths == 0).nonzero()[0])
            raise FinepruningError(
                f"batches: sample {number} of a batch is padding alone (its {MASK} is all zeros);"
                " leave it out"
            )
        padded = not bool(mask.all())
        after = torch.arange(mask.shape[1], device=mask.device) >= lengths[:, None]
        if padded and self._cut is not False and bool((mask != after).all()):
            parts = _runs(batch, lengths.tolist())
            if parts and self._cut is None:
                shortest = min(range(batch.size), key=lambda i: int(lengths[i]))
                one = _runs(batch.take(shortest), [int(lengths[shortest])])[0]
                masked = self._works(one)
                self._cut = masked or self._works(_without_mask(one))
                if self._cut:
                    self._takes_mask[False] = masked
            if parts and self._cut:  # no padding is left
                return parts if self._takes_mask[False] else [_without_mask(p) for p in parts]
        if padded not in self._takes_mask:
            one = batch.take(int(lengths.argmin()))
            self._takes_mask[padded] = self._works(one) or not self._works(_without_mask(one))
        given = batch if self._takes_mask[padded] else _without_mask(batch)
        return [replace(given, mask=mask if padded else None)]

    def _works(self, batch: Batch) -> bool:
        try:
            self._call(batch)
        except FinepruningError:
            return False
        return True


def unpadded(batches: Iterable[Batch], call: Callable[[Batch], object]) -> Iterator[Batch]:
    """Cut all ``batches`` to what is real, see :class:`Unpad`; alike ones are joined."""
    unpad = Unpad(call)
    return joined(part for batch in batches for part in unpad(batch))


def _mask(batch: Batch) -> Tensor | None:
    """The batch's mask as booleans; None where it has none, or one of another form."""
    mask = batch.inputs.get(MASK) if isinstance(batch.inputs, dict) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != batch.size:
        return None
    return mask != 0 if bool(((mask == 0) | (mask == 1)).all()) else None


def _without_mask(batch: Batch) -> Batch:
    assert isinstance(batch.inputs, dict)
    return replace(batch, inputs={k: v for k, v in batch.inputs.items() if k != MASK})


def _runs(batch: Batch, lengths: list[int]) -> list[Batch]:
    """Consecutive samples of one length, cut to it; empty: no input is as long as the mask."""
    assert isinstance(batch.inputs, dict)
    whole = batch.inputs[MASK].shape[1]
    axes = {}
    for key, value in batch.inputs.items():
        if isinstance(value, Tensor) and value.ndim > 1 and len(value) == batch.size:
            axis = next((i for i in range(1, value.ndim) if value.shape[i] == whole), None)
            if axis is not None and not key.startswith(("decoder_", "pixel_")):
                axes[key] = axis
    if axes.keys() <= {MASK}:
        return []
    parts: list[Batch] = []
    start = 0
    for end in range(1, batch.size + 1):
        if end < batch.size and lengths[end] == lengths[start]:
            continue
        part = batch.take(start, end)
        cut = {
            key: value.narrow(axes[key], 0, lengths[start]) if key in axes else value
            for key, value in part.inputs.items()  # type: ignore[union-attr]
        }
        parts.append(replace(part, inputs=cut, part=True, items=batch.items * (end == batch.size)))
        start = end
    return parts
