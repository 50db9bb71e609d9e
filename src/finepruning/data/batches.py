"""The person's data in whatever form they hold it: as calls of the model."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._errors import FinepruningError

BATCH_SIZE = 32
"""Batch size for data given as one tensor, and up to which small batches are joined."""

LABEL_KEYS = ("label", "labels")


@dataclass(frozen=True)
class Batch:
    """One call of the model: the inputs of ``size`` samples."""

    inputs: dict[str, Any] | Tensor
    size: int
    items: int = 1
    """How many of the user's items it holds."""
    mask: Tensor | None = None
    """Which steps of a window are real, bool ``(size, T)``; None: all, nothing is padded."""
    part: bool = False
    """Whether it is cut out of an item."""

    @property
    def weight(self) -> int:
        """How large its inputs are: the number of elements of the largest."""
        return max((v.numel() for v in self._values() if isinstance(v, Tensor)), default=0)

    def call(self, model: nn.Module) -> Any:
        """The model's output for this batch. A failure becomes one line that names the inputs."""
        try:
            return model(**self.inputs) if isinstance(self.inputs, dict) else model(self.inputs)
        except (FinepruningError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a model may raise anything at all
            inputs = self.inputs if isinstance(self.inputs, dict) else {"x": self.inputs}
            shapes = {k: tuple(v.shape) for k, v in inputs.items() if isinstance(v, Tensor)}
            shown = shapes if isinstance(self.inputs, dict) else shapes["x"]
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise FinepruningError(
                f"batches: the model fails on inputs of shape {shown} ({cause}{_where(error)});"
                " give inputs as the model expects them"
            ) from error

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        if isinstance(self.inputs, Tensor):
            return replace(self, inputs=self.inputs.to(device), mask=mask)
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.inputs.items()}
        return replace(self, inputs=moved, mask=mask)

    def copy(self) -> Batch:
        """The same batch with tensors of its own."""
        if isinstance(self.inputs, Tensor):
            return replace(self, inputs=self.inputs.clone())
        own = {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.inputs.items()}
        return replace(self, inputs=own)

    @property
    def has_pictures(self) -> bool:
        """Whether an input has the form ``(N, C, H, W)``."""
        return any(isinstance(v, Tensor) and v.ndim == 4 for v in self._values())

    def parts(self, most: int) -> list[Batch]:
        """The same samples in batches of at most ``most``, where each input is certainly one row
        for each sample."""
        if self.size <= most or _values(self) is None:
            return [self]
        starts = range(0, self.size, most)
        taken = [self.take(i, min(i + most, self.size)) for i in starts]
        last = len(taken) - 1
        items = [self.items * (i == last) for i in range(len(taken))]
        return [replace(t, items=n, part=True) for t, n in zip(taken, items, strict=True)]

    def pick(self, numbers: list[int]) -> Batch | None:
        """Some samples, by number; None where it cannot be told which rows are theirs."""
        if _values(self) is None:
            return None
        mask = None if self.mask is None else self.mask[numbers]
        if isinstance(self.inputs, Tensor):
            return replace(self, inputs=self.inputs[numbers], size=len(numbers), mask=mask)
        inputs = {key: value[numbers] for key, value in self.inputs.items()}
        return replace(self, inputs=inputs, size=len(numbers), mask=mask)

    def cut(self, at: int) -> tuple[Batch, Batch] | None:
        """The samples before number ``at``, and the others; None where that cannot be told. The
        items count with the others."""
        if _values(self) is None:
            return None
        before, after = self.take(0, at), self.take(at, self.size)
        return replace(before, items=0, part=True), replace(after, items=self.items, part=True)

    def _values(self) -> Iterable[Any]:
        return [self.inputs] if isinstance(self.inputs, Tensor) else self.inputs.values()

    def take(self, start: int, end: int | None = None) -> Batch:
        """Samples ``start`` to ``end``, not included; one sample without ``end``."""
        end = start + 1 if end is None else end
        mask = None if self.mask is None else self.mask[start:end]

        def some(value: Any) -> Any:
            batched = isinstance(value, Tensor) and value.ndim and len(value) == self.size
            return value[start:end] if batched else value

        if isinstance(self.inputs, Tensor):
            return Batch(self.inputs[start:end], end - start, mask=mask)
        return Batch({k: some(v) for k, v in self.inputs.items()}, end - start, mask=mask)


def logits_of(output: Any) -> Any:
    """The tensor in a model's output that holds the logits: itself, ``.logits`` or the first
    entry."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output


def count_items(data: Any) -> int | None:
    """How many items :func:`read_batches` will read, where that can be known beforehand."""
    if isinstance(data, Tensor | np.ndarray):
        return -(-len(data) // BATCH_SIZE) if data.ndim else None
    try:
        return len(data)
    except TypeError:
        return None


def read_batches(data: Any) -> Iterator[Batch]:
    """Yield the items of ``data`` as batches; small ones of plain tensors are joined.

    ``data`` is a tensor or array of samples, or any iterable of items: tensors ``(B, ...)``, tuples
    or lists whose first entry is such a tensor (the rest, labels, is ignored), or mappings of
    keyword inputs (``labels`` is ignored). Raises :class:`FinepruningError` for anything else, and
    for NaN or infinite values.
    """
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(data)
    if isinstance(data, Tensor):
        if data.ndim < 2:
            raise FinepruningError(
                f"batches: a tensor of shape {tuple(data.shape)} holds no samples; give (N, ...)"
            )
        data = torch.split(data, BATCH_SIZE)
    if isinstance(data, Mapping | str | bytes) or not isinstance(data, Iterable):
        raise FinepruningError(
            f"batches: a {type(data).__name__} is no data;"
            " give a tensor, a DataLoader or a list of batches"
        )
    items = (_batch(item, number) for number, item in enumerate(data))
    # What an iterator gives it may write over.
    yield from joined(items if isinstance(data, Sequence) else (item.copy() for item in items))


def joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Join small batches that follow each other and whose samples are alike."""
    held: Batch | None = None
    for batch in batches:
        both = None if held is None else _join(held, batch)
        if held is not None and both is None:
            yield held
        held = both or batch
    if held is not None:
        yield held


def _join(one: Batch, two: Batch) -> Batch | None:
    """Both in one batch, or None where that would be too large or their samples are not alike."""
    size = one.size + two.size
    if size > BATCH_SIZE or (one.mask is None) != (two.mask is None):
        return None
    a, b = _values(one), _values(two)
    if a is None or b is None or a.keys() != b.keys():
        return None
    if any(_alike(a[key]) != _alike(b[key]) for key in a):
        return None
    both = {key: torch.cat([a[key], b[key]]) for key in a}
    mask = both.pop(" mask", None)
    inputs = both[""] if isinstance(one.inputs, Tensor) else both
    return Batch(inputs, size, one.items + two.items, mask, one.part or two.part)


def _values(batch: Batch) -> dict[str, Tensor] | None:
    """All tensors of a batch; None where some value is not certainly one row for each sample."""
    if isinstance(batch.inputs, Tensor):
        return {"": batch.inputs}
    values = batch.inputs if batch.mask is None else {**batch.inputs, " mask": batch.mask}
    sure = [isinstance(v, Tensor) and v.ndim > 1 and len(v) == batch.size for v in values.values()]
    return dict(values) if all(sure) else None


def _alike(value: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return value.shape[1:], value.dtype, value.device


def _batch(item: Any, number: int) -> Batch:
    where = f"batches: item {number}"
    if isinstance(item, PackedSequence):
        raise FinepruningError(
            f"{where} is a PackedSequence, whose rows are no samples; give the padded tensor, and"
            " let the model pack it"
        )
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item)
    if isinstance(item, Tensor):
        if item.ndim == 0:
            raise FinepruningError(f"{where} is a single number; give tensors (samples, ...)")
        _check_finite(item, where)
        return Batch(item, len(item))
    if not isinstance(item, Mapping):
        raise FinepruningError(
            f"{where} is a {type(item).__name__}; give a tensor, a tuple (inputs, labels) or a dict"
        )
    inputs = {
        str(k): torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in item.items()
        if k not in LABEL_KEYS
    }
    tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and v.ndim}
    for key, value in inputs.items():
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            raise FinepruningError(
                f"{where}[{key!r}] is a list of tensors; give one tensor (samples, ...)"
            )
    if not tensors:
        raise FinepruningError(f"{where} holds no tensor; give a dict of keyword inputs")
    for key, value in tensors.items():
        # An additive attention mask says "not here" with minus infinity.
        _check_finite(value.clamp(min=-1.0) if "mask" in key else value, f"{where}[{key!r}]")
    return Batch(inputs, _size(tensors))


def _where(error: BaseException) -> str:
    """Where in the user's own code an error was raised; empty: it was in a library's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in ("site-packages", "finepruning/", "<")):
            return f" at {frame.filename}:{frame.lineno}"
    return ""


MAIN = ("pixel_values", "input_ids", "input_values", "input_features", "inputs_embeds")
"""What Hugging Face calls the inputs that have one row for each sample."""


def _size(tensors: Mapping[str, Tensor]) -> int:
    """How many samples there are: what most tensors are long, of those that are not one for all."""
    for key in MAIN:
        if key in tensors:
            return len(tensors[key])
    counts = Counter(len(value) for value in tensors.values())
    if len(counts) > 1:
        del counts[1]
    return max(counts, key=lambda size: (counts[size], size))


def _check_finite(value: Tensor, where: str) -> None:
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise FinepruningError(f"{where} holds NaN or infinite values; mend or drop these samples")
